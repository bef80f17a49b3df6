"""Checkpoints of main networks: weights, architecture, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.networks.main_network import MainNetwork, MainNetworkConfig
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.storage.saved_folder import load_facts, load_folder, save_folder
from dynalay_gym.utils.device import resolve_device

KIND = "main-network"
RESIDUAL_KIND = "residual-network"


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What the manifest of a main network holds.

    Attributes:
        config: Its architecture.
        calibrations: Units of cost; see `dynalay_gym.sessions.calibration`.
        about: Anything else: where it comes from, its accuracies.
    """

    config: MainNetworkConfig
    calibrations: tuple[dict[str, Any], ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


def save_network(
    folder: str | Path,
    network: MainNetwork | ResidualNetwork,
    about: Mapping[str, Any],
    calibrations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a network with its architecture.

    Args:
        folder: Folder of the checkpoint, made if absent.
        network: The network.
        about: JSON-able values to keep beside it.
        calibrations: Units of cost that were measured.

    Raises:
        DivergedError: A weight is not finite; what the folder held stays.
    """
    save_weights(folder, network.config, network.state_dict(), about, calibrations)


def save_weights(
    folder: str | Path,
    config: MainNetworkConfig | ResidualConfig,
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    calibrations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write weights of an architecture; see `save_network`."""
    facts = {"config": config.to_dict(), "calibrations": calibrations, "about": about}
    kind = KIND if isinstance(config, MainNetworkConfig) else RESIDUAL_KIND
    save_folder(folder, kind, weights, facts)


def load_network_facts(folder: str | Path) -> NetworkFacts:
    """Return what is kept beside a main network; see `load_network`."""
    return load_facts(folder, KIND, NetworkFacts)


def load_network(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[MainNetwork, NetworkFacts]:
    """Read a main network.

    Args:
        folder: Folder that ``train_main.py`` wrote.
        device: Where the network goes.

    Returns:
        The network in evaluation mode, and what is kept beside it.

    Raises:
        CheckpointError: It is missing, damaged, or not a main network whose weights
            fit its architecture.
        ConfigError: There is no such device.
    """
    device = resolve_device(device)
    saved = load_folder(
        folder,
        KIND,
        NetworkFacts,
        expected=lambda facts: MainNetwork(facts.config).state_dict(),
        device=device,
    )
    network = MainNetwork(saved.facts.config).to(device)
    network.load_state_dict(saved.tensors)
    return network.eval(), saved.facts
