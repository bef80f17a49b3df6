"""From a network to its session: compiled (Numba, CPU), `TorchSession`, or another."""

import importlib.util
import os
from collections.abc import Sequence
from functools import cache

import torch

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import Network
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.sessions.protocol import NetworkSession
from dynalay_gym.sessions.skip.gated import GatedSession
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.sessions.skip.wrapped import WrappedSession
from dynalay_gym.sessions.torch_session import Steps, TorchSession
from dynalay_gym.utils.device import torch_defaults

Runnable = Network | WrappedNetwork | NetworkSession


def fastest_session(
    network: MainNetwork,
    rtol: float | None = None,
    max_steps: Steps | None = None,
    iterations_per_action: int | None = None,
) -> TorchSession:
    """Return the fastest session of a main network where it is.

    The compiled session of `dynalay_gym.sessions.accel` does what `TorchSession` does;
    only rounding differs. It runs float32 networks of the two convolutional forms on a
    CPU, a solve at once, and needs the extra ``[fast]`` (Numba).

    Args:
        network: The main network.
        rtol: Relative tolerance of a solve, above 0; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        iterations_per_action: Iterations of a portion; None iterates to the end.
    """
    portion = iterations_per_action
    if portion is None and importlib.util.find_spec("numba") is not None:
        from dynalay_gym.sessions.accel.session import CompiledSession, applies_to

        if applies_to(network) and not isinstance(max_steps, Sequence):
            return CompiledSession(network, rtol, max_steps)
    return TorchSession(network, rtol, max_steps, portion)


@torch_defaults()
def as_session(
    network: Runnable,
    rtol: float | None = None,
    max_steps: int | None = None,
    iterations_per_action: int | None = None,
) -> NetworkSession:
    """Return the fastest session of a network, or a session as it is.

    Processes that are forked from now on run PyTorch with one thread.

    Args:
        network: The network.
        rtol: See `fastest_session`.
        max_steps: See `fastest_session`.
        iterations_per_action: See `fastest_session`.

    Raises:
        ConfigError: Options come with a network of blocks or with a session, which have
            their own; or it is neither.
    """
    _make_forks_usable()
    options = rtol, max_steps, iterations_per_action
    if isinstance(network, MainNetwork):
        return fastest_session(network, *options)
    is_given = any(option is not None for option in options)
    if isinstance(network, ResidualNetwork | GatedNetwork | WrappedNetwork):
        if is_given:
            raise ConfigError(
                f"a {type(network).__name__} takes no rtol, max_steps or "
                "iterations_per_action; leave them out (of iterated blocks they are "
                "fields of its config); in the maze ids, which portion solves, "
                "give iterations_per_action=None"
            )
        if isinstance(network, WrappedNetwork):
            return WrappedSession(network)
        if isinstance(network, GatedNetwork):
            return GatedSession(network)
        return SkipSession(network)
    if is_given:
        raise ConfigError(
            "a session has its own solver settings; leave rtol, max_steps and "
            "iterations_per_action out; in the maze ids, which portion solves, give "
            "iterations_per_action=None"
        )
    if not hasattr(network, "action_names"):
        raise ConfigError(
            f"a {type(network).__name__} is no network to run; give a checkpoint's "
            "folder, a MainNetwork, ResidualNetwork, GatedNetwork or NetworkSession; a "
            "torch.nn.Module of your own becomes one by dynalay_gym.wrap"
        )
    return network


@cache
def _make_forks_usable() -> None:
    """Have forked processes use one thread of PyTorch's.

    A fork does not copy the threads of PyTorch's pool, and would wait for them for
    ever. Forking is how `gym.make_vec(..., vectorization_mode="async")` and
    multiprocessing start their workers on Linux.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
