"""Hyper-parameters of exact learning; imports no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config import AgentConfig
from dynalay_gym.utils.ranges import Count, LearningRate, TotalTimesteps

Temperature = Annotated[float, Meta(ge=1e-6, le=1e9)]


@dataclass(frozen=True, kw_only=True)
class ExactConfig(AgentConfig):
    """Options of exact learning from the transition table."""

    algo: ClassVar[str] = "exact"
    agent: ClassVar[str] = "agents.exact.agent:ExactAgent"
    needs_table: ClassVar[bool] = True

    total_timesteps: TotalTimesteps = 1_200_000
    """Nodes (one input after some decisions) to train on unless --total-timesteps says
    otherwise."""
    learning_rate: LearningRate = 3e-3
    """Adam's step size; falls linearly to a tenth."""
    batch_size: Count = 128
    """Inputs per gradient step, each with all its nodes."""
    temperature_start: Temperature = 0.1
    """Temperature of the soft policy at the start, in units of the return."""
    temperature_end: Temperature = 0.01
    """Temperature at the end; falls geometrically."""

    @property
    def steps_per_turn(self) -> int:
        """As long as PPO's: exact learning itself steps nothing."""
        return 64
