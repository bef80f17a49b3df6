"""The main network that a co-training starts from, and what it leaves behind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

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


def check_environment(**options: Any) -> None:
    """Raise ConfigError for arguments that no environment takes; see `EnvConfig`."""
    EnvConfig.from_kwargs(options)


def shipped_network(dataset: str) -> Path:
    """Return the folder of the network that ships with the package for a data set."""
    return SHIPPED / dataset


def load_splits(dataset: str, device: str, **files: Any) -> dict[str, Split]:
    """Load all splits of a data set by name.

    Args:
        dataset: Its name.
        device: ``auto``, ``cpu``, ``cuda``, ...
        **files: See `load_split`.
    """
    place = resolve_device(device)
    return {name: load_split(dataset, name, device=place, **files) for name in SPLITS}


def warm_up(
    folder: Path,
    dataset: str,
    splits: Mapping[str, Split],
    epochs: int,
    *,
    seed: int,
    precision: str,
    on_step: OnStep,
) -> None:
    """Train a fresh main network and write it with its calibration.

    An interrupted warm-up continues after its last whole epoch.

    Args:
        folder: Gets ``main``, and ``training`` while it is under way.
        dataset: Name of the data set, whose preset is the architecture.
        splits: Its splits by name.
        epochs: Passes over the main split; 0 leaves the network untrained.
        seed: Of initial weights, order and augmentation.
        precision: ``fp32``, or ``bf16`` autocast.
        on_step: Called after every step with its number, all steps, and the loss.
    """
    spec = dataset_spec(dataset)
    torch.manual_seed(seed)
    config = make_config(spec.preset, spec.in_shape, spec.num_classes)
    network = MainNetwork(config).to(splits["main"].labels.device)
    if epochs > 0:
        options = TrainingConfig(
            epochs=epochs,
            paths="all" if spec.embedded else "mixed",
            augment=not spec.embedded,
            precision=precision,
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


def measure_again(
    folder: Path, splits: Mapping[str, Split], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a saved network's cost unit, break-even and states, beside it.

    During a run they stay what they were at its start, so that a return means the same
    from the first decision to the last; a later use of the network needs its own.

    Args:
        folder: Checkpoint of the network.
        splits: All splits of the data set.
        about: JSON-able values to keep beside it.

    Returns:
        What was measured; see `export`.
    """
    network, _ = load_network(folder, splits["main"].labels.device)
    return export(folder, network, splits, about)


def accuracy_metrics(session: FiniteSession, split: Split) -> dict[str, float]:
    """Return the accuracy in every state, by metric tag ``main/accuracy/<bits>``."""
    accuracies = state_accuracies(session, split)
    return {f"main/accuracy/{name}": value for name, value in accuracies.items()}
