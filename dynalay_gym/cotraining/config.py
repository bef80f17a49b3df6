"""Options of co-training: a dataclass without torch, so that help is instant."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.flags import check_range

_POSITIVE = "update_ratio learning_rate max_grad_norm adjoint_rtol"
_SHARES = "keep_share replay_share epsilon_start epsilon_end"
_AT_LEAST = (  # 0, 1, 2
    "loss_lambda weight_decay agent_steps adjoint_max_steps main_epochs",
    "every replay_size validations",
    "batch_size",
)


@dataclass(frozen=True, kw_only=True)
class CoTrainingConfig:
    """How the main network learns beside an agent."""

    main_epochs: int | None = None
    """Warm-up of a fresh main network: passes over the main split before any agent; 0
    leaves it untrained. Default: none, start from --checkpoint (or the shipped one)."""
    agent_steps: int = 50_000
    """Warm-up of the agent: decisions on the frozen network before both learn."""
    update_ratio: float = 1.0
    """Samples that the main network learns from per decision of the agent. For exact a
    decision is a node, of which it learns from all: there, about 0.1 is like 1."""
    every: int | None = None
    """Decisions of each row between two turns of the main network. Default: the
    algorithm's rollout. Exact has its turns after a pass, one for so many nodes."""
    batch_size: int = 128
    """Samples of the main split per optimiser step."""
    learning_rate: float = 1e-3
    """Step size of the main network's AdamW; falls linearly to a tenth."""
    weight_decay: float = 5e-3
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """The main network's gradients are clipped to this norm."""
    gradients: Literal["chosen", "path"] = "chosen"
    """Who learns from a sample: the layers chosen for it (and the head), or every
    layer on its way."""
    keep_share: float = 0.25
    """Extra samples per step, as a share of the batch, that keep every state usable:
    in the plain, the full and one random state, all layers learning. They also move
    the normalisation's statistics."""
    replay_share: float = 0.25
    """Share of a batch that are recent samples, in the states of then."""
    replay_size: int = 2048
    """How many recent samples to take them from."""
    epsilon_start: float = 0.2
    """Share of random decisions on the main split when both begin to learn."""
    epsilon_end: float = 0.02
    """Share of random decisions there at the end; falls linearly."""
    loss_lambda: float = 0.2
    """Weight of the return in the total loss that is logged, CE - lambda R."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the main network's optimiser steps: fp32, or bf16 autocast."""
    adjoint_rtol: float = 0.1
    """Relative tolerance of the implicit gradient."""
    adjoint_max_steps: int = 4
    """Most iterations of the implicit gradient."""
    validations: int = 20
    """Evaluations on the validation split, each with a saved state to resume from."""

    def __post_init__(self) -> None:
        """Check ranges; the message names the flag."""
        check_range(self, _POSITIVE, lambda x: 0 < x < inf, "be above 0", "co")
        check_range(self, _SHARES, lambda x: 0 <= x <= 1, "lie in [0, 1]", "co")
        check_range(self, "replay_share", lambda x: x < 1, "be below 1", "co")
        for least, names in enumerate(_AT_LEAST):

            def is_sound(value: float | None, least: int = least) -> bool:
                return value is None or least <= value < inf

            check_range(self, names, is_sound, f"be at least {least}", "co")

    def check_batch(self, num_samples: int) -> None:
        """Raise ConfigError if a batch is larger than the main split."""
        if self.batch_size > num_samples:
            raise ConfigError(
                f"--co.batch-size is larger than the {num_samples} samples of the main "
                "split"
            )
