"""Checkpoints of networks: weights, architecture, and what was measured.

The manifest's kind says which network it is; `KINDS` has all that are known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.lcnet.config import GatedConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.storage.saved_folder import (
    load_facts,
    load_folder,
    save_folder,
    saved_kind,
)
from dynalay_gym.utils.device import resolve_device

KIND = "main-network"
Network = MainNetwork | ResidualNetwork | GatedNetwork
Config = MainNetworkConfig | ResidualConfig | GatedConfig
C = TypeVar("C")


class NetworkKind(NamedTuple):
    """A kind of network.

    Attributes:
        config: Class of its architecture.
        network: Its own class.
        build: Makes a network of an architecture.
    """

    config: type[Any]
    network: type[Any]
    build: Callable[[Any], Any]


KINDS: Mapping[str, NetworkKind] = {
    KIND: NetworkKind(MainNetworkConfig, MainNetwork, MainNetwork),
    "residual-network": NetworkKind(ResidualConfig, ResidualNetwork, ResidualNetwork),
    "gated-network": NetworkKind(GatedConfig, GatedNetwork, GatedNetwork.from_config),
}


def kind_of(network: Network | Config) -> str:
    """Return the kind of a network, or of an architecture; see `KINDS`."""
    return next(kind for kind, it in KINDS.items() if isinstance(network, it[:2]))


@dataclass(frozen=True, kw_only=True)
class NetworkFacts(Generic[C]):
    """What the manifest of a network holds.

    Attributes:
        config: Its architecture.
        calibrations: Units of cost; see `dynalay_gym.sessions.calibration`.
        about: Anything else: where it comes from, its accuracies.
    """

    config: C
    calibrations: tuple[dict[str, Any], ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


def save_network(
    folder: str | Path,
    network: Network,
    about: Mapping[str, Any],
    calibrations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a network with its architecture.

    Args:
        folder: Folder of the checkpoint, made if absent.
        network: A network of a known kind.
        about: JSON-able values to keep beside it.
        calibrations: Units of cost that were measured.

    Raises:
        DivergedError: A weight is not finite; what the folder held stays.
    """
    save_weights(folder, network.config, network.state_dict(), about, calibrations)


def save_weights(
    folder: str | Path,
    config: Config,
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    calibrations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write weights of an architecture; see `save_network`."""
    facts = {"config": config.to_dict(), "calibrations": calibrations, "about": about}
    save_folder(folder, kind_of(config), weights, facts)


def load_network_facts(folder: str | Path) -> NetworkFacts[Any]:
    """Return what is kept beside a network; see `load_network`."""
    kind = _known_kind(folder)
    return load_facts(folder, kind, _schema(kind))


def load_network(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[Any, NetworkFacts[Any]]:
    """Read a network of any known kind.

    Args:
        folder: Folder that ``train_main.py`` wrote.
        device: Where the network goes.

    Returns:
        The network in evaluation mode, and what is kept beside it.

    Raises:
        CheckpointError: It is missing, damaged, or not a network whose weights fit its
            architecture.
        ConfigError: There is no such device.
    """
    device, kind = resolve_device(device), _known_kind(folder)
    types = KINDS[kind]
    saved = load_folder(
        folder,
        kind,
        _schema(kind),
        expected=lambda facts: types.build(facts.config).state_dict(),
        device=device,
    )
    network = types.build(saved.facts.config).to(device)
    network.load_state_dict(saved.tensors)
    return network.eval(), saved.facts


def load_main_network(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[MainNetwork, NetworkFacts[MainNetworkConfig]]:
    """Read a main network; of another kind is an error. See `load_network`."""
    check_main_network(folder)
    network, facts = load_network(folder, device)
    return network, facts


def check_main_network(folder: str | Path) -> None:
    """Raise CheckpointError unless a folder holds a main network."""
    kind = _known_kind(folder)
    if kind != KIND:
        raise CheckpointError(
            f"the checkpoint at {folder} holds a {kind}, whose layers cannot be "
            "iterated; give the folder of a main network"
        )


def _schema(kind: str) -> type[NetworkFacts[Any]]:
    """Return the type of a kind's facts, its architecture included."""
    facts: Any = NetworkFacts
    schema: type[NetworkFacts[Any]] = facts[KINDS[kind].config]
    return schema


def _known_kind(folder: str | Path) -> str:
    kind = saved_kind(folder)
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise CheckpointError(
            f"the checkpoint at {folder} holds {kind!r}, no network; give a folder "
            f"with one ({known})"
        )
    return kind
