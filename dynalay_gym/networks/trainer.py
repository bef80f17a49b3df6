"""What the trainings of all networks share: steps over a split, saved and resumed.

Axes: n samples of a batch, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import torch
from msgspec import Meta
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.checkpoint import Network
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.storage.io import plain
from dynalay_gym.storage.saved_folder import MOST_BYTES, load_folder, save_folder
from dynalay_gym.storage.training_state import (
    load_training_state,
    take,
    training_bytes,
    training_state,
)
from dynalay_gym.utils.finite import MEND_DATA, FiniteGuard
from dynalay_gym.utils.processes import Processes
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    LearningRate,
    NotNegative,
    Seed,
    check_fields,
)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How any network is trained.

    Attributes:
        epochs: Passes over the main split, >= 1.
        batch_size: Samples of a batch, >= 2.
        learning_rate: Peak of the schedule, in (0, 10).
        weight_decay: Of the optimiser, >= 0.
        augment: Random shifts and mirror images; of texts, dropped words.
        precision: ``fp32``, or ``bf16`` autocast.
        seed: Of order of samples, augmentation and whatever else is drawn.

    Raises:
        ConfigError: A value is out of range.
    """

    epochs: Count
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 5e-3
    weight_decay: NotNegative = 5e-3
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


NetworkT = TypeVar("NetworkT", bound=Network | WrappedNetwork)
ConfigT = TypeVar("ConfigT", bound=TrainerConfig)


class Trainer(ABC, Generic[NetworkT, ConfigT]):
    """Optimiser steps over a split; resumable bit for bit on one device.

    Args:
        network: What is trained, on its device. Evaluate a copy of it: a session does.
        data: The main split, on the same device.
        config: Options.
        optimizer: Over the network's parameters.

    Attributes:
        kind: Kind of the saved training.
        processes: Those that train it together; this one alone until `join`.

    Raises:
        ConfigError: A batch is larger than the split.
    """

    kind: ClassVar[str]
    processes: Processes = Processes()

    def __init__(
        self,
        network: NetworkT,
        data: Split,
        config: ConfigT,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        if config.batch_size > len(data):
            raise ConfigError(f"batch_size is larger than the {len(data)} samples")
        self.network, self.data, self.config = network, data, config
        self.steps, self.steps_per_epoch = 0, len(data) // config.batch_size
        self._order = torch.empty(0, dtype=torch.int64, device="cpu")  # of this epoch
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = optimizer
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.scheduler = self._schedule(0)
        remedy = "lower --learning-rate, or use --precision fp32"
        self.guard = FiniteGuard(network, optimizer, remedy, lambda: self.steps)

    def join(self, processes: Processes) -> None:
        """Take every step together with other processes, each on a part of the batch.

        What is random is drawn for the whole batch by all of them. Normalisation by the
        batch becomes one by the part, and its running statistics the mean over parts.

        Raises:
            ConfigError: A batch cannot be cut into equal parts of two samples or more.
        """
        batch, size = self.config.batch_size, processes.size
        if size > 1 and (batch % size or batch < 2 * size):
            raise ConfigError(
                f"{size} processes cannot share batches of {batch}; give --batch-size "
                f"a multiple of {size} that is {2 * size} or more"
            )
        self.processes = processes

    def agree(self) -> None:
        """Begin with the weights of the first process, at the step that all are at.

        Raises:
            CheckpointError: They are at different steps.
        """
        most, least = (s * self.processes.largest(s * self.steps) for s in (1, -1))
        if most > least:
            raise CheckpointError(
                "only some of the processes have found the training to --resume; put "
                "its folder where all of them can read it"
            )
        self.processes.share(self.network.state_dict().values())

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch, or of this process's part of it, a scalar.

        Args:
            images: Samples [n, ...].
            labels: Their classes, int64 [n].
            rows: Their places in the split, int64 [n].
        """

    @abstractmethod
    def rate(self, progress: float) -> float:
        """Return the share of the peak learning rate at a share of the training."""

    def before_step(self) -> None:
        """Change the gradients before the optimiser's step."""

    def explain(self, loss: Tensor, rows: Tensor) -> None:
        """Raise DivergedError if a loss is not finite."""
        self.guard.check("loss", loss)

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return self.steps // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self.steps / (self.config.epochs * self.steps_per_epoch)

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
        images, labels = self.data.inputs[rows], self.data.labels[rows]
        self.guard.check("image", images, samples=rows, remedy=MEND_DATA)
        if self.config.augment:
            images = self.augment(images, rows)
        part = self.processes.part(len(rows))
        images, labels, rows = images[part], labels[part], rows[part]
        is_bf16 = self.config.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_bf16):
            loss = self.loss(images, labels, rows)
        self.explain(loss, rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average(loss)
        self.before_step()
        self.optimizer.step()
        return loss.item()

    def _average(self, loss: Tensor) -> None:
        """Make gradients, running statistics and the loss those of all processes."""
        gradients = [w.grad for w in self.network.parameters() if w.grad is not None]
        statistics = [b for b in self.network.buffers() if b.is_floating_point()]
        self.processes.average([*gradients, *statistics, loss])

    @abstractmethod
    def augment(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return changed images [n, ...] of the same classes; see `loss`."""

    def save(self, folder: Path, sizes: Mapping[str, int] | None = None) -> None:
        """Write all that `load` needs: weights, optimiser, random state, progress.

        Of several processes the first writes; the others have the same to write.

        Args:
            folder: Where to.
            sizes: Of the metrics' files, see `MetricWriter`; kept beside the state.
        """
        if not self.processes.is_first:
            return
        tensors = training_state(self.network, self.optimizer, self.generator)
        facts = TrainingFacts(
            steps=self.steps, sizes=dict(sizes or {}), options=self._options()
        )
        save_folder(folder, self.kind, tensors | {"order": self._order}, asdict(facts))

    def load(self, folder: Path) -> dict[str, int]:
        """Continue from what `save` wrote; return the ``sizes`` that it was given.

        Raises:
            CheckpointError: It is missing, corrupt, or of another training.
        """
        most = MOST_BYTES + training_bytes(self.network)
        saved = load_folder(folder, self.kind, TrainingFacts, most_bytes=most)
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
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["initial_lr"] = peak
        return LambdaLR(
            self.optimizer,
            lambda steps: self.rate(min((steps + 1) / total, 1.0)),
            last_epoch=taken - 1,  # building it takes a step
        )

    def _options(self) -> dict[str, Any]:
        """Return what two halves of one training have in common, as JSON has it."""
        architecture = self.network.config.to_dict()
        options = {"training": asdict(self.config), "config": architecture}
        return {name: plain(value) for name, value in options.items()}
