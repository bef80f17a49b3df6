"""Hyper-parameters of the policy gradient; imports no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.config import PolicyConfig
from dynalay_gym.utils.flags import check_range


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig(PolicyConfig):
    """Options of the policy gradient (the paper's agent)."""

    algo: ClassVar[str] = "policy-gradient"
    agent: ClassVar[str] = "agents.policy_gradient.agent:PolicyGradientAgent"
    output: ClassVar[Literal["numpy", "torch"]] = "torch"

    total_timesteps: int = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 3e-3
    """Adam's step size; falls linearly to a tenth."""
    num_steps: int = 8
    """Steps of every sub-environment per rollout; one update per rollout."""
    baseline: Literal["value", "greedy"] = "value"
    """Subtracted from the returns: the value network, or a greedy rollout of the
    policy on the same samples."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantages under the value baseline (1: REINFORCE)."""
    epsilon_start: float = 0.2
    """Share of uniform exploration at the start."""
    epsilon_end: float = 0.0
    """Share of uniform exploration at the end; falls linearly."""
    entropy_start: float = 0.3
    """Weight of the entropy bonus at the start."""
    entropy_end: float = 0.01
    """Weight of the entropy bonus at the end; falls geometrically, so slowly."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        super().__post_init__()
        self.check_positive("learning_rate num_steps max_grad_norm")
        self.check_shares("gae_lambda epsilon_start epsilon_end")
        names = "entropy_start entropy_end"
        check_range(self, names, lambda x: x >= 0, "be at least 0", self.algo)

    @property
    def needs_baseline_envs(self) -> bool:
        """The greedy baseline evaluates the policy in an environment of its own."""
        return self.baseline == "greedy"

    @property
    def steps_per_turn(self) -> int:
        """A rollout."""
        return self.num_steps
