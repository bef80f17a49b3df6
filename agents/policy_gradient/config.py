"""Hyper-parameters of the policy gradient; imports no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.config import PolicyConfig
from dynalay_gym.utils.ranges import (
    Count,
    LearningRate,
    NotNegative,
    Positive,
    Share,
    TotalTimesteps,
)


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig(PolicyConfig):
    """Options of the policy gradient (the paper's agent)."""

    algo: ClassVar[str] = "policy-gradient"
    agent: ClassVar[str] = "agents.policy_gradient.agent:PolicyGradientAgent"
    output: ClassVar[Literal["numpy", "torch"]] = "torch"

    total_timesteps: TotalTimesteps = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: LearningRate = 3e-3
    """Adam's step size; falls linearly to a tenth."""
    num_steps: Count = 8
    """Steps of every sub-environment per rollout; one update per rollout."""
    baseline: Literal["value", "greedy"] = "value"
    """Subtracted from the returns: the value network, or a greedy rollout of the
    policy on the same samples."""
    gae_lambda: Share = 0.95
    """Lambda of the generalised advantages under the value baseline (1: REINFORCE)."""
    epsilon_start: Share = 0.2
    """Share of uniform exploration at the start."""
    epsilon_end: Share = 0.0
    """Share of uniform exploration at the end; falls linearly."""
    entropy_start: NotNegative = 0.3
    """Weight of the entropy bonus at the start."""
    entropy_end: NotNegative = 0.01
    """Weight of the entropy bonus at the end; falls geometrically, so slowly."""
    value_coef: NotNegative = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are clipped to this norm."""

    def num_kept(self, num_envs: int) -> int:
        """Return the decisions of a rollout."""
        return self.num_steps * num_envs

    @property
    def needs_baseline_envs(self) -> bool:
        """The greedy baseline evaluates the policy in an environment of its own."""
        return self.baseline == "greedy"

    @property
    def steps_per_turn(self) -> int:
        """A rollout."""
        return self.num_steps
