"""What the manifest of a predictor holds, and the networks made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks import checkpoint
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.fastest import as_session, fastest_session
from dynalay_gym.sessions.protocol import NetworkSession
from dynalay_gym.storage.saved_folder import restore
from dynalay_gym.storage.schema import read_as
from dynalay_gym.utils.ranges import (
    Iterations,
    PenaltyUnit,
    Portion,
    Tolerance,
)

KIND = "predictor"


@dataclass(frozen=True, kw_only=True)
class SavedPart:
    """The network or the policy: its kind, and what that kind is made of."""

    kind: str
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Solves:
    """Options of `fastest_session`."""

    rtol: Tolerance
    max_steps: Iterations | tuple[Iterations, ...]
    iterations_per_action: Portion | None


@dataclass(frozen=True, kw_only=True)
class PredictorFacts:
    """What the manifest of a predictor holds.

    Attributes:
        penalty: See `DynaLayPredictor`.
        penalty_unit: See `DynaLayPredictor`.
        max_decisions: See `DynaLayPredictor`.
        network: The network; its tensors are ``network.<name>``.
        policy: The policy; its tensors are ``policy.<name>``.
    """

    penalty: Annotated[float, Meta(ge=0)]
    penalty_unit: PenaltyUnit
    max_decisions: Portion
    network: SavedPart
    policy: SavedPart

    @property
    def settings(self) -> dict[str, Any]:
        """Return the predictor's own arguments."""
        names = ("penalty", "penalty_unit", "max_decisions")
        return {name: getattr(self, name) for name in names}


def restore_main_network(
    options: dict[str, Any], tensors: dict[str, Tensor]
) -> NetworkSession:
    """Make a main network's session from what `TorchSession.to_saved` returned."""
    what = "the predictor's network"
    config = read_as(options.pop("config", None), MainNetworkConfig, what)
    solves = read_as(options, Solves, what)
    steps, num_layers = solves.max_steps, len(config.channels)
    if not isinstance(steps, int) and len(steps) != num_layers:
        raise CheckpointError(
            f"{what} has {num_layers} layers and max_steps of {len(steps)}; save it "
            "again with this version"
        )
    network = restore(lambda: MainNetwork(config), tensors, what)
    return fastest_session(network, **vars(solves))


def restore_other_network(
    kind: str, options: dict[str, Any], tensors: dict[str, Tensor]
) -> NetworkSession:
    """Make the session of a network without solves, of a kind in `checkpoint.KINDS`."""
    what, types = "the predictor's network", checkpoint.KINDS[kind]
    config = read_as(options.pop("config", None), types.config, what)
    return as_session(restore(lambda: types.build(config), tensors, what))


# What makes a session from what its `to_saved` returned, by kind.
RESTORE: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], NetworkSession]] = {
    kind: partial(restore_other_network, kind) for kind in checkpoint.KINDS
}
RESTORE[checkpoint.KIND] = restore_main_network
