"""Policies that a predictor can carry and save: what they are, and the rules.

A policy sees observations and documented info keys, as in an environment with
``output="torch"``, so the same object also walks one.

Axes: m rows that still run, D observation features, A = L + 1 actions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.walk import NOP
from dynalay_gym.errors import ConfigError


class ObservationPolicy(Protocol):
    """All that a predictor asks of a policy."""

    @property
    def macs_per_decision(self) -> int:
        """Multiply-adds of one choice for one input; 0 if it only reads a number."""

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Choose int64 actions [m] for float32 observations [m, D].

        Args:
            observations: Those of the rows that still run.
            infos: ``index`` [m], ``penalty`` [m], ``decisions`` [m] (taken so far) and
                ``action_mask`` [m, A].
        """


@runtime_checkable
class OpenLoopPolicy(ObservationPolicy, Protocol):
    """A policy that knows all its actions from the first observation on.

    A predictor runs such a plan in one sweep: what a decision in between would need to
    see is not computed.
    """

    def plans(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """All actions of each row, NOP last, int64 [m, P]; see ``act``."""


class SavedPolicy(ABC):
    """A policy that is JSON-able options and, for a network, tensors."""

    kind: ClassVar[str]
    macs_per_decision: int = 0

    @property
    def name(self) -> str:
        """Label of its row in tables."""
        return self.kind

    @abstractmethod
    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Choose actions; see ``ObservationPolicy.act``."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """JSON-able facts that, with the tensors, make the policy again."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name."""
        return {}

    @classmethod
    @abstractmethod
    def restore(
        cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "SavedPolicy":
        """Make the policy from what was saved; any misfit raises."""

    @abstractmethod
    def check_fit(self, observation_size: int, num_actions: int) -> None:
        """Raise ConfigError unless it fits observations and actions."""


class PlanPolicy(SavedPolicy):
    """Takes the same actions for every input, then stops; reads nothing.

    Args:
        plan: The layers in order; empty is NOP at once.
    """

    kind = "plan"

    def __init__(self, plan: Sequence[int]) -> None:
        self.plan = tuple(int(action) for action in plan)
        self._actions = torch.tensor([*self.plan, NOP])

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Choose the plan's next action."""
        position = infos["decisions"].clamp(max=len(self.plan))
        return self._actions.to(position.device)[position]

    def plans(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Return the plan for every row."""
        actions = self._actions.to(observations.device)
        return actions.expand(len(observations), -1)

    def options(self) -> dict[str, Any]:
        """The plan."""
        return {"plan": list(self.plan)}

    @classmethod
    def restore(
        cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "PlanPolicy":
        """Make the policy from what was saved."""
        return cls(**options)

    def check_fit(self, observation_size: int, num_actions: int) -> None:
        """Raise ConfigError if the plan names a layer that is not there."""
        if not all(0 <= action < num_actions for action in self.plan):
            raise ConfigError(
                f"plan {self.plan} names a layer outside 1..{num_actions - 1}"
            )


class MaxProbPolicy(SavedPolicy):
    """One decision at the start: stop if the network is sure enough, else the plan.

    How sure is enough depends on the penalty: a polygon through given points, level
    beyond them, never rising, so a higher penalty never iterates more.

    Args:
        column: Where the observation has ``max_prob`` (``observation_layout``).
        plan: The layers in order if it does not stop.
        thresholds: Stop where max_prob is at least this; one per penalty.
        penalties: Ascending penalties that they belong to.

    Raises:
        ConfigError: if the points make no falling polygon.
    """

    kind = "max-prob"

    def __init__(
        self,
        column: int,
        plan: Sequence[int],
        thresholds: Sequence[float],
        penalties: Sequence[float] = (0.0,),
    ) -> None:
        self.column = int(column)
        self.thresholds = [float(x) for x in thresholds]
        self.penalties = [float(x) for x in penalties]
        fits = len(self.thresholds) == len(self.penalties) > 0
        rising = fits and bool(np.all(np.diff(self.penalties) > 0))
        if not (rising and bool(np.all(np.diff(self.thresholds) <= 0))):
            raise ConfigError(
                "a max-prob policy needs one threshold per penalty, penalties rising "
                f"and thresholds not, got {self.penalties} and {self.thresholds}"
            )
        self._plan = PlanPolicy(plan)

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Stop the sure ones, let the others follow the plan."""
        stop = self._is_sure(observations, infos) & (infos["decisions"] == 0)
        return torch.where(stop, NOP, self._plan.act(observations, infos))

    def plans(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """NOP for the sure ones, the plan for the others."""
        stop = self._is_sure(observations, infos)
        return self._plan.plans(observations, infos).masked_fill(stop[:, None], NOP)

    def _is_sure(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        penalty = infos["penalty"]
        known = np.interp(penalty.cpu(), self.penalties, self.thresholds)
        threshold = torch.as_tensor(known, device=penalty.device)
        return observations[:, self.column].double() >= threshold

    def options(self) -> dict[str, Any]:
        """Column, plan and polygon."""
        return {
            "column": self.column,
            "plan": list(self._plan.plan),
            "thresholds": self.thresholds,
            "penalties": self.penalties,
        }

    @classmethod
    def restore(
        cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "MaxProbPolicy":
        """Make the policy from what was saved."""
        return cls(**options)

    def check_fit(self, observation_size: int, num_actions: int) -> None:
        """Raise ConfigError if column or plan lie outside."""
        if not 0 <= self.column < observation_size:
            raise ConfigError(
                f"column {self.column} lies outside the {observation_size} features"
            )
        self._plan.check_fit(observation_size, num_actions)
