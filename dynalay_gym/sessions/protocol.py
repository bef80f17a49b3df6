"""A batched network run as a state machine; no Gymnasium.

Axes: n rows (one sample each), L layers, K classes, F pooled features.
A row's state depends only on *which* layers sit on their fixed point: choosing layer l
brings it there, and everything above is applied plainly, from zero, on its new input.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.main_layers import Activations
from dynalay_gym.sessions.activations import Rows


class LayerMaps(Protocol):
    """One layer's maps of n rows, to be looked at."""

    @property
    def y(self) -> Tensor:
        """Visible activations of all rows [n, C, H, W]."""

    def at(self, rows: Rows) -> Activations:
        """Some rows, int64 [m], or all."""

    def clone(self) -> Self:
        """Independent copy."""


@dataclass
class SessionState:
    """Networks in progress, one per row.

    Attributes:
        layers: Activations below layer 1 (the stem's), then of layers 1..L.
        features: Pooled activations of the layers side by side, [n, F].
        logits: Current answer [n, K].
        path: Which layers sit on their fixed point, bit pattern int64 [n].
        residual: Relative residual of its last solve, float [n, L]; 1 if only plain.
    """

    layers: Sequence[LayerMaps]
    features: Tensor
    logits: Tensor
    path: Tensor
    residual: Tensor

    @property
    def iterated(self) -> Tensor:
        """Whether a layer sits on its fixed point, bool [n, L]."""
        facts = bits_of_states(self.residual.shape[1]).to(self.path.device)
        return facts.index_select(0, self.path)

    def summary(self, rows: Tensor) -> "SessionState":
        """What an observer reads of some rows (int64 [m]): all but the maps."""
        return SessionState(
            layers=[],
            features=self.features[rows],
            logits=self.logits[rows],
            path=self.path[rows],
            residual=self.residual[rows],
        )

    def clone(self) -> "SessionState":
        """Independent copy."""
        return SessionState(
            layers=[layer.clone() for layer in self.layers],
            features=self.features.clone(),
            logits=self.logits.clone(),
            path=self.path.clone(),
            residual=self.residual.clone(),
        )


def row_numbers(state: SessionState, rows: Rows) -> NDArray[np.int64]:
    """Some rows (int64 [m]), or all, as numbers on the host."""
    return np.arange(len(state.path)) if isinstance(rows, slice) else rows.numpy()


@cache
def bits_of_states(num_layers: int) -> Tensor:
    """Which layers sit on their fixed point in each state, bool [2^L, L]."""
    states = torch.arange(2**num_layers)[:, None]
    return (states >> torch.arange(num_layers) & 1).bool()


@dataclass(frozen=True)
class StepCost:
    """What a choice took, per chosen row.

    Attributes:
        counts: Multiply-adds executed, iterations taken, and the worst
            ``SolverStatus``, int64 [3, m].
    """

    counts: Tensor

    @property
    def macs(self) -> Tensor:
        """Multiply-adds executed, int64 [m]."""
        return self.counts[0]

    @property
    def solver_steps(self) -> Tensor:
        """Iterations taken, int64 [m]."""
        return self.counts[1]

    @property
    def status(self) -> Tensor:
        """``SolverStatus`` values, int64 [m]."""
        return self.counts[2]


class LayerSession(Protocol):
    """All that an environment asks of a network."""

    num_layers: int
    num_classes: int
    feature_sizes: tuple[int, ...]
    costs: CostTable
    device: torch.device
    solver: SolverConfig

    def begin(self, inputs: Tensor) -> SessionState:
        """Plain pass over new inputs."""

    def restart(self, state: SessionState, rows: Tensor, inputs: Tensor) -> None:
        """Plain pass over new inputs in some rows of a state."""

    def apply(self, state: SessionState, rows: Tensor, layers: Tensor) -> StepCost:
        """Bring layer ``layers[i]`` of row ``rows[i]`` to its fixed point; 0: none."""

    def reach(
        self, state: SessionState, rows: Rows, paths: Tensor, *, final: bool = False
    ) -> StepCost:
        """Bring row ``rows[i]`` from its plain pass to state ``paths[i]``."""

    def residual_curves(self, state: SessionState, row: int) -> list[list[float]]:
        """Residuals along each layer's solve; empty for a plainly applied layer."""

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; states begun before are void."""

    def digest(self) -> str:
        """Hash of the network and its solver: equal ones do the same."""


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 of named tensors: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
