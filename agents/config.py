"""Hyper-parameters of every algorithm: keyword-only dataclasses without torch.

Discount is 1 everywhere: an episode has at most L + 1 decisions, and its return is
the reward that the environment defines. Defaults were chosen on the validation split
of `DynaLay/Digits-v0`.
"""

from dataclasses import dataclass
from typing import Literal

from dynalay_gym.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig:
    """Options of the policy gradient (the paper's agent)."""

    total_timesteps: int = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 3e-3
    """Adam's step size; falls linearly to a tenth."""
    num_steps: int = 8
    """Steps of every sub-environment per rollout; one update per rollout."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the torso (and of the value network)."""
    baseline: Literal["value", "greedy"] = "value"
    """Subtracted from the returns: the value network, or a greedy rollout of the
    policy on the same samples."""
    trace: float = 0.95
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
        _check_positive(self, "learning_rate", "num_steps", "max_grad_norm")
        _check_shares(self, "trace", "epsilon_start", "epsilon_end")
        if min(self.entropy_start, self.entropy_end) < 0:
            raise ConfigError("entropy_start and entropy_end must be at least 0")


@dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """Options of exact learning from the transition table."""

    total_timesteps: int = 1_200_000
    """Nodes (one input after some decisions) to train on unless --total-timesteps says
    otherwise."""
    learning_rate: float = 3e-3
    """Adam's step size; falls linearly to a tenth."""
    batch_size: int = 128
    """Inputs per gradient step, each with all its nodes."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the torso."""
    temperature_start: float = 0.1
    """Temperature of the soft policy at the start, in units of the return."""
    temperature_end: float = 0.01
    """Temperature at the end; falls geometrically."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        _check_positive(self, "learning_rate", "batch_size")
        _check_positive(self, "temperature_start", "temperature_end")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Options of Stable-Baselines3's PPO."""

    total_timesteps: int = 100_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    n_steps: int = 64
    """Steps of every sub-environment per rollout."""
    batch_size: int = 512
    """Decisions per gradient step."""
    n_epochs: int = 10
    """Passes over each rollout."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantages."""
    clip_range: float = 0.2
    """How far a probability ratio counts."""
    ent_coef: float = 0.02
    """Weight of the entropy bonus: too little, and the policy collapses to NOP."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy and of the value network."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        _check_positive(self, "learning_rate", "n_steps", "batch_size", "n_epochs")
        _check_shares(self, "gae_lambda")


@dataclass(frozen=True, kw_only=True)
class A2CConfig:
    """Options of Stable-Baselines3's A2C."""

    total_timesteps: int = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 1e-3
    """RMSprop's step size."""
    n_steps: int = 16
    """Steps of every sub-environment per rollout; one update per rollout."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantages."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy and of the value network."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        _check_positive(self, "learning_rate", "n_steps")
        _check_shares(self, "gae_lambda")


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Options of Stable-Baselines3's DQN."""

    total_timesteps: int = 60_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 5e-4
    """Adam's step size."""
    buffer_size: int = 50_000
    """Transitions kept for replay."""
    learning_starts: int = 2_000
    """Steps taken at random before learning."""
    batch_size: int = 256
    """Transitions per gradient step."""
    train_freq: int = 1
    """Steps of every sub-environment between updates."""
    gradient_steps: int = 4
    """Gradient steps per update."""
    target_update_interval: int = 2_000
    """Steps between copies into the target network."""
    exploration_fraction: float = 0.5
    """Share of the training over which exploration falls."""
    exploration_final_eps: float = 0.05
    """Share of random actions after that."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the Q network."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        _check_positive(
            self, "learning_rate", "buffer_size", "batch_size", "gradient_steps"
        )
        _check_positive(self, "train_freq", "target_update_interval")
        _check_shares(self, "exploration_fraction", "exploration_final_eps")


SB3Config = PPOConfig | A2CConfig | DQNConfig
AgentConfig = PolicyGradientConfig | ExactConfig | SB3Config
CONFIGS: dict[str, type[AgentConfig]] = {
    "policy-gradient": PolicyGradientConfig,
    "exact": ExactConfig,
    "ppo": PPOConfig,
    "a2c": A2CConfig,
    "dqn": DQNConfig,
}


def _check_positive(config: AgentConfig, *names: str) -> None:
    """Raise ConfigError if a field is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(_complaint(config, name, "must be above 0"))


def _check_shares(config: AgentConfig, *names: str) -> None:
    """Raise ConfigError if a field is outside [0, 1]."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ConfigError(_complaint(config, name, "must lie in [0, 1]"))


def _complaint(config: AgentConfig, name: str, rule: str) -> str:
    """Return the error message for one field, with the flag that sets it."""
    algo = next(key for key, kind in CONFIGS.items() if isinstance(config, kind))
    flag = f"--{algo}.{name.replace('_', '-')}"
    return f"{flag} {rule}, got {getattr(config, name)}"
