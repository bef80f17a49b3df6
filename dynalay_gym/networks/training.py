"""Training of a main network whose every state is usable.

Every step trains several states over the same batch: the plain pass, everything
iterated, and states in between, because a state that is never trained is a bad one.

Axes: n samples of a batch, L layers, K classes, S = 2^L states.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.overflow import check_loss
from dynalay_gym.networks.state_losses import (
    loss_of_states,
    mixed_states,
    partial_logits,
    weighted_loss,
)
from dynalay_gym.storage.io import plain
from dynalay_gym.storage.saved_folder import MOST_BYTES, load_folder, save_folder
from dynalay_gym.storage.training_state import (
    load_training_state,
    take,
    training_bytes,
    training_state,
)
from dynalay_gym.utils.finite import MEND_DATA, FiniteGuard
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    Iterations,
    LearningRate,
    NotNegative,
    Seed,
    Tolerance,
    check_fields,
)

KIND = "main-training"
Paths = Literal["all", "mixed", "portions"]
_PEAK_AT = 0.3  # share of the training after which the learning rate falls
# Largest norm of a gradient that came through dozens of iterations.
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a main network is trained.

    Attributes:
        epochs: Passes over the main split, >= 1.
        batch_size: Samples of a batch, >= 2.
        learning_rate: Peak of the one-cycle schedule, in (0, 10).
        weight_decay: Of AdamW, >= 0.
        paths: ``all`` 2^L states in every step, or ``mixed``: plain, full and one
            random state between them. ``portions`` are the mixed states with every
            solve stopped after a random number of iterations, so that what is half
            done answers well too; it is differentiated through the iterations.
        adjoint_rtol: Relative tolerance of the implicit gradient, > 0.
        adjoint_max_steps: Most adjoint iterations, >= 0.
        augment: Random shifts and mirror images.
        precision: ``fp32``, or ``bf16`` autocast.
        seed: Of order of samples, augmentation and states.

    Raises:
        ConfigError: A value is out of range.
    """

    epochs: Count
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 5e-3
    weight_decay: NotNegative = 5e-3
    paths: Paths = "all"
    adjoint_rtol: Tolerance = 0.1
    adjoint_max_steps: Iterations = 4
    augment: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check ranges and names."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What the manifest of an unfinished training holds.

    Attributes:
        steps: Steps so far.
        sizes: Of the metrics' files; see `MetricWriter`.
        options: What it goes on with.
    """

    steps: Annotated[int, Meta(ge=0)]
    sizes: dict[str, Annotated[int, Meta(ge=0)]]
    options: dict[str, Any]


class MainTrainer:
    """Optimiser steps on cross-entropy over states; resumable to the bit on one device.

    Args:
        network: Main network, on its device. Evaluate a copy of it: a session does.
        data: The main split, on the same device.
        config: Options.

    Raises:
        ConfigError: A batch is larger than the split.
    """

    def __init__(
        self, network: MainNetwork, data: Split, config: TrainingConfig
    ) -> None:
        if config.batch_size > len(data):
            raise ConfigError(f"batch_size is larger than the {len(data)} samples")
        self.network, self.data, self.config = network, data, config
        self.steps, self.steps_per_epoch = 0, len(data) // config.batch_size
        self._order = torch.empty(0, dtype=torch.int64, device="cpu")  # of this epoch
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.scheduler = self._schedule(0)
        remedy = "lower --learning-rate, or use --precision fp32"
        self.guard = FiniteGuard(network, self.optimizer, remedy)
        self.solver = SolverConfig(
            rtol=network.config.rtol,
            max_steps=max(network.config.layer_steps),
            adjoint_rtol=config.adjoint_rtol,
            adjoint_max_steps=config.adjoint_max_steps,
        )

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return self.steps // self.steps_per_epoch

    @torch.enable_grad()  # whatever the caller has set
    def train_epoch(self, on_step: Callable[[int, float], None]) -> None:
        """Pass over the split once, or over what is left of it after `load`.

        Args:
            on_step: Called after every step with its number (from 1) and the loss; the
                training may be saved there.

        Raises:
            DivergedError: A number is not finite; the step is not taken, and running
                statistics are what they were before it.
        """
        self.network.train()
        done = self.steps % self.steps_per_epoch
        if done == 0:
            self._order = torch.randperm(
                len(self.data), generator=self.generator, device="cpu"
            )
        batches = self._order.split(self.config.batch_size)
        for rows in batches[done : self.steps_per_epoch]:
            with self.guard.keep_statistics():
                loss = self._step(rows.to(self.data.inputs.device))
            self.scheduler.step()
            self.steps += 1
            on_step(self.steps, loss)
        self.guard.check_weights()  # before anybody measures or saves them

    def _step(self, rows: Tensor) -> float:
        """Take one optimiser step on some samples, int64 [n]; return the loss."""
        loss = self._loss(rows)
        check_loss(self.guard, loss, self.network, self.data.inputs, rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.paths == "portions":
            weights = self.network.parameters()
            norm = nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
            self.guard.check("length of the gradient", norm)
        self.optimizer.step()
        return loss.item()

    def _loss(self, rows: Tensor) -> Tensor:
        images, labels = self.data.inputs[rows], self.data.labels[rows]
        self.guard.check("image", images, samples=rows, remedy=MEND_DATA)
        if self.config.augment:
            images = augment(images, self.generator)
        num_states = 2**self.network.num_layers
        weights = dict.fromkeys(range(num_states), 1.0)
        if self.config.paths != "all":
            weights = mixed_states(num_states, self.generator)
        is_bf16 = self.config.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_bf16):
            if self.config.paths == "portions":
                logits = partial_logits(self.network, images, weights, self.generator)
                return weighted_loss(logits, labels, weights)
            return loss_of_states(self.network, images, labels, weights, self.solver)

    def save(self, folder: Path, sizes: Mapping[str, int] | None = None) -> None:
        """Write all that `load` needs: weights, optimiser, random state, progress.

        Args:
            folder: Where to.
            sizes: Of the metrics' files, see `MetricWriter`; kept beside the state.
        """
        tensors = training_state(self.network, self.optimizer, self.generator)
        facts = TrainingFacts(
            steps=self.steps, sizes=dict(sizes or {}), options=self._options()
        )
        save_folder(folder, KIND, tensors | {"order": self._order}, asdict(facts))

    def load(self, folder: Path) -> dict[str, int]:
        """Continue from what `save` wrote; return the ``sizes`` that it was given.

        Raises:
            CheckpointError: It is missing, corrupt, or of another training.
        """
        most = MOST_BYTES + training_bytes(self.network)
        saved = load_folder(folder, KIND, TrainingFacts, most_bytes=most)
        if saved.facts.options != self._options():
            raise CheckpointError(
                f"{folder} belongs to a training with other options; resume with the "
                "same ones, or start anew without --resume"
            )
        if saved.facts.steps > self.config.epochs * self.steps_per_epoch:
            raise CheckpointError(
                f"{folder} has more steps than {self.config.epochs} epochs; start anew "
                "without --resume"
            )
        num = len(self.data) if saved.facts.steps else 0  # the first step draws one
        order = take(saved.tensors, "order", torch.int64, (num,))
        if not torch.equal(order.sort().values, torch.arange(num, device="cpu")):
            raise CheckpointError(f"{folder}: 'order' is no order of the samples")
        load_training_state(
            saved.tensors, self.network, self.optimizer, self.generator, folder
        )
        self.steps, self._order = saved.facts.steps, order
        self.scheduler = self._schedule(self.steps)
        return saved.facts.sizes

    def _schedule(self, taken: int) -> LambdaLR:
        """Return the schedule of learning rates after some steps."""
        total = self.config.epochs * self.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.config.learning_rate
        return LambdaLR(
            self.optimizer,
            lambda steps: one_cycle(min((steps + 1) / total, 1.0)),
            last_epoch=taken - 1,  # building it takes a step
        )

    def _options(self) -> dict[str, Any]:
        """Return what two halves of one training have in common, as JSON has it."""
        options = {"training": asdict(self.config)}
        options["config"] = self.network.config.to_dict()
        return {name: plain(value) for name, value in options.items()}


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate at a point of training.

    It rises linearly from 1/25 to 1 and then falls along a cosine to 0.

    Args:
        progress: Share of the training that is done, in [0, 1].

    References:
        Smith & Topin (2017), Super-Convergence.
    """
    if progress < _PEAK_AT:
        return 0.04 + 0.96 * progress / _PEAK_AT
    turn = torch.pi * (progress - _PEAK_AT) / (1 - _PEAK_AT)
    angle = torch.tensor(turn, dtype=torch.float32, device="cpu")
    return float(0.5 * (1 + angle.cos()))
