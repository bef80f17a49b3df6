"""Options of co-training: a dataclass without torch, so that help is instant."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    CountOrNone,
    Iterations,
    LearningRate,
    NotNegative,
    Positive,
    Share,
    Timesteps,
    Tolerance,
    check_fields,
)


@dataclass(frozen=True, kw_only=True)
class CoTrainingConfig:
    """How the main network learns beside an agent."""

    main_epochs: CountOrNone | None = None
    """Warm-up of a fresh main network: passes over the main split before any agent; 0
    leaves it untrained. Default: none, start from --checkpoint (or the shipped one)."""
    agent_steps: Timesteps = 50_000
    """Warm-up of the agent: decisions on the frozen network before both learn."""
    update_ratio: Positive = 1.0
    """Samples that the main network learns from per decision of the agent. For exact a
    decision is a node, of which it learns from all: there, about 0.1 is like 1."""
    every: Count | None = None
    """Decisions of each row between two turns of the main network. Default: the
    algorithm's rollout. Exact has its turns after a pass, one for so many nodes."""
    batch_size: BatchSize = 128
    """Samples of the main split per optimiser step."""
    learning_rate: LearningRate = 1e-3
    """Step size of the main network's AdamW; falls linearly to a tenth."""
    weight_decay: NotNegative = 5e-3
    """Weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """The main network's gradients are clipped to this norm."""
    gradients: Literal["chosen", "path"] = "chosen"
    """Who learns from a sample: the layers chosen for it (and the head), or every
    layer on its way."""
    keep_share: Share = 0.25
    """Extra samples per step, as a share of the batch, that keep every state usable:
    in the plain, the full and one random state, all layers learning. They also move
    the normalisation's statistics."""
    replay_share: Annotated[float, Meta(ge=0, lt=1)] = 0.25
    """Share of a batch that are recent samples, in the states of then."""
    replay_size: Count = 2048
    """How many recent samples to take them from."""
    epsilon_start: Share = 0.2
    """Share of random decisions on the main split when both begin to learn."""
    epsilon_end: Share = 0.02
    """Share of random decisions there at the end; falls linearly."""
    loss_lambda: NotNegative = 0.2
    """Weight of the return in the total loss that is logged, CE - lambda R."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the main network's optimiser steps: fp32, or bf16 autocast."""
    adjoint_rtol: Tolerance = 0.1
    """Relative tolerance of the implicit gradient."""
    adjoint_max_steps: Iterations = 4
    """Most iterations of the implicit gradient."""
    validations: Count = 20
    """Evaluations on the validation split, each with a saved state to resume from."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        check_fields(self, "co")

    def check_batch(self, num_samples: int) -> None:
        """Raise ConfigError if a batch is larger than the main split."""
        if self.batch_size > num_samples:
            raise ConfigError(
                f"--co.batch-size is larger than the {num_samples} samples of the main "
                "split"
            )
