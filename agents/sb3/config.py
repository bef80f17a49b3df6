"""Hyper-parameters of Stable-Baselines3's algorithms; imports neither it nor torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config import AgentConfig, PolicyConfig, Probability
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    LearningRate,
    NotNegative,
    Positive,
    Share,
    Timesteps,
    TotalTimesteps,
)


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

    learning_rate: LearningRate = 1e-3
    """The optimiser's step size: Adam's (ppo), RMSprop's (a2c)."""
    n_steps: Count
    """Steps of every sub-environment per rollout."""
    gae_lambda: Share = 0.95
    """Lambda of the generalised advantages."""
    max_grad_norm: Positive = 0.5
    """Gradients are clipped to this norm."""

    def num_kept(self, num_envs: int) -> int:
        """Return the decisions of a rollout."""
        return self.n_steps * num_envs

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

    total_timesteps: TotalTimesteps = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: LearningRate = 2e-3
    """Adam's step size; falls linearly to a tenth."""
    initial_stop_probability: Probability | None = 0.05
    """Probability of stopping at the start of the training. None: the network's own,
    as probable as every other action."""
    n_steps: Count = 16
    """Steps of every sub-environment per rollout."""
    batch_size: BatchSize = 1024
    """Decisions per gradient step, at most those of a rollout."""
    n_epochs: Count = 10
    """Passes over each rollout."""
    clip_range: Positive = 0.2
    """How far a probability ratio counts."""
    ent_coef: NotNegative = 0.005
    """Weight of the entropy bonus: too little, and the policy collapses to NOP."""

    def num_learned(self, num_envs: int) -> int:
        """Return the decisions of a minibatch."""
        return min(self.batch_size, self.num_kept(num_envs))


@dataclass(frozen=True, kw_only=True)
class A2CConfig(ActorCriticConfig):
    """Options of Stable-Baselines3's A2C."""

    algo: ClassVar[str] = "a2c"
    sb3_class: ClassVar[str] = "A2C"
    log_interval: ClassVar[int] = 10

    total_timesteps: TotalTimesteps = 200_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    n_steps: Count = 16
    """Steps of every sub-environment per rollout; one update per rollout."""
    ent_coef: NotNegative = 0.01
    """Weight of the entropy bonus."""


@dataclass(frozen=True, kw_only=True)
class DQNConfig(SB3Config):
    """Options of Stable-Baselines3's DQN."""

    algo: ClassVar[str] = "dqn"
    sb3_class: ClassVar[str] = "DQN"
    log_interval: ClassVar[int] = 1000

    total_timesteps: TotalTimesteps = 60_000
    """Decisions to train on unless --total-timesteps says otherwise."""
    learning_rate: LearningRate = 5e-4
    """Adam's step size."""
    buffer_size: Annotated[int, Meta(ge=1, le=10**9)] = 50_000
    """Transitions kept for replay."""
    learning_starts: Timesteps = 2_000
    """Steps taken at random before learning."""
    batch_size: Count = 256
    """Transitions per gradient step."""
    train_freq: Count = 1
    """Steps of every sub-environment between updates."""
    gradient_steps: Count = 4
    """Gradient steps per update."""
    target_update_interval: Count = 2_000
    """Steps between copies into the target network."""
    exploration_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Share of the training over which exploration falls."""
    exploration_final_eps: Share = 0.05
    """Share of random actions after that."""

    def num_kept(self, num_envs: int) -> int:
        """Return the transitions of the replay buffer."""
        return max(self.buffer_size, num_envs)

    def num_learned(self, num_envs: int) -> int:
        """Return the transitions of a batch."""
        return self.batch_size

    @property
    def steps_per_turn(self) -> int:
        """Rarer than its own updates, which come after every step."""
        return 16
