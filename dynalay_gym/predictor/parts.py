"""What every exported part has in common, and the part of the policy.

Axes: n inputs, F features of the network, D of an observation, A actions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynalay_gym.envs.observation import EpisodeState, shown_penalty
from dynalay_gym.networks.policy import Policy
from dynalay_gym.predictor.policies import NetworkPolicy

EXAMPLE_ROWS = 3  # a batch that no exporter takes for a constant


class Part(NamedTuple):
    """One network to export: file name, module, example inputs, names of outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class FirstObservation(nn.Module):
    """What a policy sees before its first decision.

    Args:
        num_actions: Actions A.
        penalty_unit: Penalty that is shown as 1/2.
    """

    def __init__(self, num_actions: int, penalty_unit: float) -> None:
        super().__init__()
        self.penalty_unit = penalty_unit
        start = EpisodeState(1, num_actions, max_decisions=1).features()
        self.register_buffer("start", torch.from_numpy(start))

    def forward(self, seen: Tensor, penalty: Tensor) -> Tensor:
        """Return observations [n, D] of features [n, F] and penalties [n]."""
        penalty, start = penalty[:, None], self.get_buffer("start")
        rest = torch.zeros_like(penalty) + start[:, 1:]  # what follows the penalty
        return torch.cat([seen, shown_penalty(penalty, self.penalty_unit), rest], 1)


def policy_parts(policy: Policy) -> list[Part]:
    """Return the policy as a part; none if it is no network."""
    if not isinstance(policy, NetworkPolicy):
        return []
    inputs = {"observation": example(policy.sizes[0])}
    return [Part("policy", policy.net, inputs, ("scores",))]


def example(*shape: int) -> Tensor:
    """Return a batch of example inputs of a shape, each in [0, 1)."""
    return torch.rand(EXAMPLE_ROWS, *shape, generator=torch.Generator().manual_seed(0))
