"""Chooses between the compiled session (Numba, CPU) and `TorchSession`."""

import importlib.util

from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.torch_session import TorchSession


def fastest_session(
    network: MainNetwork, rtol: float | None = None, max_steps: int | None = None
) -> TorchSession:
    """Return the fastest session of a main network where it is.

    The compiled session of `dynalay_gym.sessions.accel` does what `TorchSession` does;
    only rounding differs. It runs float32 networks of the two layer forms on a CPU, and
    needs the extra ``[fast]`` (Numba).

    Args:
        network: The main network.
        rtol: Relative tolerance of a solve, above 0; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
    """
    if importlib.util.find_spec("numba") is not None:
        from dynalay_gym.sessions.accel.session import CompiledSession, applies_to

        if applies_to(network):
            return CompiledSession(network, rtol, max_steps)
    return TorchSession(network, rtol, max_steps)
