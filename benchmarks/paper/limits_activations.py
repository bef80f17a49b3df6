"""How fast solves converge by activation: one more side of DynaLay's limitations.

The map of a convolutional layer is ``z = relu(x + W z)``. Here other functions take the
place of the ReLU, with the same contraction W and the same x: that of the network as it
is, whose answers with another function are not looked at.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.experiment import Setting, shared_folder
from benchmarks.paper.limits_solves import COMMON, Entry, forms, fresh, some_of
from dynalay_gym.data.splits import Split
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.fixed_point.solve import fixed_point_iteration
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.conv import ConvLayer
from dynalay_gym.networks.main_network import MainNetwork

Activation = Callable[[Tensor], Tensor]

# Of each function, its steepest slope. The map contracts if kappa times it is below 1.
ACTIVATIONS: dict[str, tuple[Activation, float]] = {
    "ReLU": (torch.relu, 1.0),
    "leaky ReLU": (lambda x: F.leaky_relu(x, 0.1), 1.0),
    "GELU": (F.gelu, 1.129),
    "softplus": (F.softplus, 1.0),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 0.25),
    "none": (lambda x: x, 1.0),
}
_KAPPA = 0.9  # of fresh weights


def activations(setting: Setting, seed: int, folder: Path) -> list[Entry]:
    """Return how solves end with each activation; nothing where no layer convolves.

    Returns:
        Of each network, fresh ones and the trained one, its ``form``, ``weights`` and
        ``kappa``; of each ``activation`` its ``slope``; and what `ends` says.
    """
    data = setting.splits()["test"]
    networks = [
        ("fresh", fresh(replace(config, kappa=_KAPPA), seed))
        for config in forms(setting, data)
    ]
    shared = shared_network(setting, seed, shared_folder(setting, folder))
    networks.append(("trained", load_main_network(shared)[0]))
    return [
        {
            "form": network.config.form,
            "weights": weights,
            "kappa": network.config.kappa,
            "activation": name,
            "slope": slope,
        }
        | ends(network, data, function)
        for weights, network in networks
        if isinstance(network.main_layers[0], ConvLayer)
        for name, (function, slope) in ACTIVATIONS.items()
    ]


@torch.no_grad()
def ends(network: MainNetwork, split: Split, activation: Activation) -> Entry:
    """Return how solves with an activation end, over layers and some samples.

    Returns:
        ``iterations`` in the mean and the ``largest`` number of them, by the options of
        `COMMON`; and solves in % that are ``capped``.
    """
    below, taken, capped = network.freeze().stem(some_of(split)), [], []
    for level, layer in enumerate(network.main_layers):
        pattern = 2**level - 1
        plain = layer.plain(below, pattern)
        below, _ = layer.iterate(below, plain, pattern, COMMON)
        recurrence = layer.recurrence
        assert isinstance(recurrence, FixedPointLayer) and below.x is not None
        solve = fixed_point_iteration(
            _map(recurrence, activation),
            activation(below.x),
            below.x,
            rtol=COMMON.rtol,
            max_steps=COMMON.max_steps,
        )
        taken.append(solve.num_steps)
        capped.append(solve.status != SolverStatus.CONVERGED)
    steps = torch.cat(taken)
    return {
        "iterations": float(steps.double().mean()),
        "largest": int(steps.max()),
        "capped": 100 * float(torch.cat(capped).double().mean()),
    }


def _map(
    recurrence: FixedPointLayer, activation: Activation
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the map of a layer with another activation."""
    weight = recurrence.weight()
    return lambda z, x: activation(x + recurrence.recur(z, weight))
