"""Training of a main network whose every state is usable.

Every step trains several states over the same batch: the plain pass, everything
iterated, and states in between, because a state that is never trained is a bad one.

Axes: n samples of a batch, L layers, K classes, S = 2^L states.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.errors import CheckpointError, ConfigError, DivergedError
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.utils.io import plain
from dynalay_gym.utils.training_state import load_training_state, training_state

PATHS = ("all", "mixed", "portions")
PRECISIONS = ("fp32", "bf16")
_PEAK_AT = 0.3  # share of the training after which the learning rate falls
# Weight of the random state between plain and full (chosen in trials on CIFAR-10).
_MIXED_WEIGHT = 0.7
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

    epochs: int
    batch_size: int = 128
    learning_rate: float = 5e-3
    weight_decay: float = 5e-3
    paths: str = "all"
    adjoint_rtol: float = 0.1
    adjoint_max_steps: int = 4
    augment: bool = False
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges and names."""
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError("epochs must be at least 1 and batch_size at least 2")
        if not (0 < self.learning_rate < 10 and self.weight_decay >= 0):
            raise ConfigError("learning_rate must lie in (0, 10), weight_decay >= 0")
        for name, choices in (("paths", PATHS), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"unknown {name} {value!r}; choose one of {choices}")


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
        self._order = torch.empty(0, dtype=torch.int64)  # samples of this epoch
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        total = config.epochs * self.steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda steps: one_cycle(min((steps + 1) / total, 1.0))
        )
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

    def train_epoch(self, on_step: Callable[[int, float], None]) -> None:
        """Pass over the split once, or over what is left of it after `load`.

        Args:
            on_step: Called after every step with its number (from 1) and the loss; the
                training may be saved there.

        Raises:
            DivergedError: The loss is not finite; the step is not taken.
        """
        self.network.train()
        done = self.steps % self.steps_per_epoch
        if done == 0:
            self._order = torch.randperm(len(self.data), generator=self.generator)
        batches = self._order.split(self.config.batch_size)
        for rows in batches[done : self.steps_per_epoch]:
            step = self.steps + 1
            loss = self._loss(rows.to(self.data.inputs.device))
            if not bool(loss.isfinite()):
                raise DivergedError(
                    f"the loss is {loss.item()} at step {step}; "
                    "lower --learning-rate, or use --precision fp32"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.config.paths == "portions":
                nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
            self.optimizer.step()
            self.scheduler.step()
            self.steps = step
            on_step(step, loss.item())

    def _loss(self, rows: Tensor) -> Tensor:
        images, labels = self.data.inputs[rows], self.data.labels[rows]
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
        """Write all that `load` needs: weights, optimiser, schedule, random state.

        Args:
            folder: Where to.
            sizes: Of the metrics' files, see `MetricWriter`; kept beside the state.
        """
        tensors = training_state(self.network, self.optimizer, self.generator)
        tensors |= {"order": self._order}
        progress = {"steps": self.steps, "scheduler": self.scheduler.state_dict()}
        progress |= {"sizes": dict(sizes or {})}
        save_tensors(folder, tensors, self._identity() | progress)

    def load(self, folder: Path) -> dict[str, int]:
        """Continue from what `save` wrote; return the ``sizes`` that it was given.

        Raises:
            CheckpointError: It is missing, corrupt, or of another training.
        """
        tensors, meta = load_tensors(folder)
        identity = self._identity()
        if {key: meta.get(key) for key in identity} != identity:
            raise CheckpointError(
                f"{folder} belongs to a training with other options; resume with the "
                "same ones, or start anew without --resume"
            )
        load_training_state(tensors, self.network, self.optimizer, self.generator)
        self.scheduler.load_state_dict(meta["scheduler"])
        for group, rate in zip(
            self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True
        ):
            group["lr"] = rate
        self.steps, self._order = int(meta["steps"]), tensors["order"]
        return dict(meta["sizes"])

    def _identity(self) -> dict[str, Any]:
        """Return what two halves of one training have in common, as JSON has it."""
        options = {"training": asdict(self.config)}
        options["config"] = self.network.config.to_dict()
        return {"kind": "main-training"} | {k: plain(v) for k, v in options.items()}


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
    angle = torch.tensor(torch.pi * (progress - _PEAK_AT) / (1 - _PEAK_AT))
    return float(0.5 * (1 + angle.cos()))


def mixed_states(num_states: int, generator: torch.Generator) -> dict[int, float]:
    """Return the plain, the full and one random state, with their weights in the loss.

    Args:
        num_states: States S, at least 2; with 2 there is none between.
        generator: Source of the draw.
    """
    full = num_states - 1
    weights = {0: 1.0, full: 1.0}
    if full > 1:
        device = generator.device
        between = torch.randint(1, full, (), generator=generator, device=device)
        weights[int(between)] = _MIXED_WEIGHT
    return weights


def partial_logits(
    network: MainNetwork,
    images: Tensor,
    state_ids: Iterable[int],
    generator: torch.Generator,
) -> list[Tensor]:
    """Return the logits of states whose solves stop after random iterations.

    Args:
        network: The main network.
        images: Samples [n, C, H, W].
        state_ids: States; a layer that is iterated takes 1 to its most iterations.
        generator: Source of the draws.

    Returns:
        Logits [n, K] of each state, differentiable through every iteration.
    """
    stem, logits = network.stem(images), []
    for state_id in state_ids:
        below = stem
        for level, layer in enumerate(network.main_layers):
            pattern = state_id & (2**level - 1)
            state = layer.plain(below, pattern)
            if state_id >> level & 1:
                solver = _random_portion(network, level, generator)
                state, _ = layer.iterate(below, state, pattern, solver)
            below = state
        logits.append(network.classify(below, state_id))
    return logits


def _random_portion(
    network: MainNetwork, level: int, generator: torch.Generator
) -> SolverConfig:
    """Return an unrolled solve of 1 to a layer's most iterations.

    Short ones are drawn more often, since there each iteration changes most.
    """
    most, device = network.config.layer_steps[level], generator.device
    draw = float(torch.rand((), generator=generator, device=device))
    steps = 1 + int(most * draw**2)
    return replace(network.solvers[level], max_steps=steps, rule=GradientRule.UNROLL)


def loss_of_states(
    network: MainNetwork,
    images: Tensor,
    labels: Tensor,
    weights: Mapping[int, float],
    solver: SolverConfig,
) -> Tensor:
    """Return the weighted mean over states of a batch's cross-entropy, a scalar.

    Args:
        network: The main network.
        images: Samples [n, C, H, W].
        labels: Their classes, int64 [n].
        weights: Weight of each state.
        solver: Options of the solves and of their gradient.
    """
    logits = network.forward_paths(images, weights, solver)
    return weighted_loss(logits, labels, weights)


def weighted_loss(
    logits: Sequence[Tensor], labels: Tensor, weights: Mapping[int, float]
) -> Tensor:
    """Return the weighted mean over states of the cross-entropy, a scalar.

    Args:
        logits: Answers [n, K] of each state, in the order of the weights.
        labels: The samples' classes, int64 [n].
        weights: Weight of each state.
    """
    losses = [
        weight * F.cross_entropy(answer.float(), labels)
        for weight, answer in zip(weights.values(), logits, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights.values())
