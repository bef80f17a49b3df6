"""What a policy, a baseline or a report may know of an environment."""

import torch

from dynalay_gym.envs.dynamics import DecisionProblem, LayerDynamics
from dynalay_gym.envs.walk import NOP


class EnvProperties:
    """Read-only public facts of the decision problem."""

    problem: DecisionProblem
    dynamics: LayerDynamics
    nop_action = NOP

    @property
    def device(self) -> torch.device:
        """Device of the network and of ``torch`` output."""
        return self.problem.session.device

    @property
    def observation_layout(self) -> dict[str, slice]:
        """Where each part of the flat observation lies."""
        return dict(self.dynamics.observer.layout)

    @property
    def num_layers(self) -> int:
        """Selectable layers L."""
        return self.problem.session.num_layers

    @property
    def num_classes(self) -> int:
        """Classes K."""
        return self.problem.session.num_classes

    @property
    def num_samples(self) -> int:
        """Samples of the split."""
        return len(self.problem.labels)

    @property
    def max_decisions(self) -> int:
        """Most decisions of an episode."""
        return self.problem.max_decisions

    @property
    def penalty_range(self) -> tuple[float, float]:
        """Lowest and highest penalty."""
        return self.problem.penalty_range

    @property
    def plain_macs(self) -> int:
        """MACs of the plain pass."""
        return self.problem.session.costs.plain_pass

    @property
    def always_extra_macs(self) -> float:
        """Mean extra MACs of *always* on the agent split: the unit of cost."""
        return self.problem.cost_unit

    @property
    def alpha(self) -> float:
        """Weight of a right answer."""
        return self.problem.alpha

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.problem.split
