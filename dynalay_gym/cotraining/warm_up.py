"""The main network that a co-training starts from, and what it leaves behind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.registry import SPLITS, dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED, EnvConfig, resolve_device
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.sessions.measure import export, state_accuracies
from dynalay_gym.sessions.protocol import FiniteSession

OnStep = Callable[[int, int, float], None]
Splits = Mapping[str, Split]


def check_environment(**options: Any) -> None:
    """Raise ConfigError for arguments that no environment takes; see `EnvConfig`."""
    EnvConfig.from_kwargs(options)


def network_folder(dataset: str, checkpoint: Path | None) -> Path:
    """Return a checkpoint's folder; None is the one that ships with the package."""
    return SHIPPED / dataset if checkpoint is None else checkpoint


def load_splits(dataset: str, device: str, **files: Any) -> dict[str, Split]:
    """Return all splits of a data set by name; see `load_split` and its errors."""
    files["device"] = resolve_device(device)
    return {name: load_split(dataset, name, **files) for name in SPLITS}


def train_network(
    folder: Path,
    dataset: str,
    splits: Splits,
    config: CoTrainingConfig,
    *,
    seed: int,
    on_step: OnStep,
) -> None:
    """Train a fresh main network and write it with its calibration.

    An interrupted warm-up continues after its last whole epoch.

    Args:
        folder: Gets ``main``, and ``training`` while it is under way.
        dataset: Name of the data set, whose preset is the architecture.
        splits: Its splits by name.
        config: Its ``main_epochs`` is a number; 0 leaves the network untrained.
        seed: Of initial weights, order and augmentation.
        on_step: Called after every step with its number, all steps, and the loss.
    """
    spec, epochs = dataset_spec(dataset), config.main_epochs or 0
    torch.manual_seed(seed)
    network = MainNetwork(make_config(spec.preset, spec.in_shape, spec.num_classes))
    network.to(splits["main"].labels.device)
    if epochs > 0:
        options = TrainingConfig(
            epochs=epochs,
            paths="all" if spec.embedded else "mixed",
            augment=not spec.embedded,
            precision=config.precision,
            seed=seed,
        )
        trainer = MainTrainer(network, splits["main"], options)
        if (folder / "training").is_dir():
            trainer.load(folder / "training")
        total = epochs * trainer.steps_per_epoch
        while trainer.epoch < epochs:
            trainer.train_epoch(lambda step, loss: on_step(step, total, loss))
            trainer.save(folder / "training")
    about = {"dataset": dataset, "warm_up_epochs": epochs}
    export(folder / "main", network.eval(), splits, about)


def remeasure(folder: Path, splits: Splits, about: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a saved network and write the numbers beside its weights; see `export`.

    During a run its cost unit and break-even stay what they were at the start, so that
    a return means the same from the first decision to the last.
    """
    network, _ = load_network(folder, splits["main"].labels.device)
    return export(folder, network, splits, about)


def accuracy_metrics(session: FiniteSession, split: Split) -> dict[str, float]:
    """Return the accuracy in every state, by metric tag ``main/accuracy/<bits>``."""
    accuracies = state_accuracies(session, split)
    return {f"main/accuracy/{name}": value for name, value in accuracies.items()}
