"""Training of a main network whose every state is usable.

Every step trains several paths over the same batch: the plain pass, everything
iterated, and states in between, because a state that is never trained is a bad one.

Axes: n samples of a batch, L layers, K classes, S = 2^L states.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.errors import CheckpointError, ConfigError, DynaLayError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.checkpoint import load_tensors, save_network, save_tensors
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.session import fastest_session
from dynalay_gym.sessions.calibration import accuracies, calibrate, state_table

PATHS = ("all", "mixed")
PRECISIONS = ("fp32", "bf16")
# Weight of the random path between plain and full (chosen in trials on CIFAR-10).
_MIXED_WEIGHT = 0.7


class DivergedError(DynaLayError):
    """The loss stopped being finite."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a main network is trained.

    Attributes:
        epochs: Passes over the main split.
        batch_size: Samples of a batch.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        paths: ``all`` 2^L states in every step, or ``mixed``: plain, full and one
            random state between them.
        adjoint_rtol: Relative tolerance of the implicit gradient.
        adjoint_max_steps: Most adjoint iterations.
        augment: Random shifts and mirror images.
        precision: ``fp32``, or ``bf16`` autocast.
        seed: Of initial weights, order of samples, augmentation and paths.
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
        if self.paths not in PATHS:
            raise ConfigError(f"unknown paths {self.paths!r}; choose one of {PATHS}")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"unknown precision {self.precision!r}; choose one of {PRECISIONS}"
            )


class MainTrainer:
    """Optimiser steps on cross-entropy over paths; resumable to the bit on one device.

    Args:
        model: Main network, on its device.
        data: The main split, on the same device.
        config: Options.
    """

    def __init__(self, model: MainNetwork, data: Split, config: TrainingConfig) -> None:
        if config.batch_size > len(data):
            raise ConfigError(f"batch_size is larger than the {len(data)} samples")
        self.model, self.data, self.config = model, data, config
        self.steps_per_epoch = len(data) // config.batch_size
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.epoch = 0
        own = model.solver
        self.solver = SolverConfig(
            rtol=own.rtol,
            max_steps=own.max_steps,
            adjoint_rtol=config.adjoint_rtol,
            adjoint_max_steps=config.adjoint_max_steps,
        )

    def train_epoch(self, on_step: Callable[[int, float], None]) -> None:
        """One pass over the split.

        Args:
            on_step: Called after every step with its number (from 1) and the loss.

        Raises:
            DivergedError: the loss is not finite; the step is not taken.
        """
        self.model.train()
        order = torch.randperm(len(self.data), generator=self.generator)
        first = self.epoch * self.steps_per_epoch
        batches = order.split(self.config.batch_size)[: self.steps_per_epoch]
        for step, rows in enumerate(batches, start=first + 1):
            self._set_learning_rate(step)
            loss = self._loss(rows.to(self.data.inputs.device))
            if not bool(loss.isfinite()):
                raise DivergedError(
                    f"the loss is {loss.item()} at step {step}; "
                    "lower --learning-rate, or use --precision fp32"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            on_step(step, loss.item())
        self.epoch += 1

    def _loss(self, rows: Tensor) -> Tensor:
        images, labels = self.data.inputs[rows], self.data.labels[rows]
        if self.config.augment:
            images = augment(images, self.generator)
        weights = self._path_weights()
        bf16 = self.config.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = self.model.forward_paths(images, weights, self.solver)
        losses = [
            weight * F.cross_entropy(answer.float(), labels)
            for weight, answer in zip(weights.values(), logits, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights.values())

    def _path_weights(self) -> dict[int, float]:
        """Paths of this step and their weights in the loss."""
        num_states = 2**self.model.num_layers
        if self.config.paths == "all" or num_states == 2:
            return dict.fromkeys(range(num_states), 1.0)
        between = torch.randint(1, num_states - 1, (), generator=self.generator)
        return {0: 1.0, num_states - 1: 1.0, int(between): _MIXED_WEIGHT}

    def _set_learning_rate(self, step: int) -> None:
        total = self.config.epochs * self.steps_per_epoch
        rate = self.config.learning_rate * one_cycle(step / total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def save(self, folder: Path) -> None:
        """Write everything that going on needs: weights, optimiser, random state."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        names = [name for name, _ in self.model.named_parameters()]
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{names[i]}/{k}": v for k, v in state.items()}
        tensors["generator"] = self.generator.get_state()
        meta = {"kind": "training", "epoch": self.epoch}
        meta |= {"training": asdict(self.config), "config": self.model.config.to_dict()}
        save_tensors(folder, tensors, meta)

    def load(self, folder: Path) -> None:
        """Continue from what ``save`` wrote.

        Raises:
            CheckpointError: missing, corrupt, or of another training.
        """
        tensors, meta = load_tensors(folder)
        mine = {"training": asdict(self.config), "config": self.model.config.to_dict()}
        theirs = {key: meta.get(key) for key in mine}
        if _as_json(mine) != _as_json(theirs):
            raise CheckpointError(
                f"{folder} belongs to a training with other options; resume with the "
                "same ones, or start anew without --resume"
            )
        device = self.data.inputs.device
        prefix = "model/"
        self.model.load_state_dict(
            {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for i, (name, _) in enumerate(self.model.named_parameters()):
            keys = ("step", "exp_avg", "exp_avg_sq")
            parts = {key: tensors[f"optimizer/{name}/{key}"] for key in keys}
            state[i] = {
                key: part if key == "step" else part.to(device)
                for key, part in parts.items()
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(tensors["generator"])
        self.epoch = int(meta["epoch"])


def one_cycle(progress: float, peak_at: float = 0.3) -> float:
    """Share of the peak learning rate at a point of training, both in [0, 1].

    Rises linearly from 1/25 to 1 and falls along a cosine to 0.
    """
    if progress < peak_at:
        return 0.04 + 0.96 * progress / peak_at
    angle = torch.tensor(torch.pi * (progress - peak_at) / (1 - peak_at))
    return float(0.5 * (1 + angle.cos()))


def state_accuracies(model: MainNetwork, split: Split) -> dict[str, float]:
    """Accuracy in every state; keys are bits, layer 1 first (``"100"``)."""
    was_training = model.training
    values = accuracies(state_table(fastest_session(model), split))
    model.requires_grad_(True).train(was_training)
    return {state_name(i, model.num_layers): v for i, v in enumerate(values)}


def state_name(path: int, num_layers: int) -> str:
    """Bits of a state, layer 1 first: 0b001 of three layers is ``"100"``."""
    return "".join(str(path >> i & 1) for i in range(num_layers))


def export(
    folder: Path, model: MainNetwork, splits: dict[str, Split], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write a main network with all that an environment wants to know of it.

    Args:
        folder: Where the checkpoint goes.
        model: Main network; it is frozen.
        splits: ``agent`` (calibration), ``validation`` and ``test`` (metrics).
        facts: Further facts for the JSON.

    Returns:
        What was written beside the weights.
    """
    session = fastest_session(model)
    table = state_table(session, splits["agent"])
    calibration = calibrate(session, splits["agent"], table)
    meta = {
        "calibrations": [calibration.to_dict()],
        "break_even_penalty": calibration.break_even(alpha=0.5),
        "plain_macs": session.costs.plain_pass,
        "solver_steps": [float(x) for x in table.solver_steps.double().mean(0)],
        "state_accuracy": {
            name: state_accuracies(model, split) for name, split in splits.items()
        },
    }
    model.freeze()
    save_network(folder, model, meta | facts)
    return meta


def _as_json(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
