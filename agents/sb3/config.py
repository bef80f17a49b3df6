"""Hyper-parameters of Stable-Baselines3's algorithms; imports neither it nor torch."""

from dataclasses import dataclass
from typing import ClassVar

from agents.config import AgentConfig, PolicyConfig


@dataclass(frozen=True, kw_only=True)
class SB3Config(AgentConfig):
    """What the agent of Stable-Baselines3 has to know of an algorithm.

    A field that neither this class nor `PolicyConfig` has is an argument of the
    algorithm's class.

    Attributes:
        sb3_class: Class of ``stable_baselines3``.
        log_interval: Rollouts (DQN: episodes) between two records of its metrics.
    """

    agent: ClassVar[str] = "agents.sb3.agent:SB3Agent"
    sb3_class: ClassVar[str]
    log_interval: ClassVar[int]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(PolicyConfig, SB3Config):
    """What Stable-Baselines3's PPO and A2C have in common."""

    learning_rate: float = 1e-3
    """The optimiser's step size: Adam's (ppo), RMSprop's (a2c)."""
    n_steps: int
    """Steps of every sub-environment per rollout."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantages."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        super().__post_init__()
        self.check_positive("learning_rate n_steps")
        self.check_shares("gae_lambda")

    @property
    def steps_per_turn(self) -> int:
        """A rollout."""
        return self.n_steps


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """Options of Stable-Baselines3's PPO."""

    algo: ClassVar[str] = "ppo"
    sb3_class: ClassVar[str] = "PPO"
    log_interval: ClassVar[int] = 1
    num_envs: ClassVar[int] = 256

    total_timesteps: int = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: float = 2e-3
    """Adam's step size; falls linearly to a tenth."""
    initial_stop_probability: float | None = 0.05
    """Probability of stopping at the start of the training. None: the network's own,
    as probable as every other action."""
    n_steps: int = 16
    """Steps of every sub-environment per rollout."""
    batch_size: int = 1024
    """Decisions per gradient step, at most those of a rollout."""
    n_epochs: int = 10
    """Passes over each rollout."""
    clip_range: float = 0.2
    """How far a probability ratio counts."""
    ent_coef: float = 0.005
    """Weight of the entropy bonus: too little, and the policy collapses to NOP."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        super().__post_init__()
        self.check_positive("batch_size n_epochs")


@dataclass(frozen=True, kw_only=True)
class A2CConfig(ActorCriticConfig):
    """Options of Stable-Baselines3's A2C."""

    algo: ClassVar[str] = "a2c"
    sb3_class: ClassVar[str] = "A2C"
    log_interval: ClassVar[int] = 10

    total_timesteps: int = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    n_steps: int = 16
    """Steps of every sub-environment per rollout; one update per rollout."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""


@dataclass(frozen=True, kw_only=True)
class DQNConfig(SB3Config):
    """Options of Stable-Baselines3's DQN."""

    algo: ClassVar[str] = "dqn"
    sb3_class: ClassVar[str] = "DQN"
    log_interval: ClassVar[int] = 1000

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

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        super().__post_init__()
        self.check_positive("learning_rate buffer_size batch_size gradient_steps")
        self.check_positive("train_freq target_update_interval")
        self.check_shares("exploration_fraction exploration_final_eps")

    @property
    def steps_per_turn(self) -> int:
        """Rarer than its own updates, which come after every step."""
        return 16
