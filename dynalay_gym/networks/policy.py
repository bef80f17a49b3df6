"""What a policy is, and the two that everything else builds on: a plan and a network.

The same object runs in an environment, whatever its output, and in a predictor: it sees
observations and documented info keys, nothing else.

Axes: N rows, n samples, T decisions, D observation features, A actions.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError

Array = TypeVar("Array", NDArray[Any], Tensor)
Infos = Mapping[str, Any]
NOP = 0  # the action that stops, in every session and environment


class Policy(Protocol):
    """Anything that chooses actions: a learned network or a fixed rule."""

    @property
    def name(self) -> str:
        """Label of the policy in tables."""

    @property
    def macs_per_decision(self) -> int:
        """Multiply-adds of one choice for one input; 0 if it only reads a number."""

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose an action for every row.

        Args:
            observations: float32 [N, D], NumPy array or tensor.
            infos: ``index`` int64 [N] (the sample), ``penalty`` float32 [N],
                ``decisions`` int64 [N] (taken so far in the episode) and
                ``action_mask`` int8 [N, A] (1 where an action can change something),
                of the same kind as the observations.

        Returns:
            Actions int64 [N], of the same kind and on the same device as the
            observations.
        """


class PlanPolicy:
    """Takes the actions of a plan in order, then stops.

    Args:
        plan: One plan [T] for every row, or one per sample [n, T], which is looked up
            by ``infos["index"]``. NOP (0) stops, so it also pads short plans.
        name: Label of the policy in tables.

    Attributes:
        reads_observations: Whether `act` and `plans` look at the observations; a
            predictor does not make them otherwise.

    Raises:
        ConfigError: The plan is neither a list of integers nor a list of such lists;
            later, a sample has none.
    """

    macs_per_decision = 0
    reads_observations = False

    def __init__(self, plan: ArrayLike, *, name: str = "plan") -> None:
        actions = np.asarray(plan)
        if actions.ndim not in (1, 2) or (actions.size and actions.dtype.kind != "i"):
            raise ConfigError(f"a plan is integers [T] or [n, T], got {plan!r}")
        self.name = name
        self.per_sample = actions.ndim == 2
        self.actions: NDArray[np.int64]  # [1 or n, T + 1], NOP last
        self.actions = np.pad(
            np.atleast_2d(actions).astype(np.int64),
            [(0, 0), (0, 1)],
            constant_values=NOP,
        )

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose the plan's next action; see ``Policy.act``."""
        decision = infos["decisions"].clip(max=self.actions.shape[1] - 1)
        chosen: Array = like(self.actions, observations)[self._rows(infos), decision]
        return chosen

    def plans(self, observations: Array, infos: Infos) -> Array:
        """Return all actions of every row, int64 [N, T + 1], the last one NOP.

        Whoever runs the network can follow them without a look in between.
        """
        found: Array = like(self.actions, observations)[self._rows(infos)]
        return found

    def _rows(self, infos: Infos) -> Any:
        """Return which plan each row follows, int64 [N]."""
        rows = infos["index"] * self.per_sample
        if self.per_sample and len(rows) and int(rows.max()) >= len(self.actions):
            raise ConfigError(
                f"{self.name} has plans for {len(self.actions)} samples, and was asked "
                f"for that of sample {int(rows.max())}; give one plan per sample"
            )
        return rows


class GreedyNetPolicy:
    """Takes the allowed action that a network scores highest.

    Args:
        net: Maps observations [N, D] to scores [N, A]: log-probabilities or Q values.
            It is shared, not copied: training it changes the policy.
        name: Label of the policy in tables.
        macs_per_decision: Multiply-adds of one choice for one input. None takes
            ``net.macs`` where there is one, else the sizes of all linear layers.
    """

    def __init__(
        self, net: nn.Module, *, name: str, macs_per_decision: int | None = None
    ) -> None:
        self.net, self.name = net, name
        if macs_per_decision is None:
            macs_per_decision = _count_macs(net)
        self.macs_per_decision = macs_per_decision
        self._weight = next(net.parameters())  # finding it takes time

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose the best allowed action; see ``Policy.act``."""
        device = self._weight.device
        mask = torch.as_tensor(infos["action_mask"], device=device)
        with torch.no_grad():
            scores: Tensor = self.net(torch.as_tensor(observations, device=device))
        actions = scores.masked_fill(mask == 0, -torch.inf).argmax(dim=-1)
        return like(actions, observations)


def _count_macs(net: nn.Module) -> int:
    layers = (part for part in net.modules() if isinstance(part, nn.Linear))
    linear_macs = sum(layer.weight.numel() for layer in layers)
    return int(getattr(net, "macs", linear_macs))


def as_numpy(values: Any) -> NDArray[Any]:
    """Return an array or tensor as a NumPy array on the host, without gradient."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def like(values: Tensor | NDArray[Any], reference: Array) -> Array:
    """Return values as the reference's kind, and on its device if it is a tensor."""
    if isinstance(reference, Tensor):
        return torch.as_tensor(values, device=reference.device)
    return as_numpy(values)
