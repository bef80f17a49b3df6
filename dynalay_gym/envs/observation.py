"""Activations as an observation with finite bounds.

Axes: n rows, L layers, A = L + 1 actions, D observation features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.sessions.accel.observation import observe_episode, observe_network
from dynalay_gym.sessions.activations import ALL, Rows
from dynalay_gym.sessions.protocol import SessionState, row_numbers


@dataclass
class EpisodeState:
    """Where each row stands in its episode, [n] each.

    Attributes:
        index: Sample of the split, int64.
        penalty: Weight of compute, float32.
        last_action: Last action, int64; -1 after reset.
        consecutive: How often in a row it was chosen, int64.
        decisions: Decisions taken, int64.
    """

    index: Tensor
    penalty: Tensor
    last_action: Tensor
    consecutive: Tensor
    decisions: Tensor

    def advance(self, rows: Any, actions: Any) -> None:
        """Count one action in each of the rows; tensors and arrays alike."""
        same = self.last_action[rows] == actions
        self.consecutive[rows] = self.consecutive[rows] * same + 1
        self.last_action[rows] = actions
        self.decisions[rows] += 1

    def take(self, rows: Tensor) -> "EpisodeState":
        """Copy of some rows (int64 [m])."""
        return EpisodeState(*(getattr(self, f.name)[rows] for f in fields(self)))


class ActivationObserver:
    """Flat observation [n, D] of activations and episode, every entry in [0, 1].

    Args:
        feature_sizes: Pooled features of each layer.
        max_decisions: Most decisions of an episode.
    """

    def __init__(self, feature_sizes: Sequence[int], max_decisions: int) -> None:
        num_layers = len(feature_sizes)
        sizes = {f"activations/{i}": size for i, size in enumerate(feature_sizes)}
        sizes |= {"max_prob": 1, "entropy": 1, "margin": 1}
        sizes |= {"residual": num_layers, "iterated": num_layers, "penalty": 1}
        sizes |= {"last_action": num_layers + 1, "consecutive": 1, "remaining": 1}
        self.layout: dict[str, slice] = {}
        self.size = 0
        for name, size in sizes.items():
            self.layout[name] = slice(self.size, self.size + size)
            self.size += size
        self.num_actions = num_layers + 1
        self._one_hot = torch.eye(self.num_actions + 1)[:, 1:]
        self.max_decisions = max_decisions

    def __call__(
        self, state: SessionState, episode: EpisodeState, rows: Rows = ALL
    ) -> Tensor:
        """Observe some rows (int64 [m]) or all: float32 [m, D]."""
        if episode.decisions.is_cpu and not torch.compiler.is_exporting():
            return self._observe_on_cpu(state, episode, rows)
        if not isinstance(rows, slice):
            state, episode = state.summary(rows), episode.take(rows)
        return torch.cat([*self.network_parts(state), *self.episode_parts(episode)], 1)

    def network(self, state: SessionState) -> Tensor:
        """What is seen of the network, of all rows: float32 [n, D'], D' < D."""
        if not state.logits.is_cpu:
            return torch.cat(self.network_parts(state), 1)
        seen = np.empty((len(state.path), self.layout["penalty"].start), np.float32)
        _observe_network(state, np.arange(len(seen)), seen)
        return torch.from_numpy(seen)

    def _observe_on_cpu(
        self, state: SessionState, episode: EpisodeState, rows: Rows
    ) -> Tensor:
        """The same in one pass."""
        where = row_numbers(state, rows)
        seen = np.empty((len(where), self.size), dtype=np.float32)
        _observe_network(state, where, seen)
        observe_episode(
            episode.penalty.numpy(),
            episode.last_action.numpy(),
            episode.consecutive.numpy(),
            episode.decisions.numpy(),
            self.max_decisions,
            self.num_actions,
            where,
            seen,
        )
        return torch.from_numpy(seen)

    def network_parts(self, state: SessionState) -> list[Tensor]:
        """What is seen of the network: the slices before ``penalty``."""
        return [
            squash(state.features),
            softmax_summary(state.logits),
            state.residual.nan_to_num(nan=1.0).clamp(max=1.0),
            state.iterated.float(),
        ]

    def episode_parts(self, episode: EpisodeState) -> list[Tensor]:
        """What is seen of the episode: the slices from ``penalty`` on."""
        return [
            squash(episode.penalty)[:, None],
            self._last_action(episode.last_action),
            episode.consecutive[:, None] / self.max_decisions,
            1 - episode.decisions[:, None] / self.max_decisions,
        ]

    def _last_action(self, action: Tensor) -> Tensor:
        """One-hot [n, A]; all zero for -1."""
        return self._one_hot.to(action.device).index_select(0, action + 1)


def _observe_network(
    state: SessionState, rows: NDArray[np.int64], seen: NDArray[np.float32]
) -> None:
    observe_network(
        state.features.numpy(),
        state.logits.numpy(),
        state.residual.numpy(),
        state.path.numpy(),
        rows,
        seen,
    )


@cache
def observer_of(
    feature_sizes: tuple[int, ...], max_decisions: int
) -> ActivationObserver:
    """The observer of these sizes; it has no state, so one serves all."""
    return ActivationObserver(feature_sizes, max_decisions)


def squash(x: Tensor) -> Tensor:
    """Map [0, inf] to [0, 1]: ``x / (1 + x)``; an overflowed activation is 1."""
    return (x / (1 + x)).nan_to_num(nan=1.0)


def softmax_summary(logits: Tensor) -> Tensor:
    """Largest probability, entropy / log K, and margin of the two largest: [n, 3]."""
    log_probs = logits.log_softmax(1)
    probs = log_probs.exp()
    top = probs.topk(2, dim=1).values
    entropy = (probs * log_probs).sum(1) / -math.log(logits.shape[1])
    summary = torch.stack([top[:, 0], entropy, top[:, 0] - top[:, 1]], 1)
    return summary.nan_to_num(nan=1.0).clamp(0.0, 1.0)
