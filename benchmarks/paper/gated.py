"""Residual networks and gates on them: trained once, kept in folders, measured."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gates import logits_of
from benchmarks.paper.experiment import Setting
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import (
    AnyTrainingConfig,
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import Config, load_network, save_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.diagnostics import record_gates
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.storage.io import locked, plain
from dynalay_gym.storage.saved_folder import is_saved


def whole_network(setting: Setting, seed: int, folder: Path) -> tuple[Any, float]:
    """Return a folder's residual network, and the processor's minutes of its training.

    It is trained first if it is missing; a process that trains it is waited for.

    Args:
        setting: Data and training.
        seed: Seed of weights and samples.
        folder: Where the network is, or gets to; the one around it holds nothing else.

    Raises:
        ConfigError: The folder holds a network of another setting.
    """
    architecture = network_config(setting.dataset, setting.preset)
    options = {"epochs": setting.epochs, "learning_rate": setting.learning_rate}
    config = training_config(architecture, setting.dataset, seed=seed, **options)
    folder.parent.mkdir(exist_ok=True)
    with locked(folder.parent, wait=True):  # saving locks the folder itself
        return _trained(setting, architecture, config, folder)


def gated_network(
    setting: Setting,
    seed: int,
    folder: Path,
    backbone: Path,
    gates: GateConfig,
    target: float,
) -> tuple[Any, float]:
    """Return a folder's gated network, and the processor's minutes of its training.

    It is trained first if it is missing.

    Args:
        setting: Data, and training of the residual network.
        seed: Seed of weights and samples.
        folder: Where the network is, or gets to.
        backbone: Folder of the residual network that gates go on.
        gates: The gates.
        target: Mean share of the multiply-adds that they are to leave.

    Raises:
        ConfigError: The folder holds a network of another setting.
    """
    name = setting.dataset
    architecture = network_config(name, start_from=backbone, gates=gates)
    config = training_config(architecture, name, seed=seed, target=target)
    return _trained(setting, architecture, config, folder, backbone)


def _trained(
    setting: Setting,
    architecture: Config,
    config: AnyTrainingConfig,
    folder: Path,
    start_from: Path | None = None,
) -> tuple[Any, float]:
    """Return a folder's network and its minutes; train it first if it is missing."""
    if not is_saved(folder):
        main = setting.splits()["main"]
        trainer = new_trainer(architecture, config, main, start_from)
        about = {"training": asdict(config), "minutes": train_to_end(trainer)}
        save_network(folder, trainer.network, about | {"setting": setting.facts()})
    network, facts = load_network(folder)
    kept: Any = facts.about
    setting.check_same(kept["setting"], folder)
    if kept["training"] != plain(asdict(config)):
        raise ConfigError(f"{folder} was trained with other options; remove it")
    return network, kept["minutes"]


def measure(network: Any, split: Split) -> dict[str, float]:
    """Return what a residual network with or without gates does on a split.

    Returns:
        Accuracy in %, multiply-adds of a sample (``macs``), their share of the whole
        network's and the standard deviation of that share over samples.
    """
    if isinstance(network, GatedNetwork):
        record, whole = record_gates(network, split), network.open_macs
        logits, share = record.logits, float(record.shares.mean())
        deviation = float(record.shares.std())
    else:
        logits, share, deviation = logits_of(network, split), 1.0, 0.0
        whole = network.macs
    accuracy = 100 * float((logits.argmax(1) == split.labels).double().mean())
    found = {"accuracy": accuracy, "macs": share * whole, "share": share}
    return found | {"deviation": deviation}
