"""What is measured of a network of encoder layers, whatever its inputs are.

Axes: n samples, T tokens, D channels.
"""

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.layers.encoder import EncoderLayer
from dynalay_gym.networks.layers.token_solve import TokenResult
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.state_losses import loss_of_states

STEPS = (0, 1, 2, 3, 4, 8)
ACCURACY = {f"K = {steps}": (f"K = {steps}", ".1f") for steps in STEPS} | {
    "solved": ("solved", ".1f")
}
_ROWS = 500


def accuracies(network: MainNetwork, split: Split) -> dict[str, float]:
    """Return the accuracy after K iterations of all layers, and of their own solves."""
    found = {
        f"K = {steps}": percent(is_right(network, split, steps)) for steps in STEPS
    }
    return found | {"solved": percent(is_right(network, split, None))}


@torch.no_grad()
def is_right(network: MainNetwork, split: Split, steps: int | None) -> Tensor:
    """Return which samples are answered rightly, bool [n].

    Args:
        network: A network of encoder layers.
        split: Samples.
        steps: Iterations of every layer, 0 for the plain pass; None for the network's
            own solves.
    """
    solver = None if steps is None else SolverConfig(rtol=1e-9, max_steps=steps)
    state = 0 if steps == 0 else everything(network)
    parts = [
        network.forward_path(split.inputs[rows], state, solver).argmax(1)
        for rows in torch.arange(len(split)).split(_ROWS)
    ]
    return torch.cat(parts) == split.labels


def everything(network: MainNetwork) -> int:
    """Return the state in which all layers are iterated."""
    return int(2**network.num_layers) - 1


def solve_layers(
    network: MainNetwork, inputs: Tensor, solver: SolverConfig
) -> list[tuple[EncoderLayer, Tensor, TokenResult]]:
    """Return each layer, its input [n, D + 1, T, 1] and its solve, bottom up."""
    found = list[tuple[EncoderLayer, Tensor, TokenResult]]()
    below = network.stem(inputs)
    for level, layer in enumerate(network.main_layers):
        pattern = 2**level - 1
        plain = layer.plain(below, pattern)
        state, result = layer.iterate(below, plain, pattern, solver)
        assert isinstance(layer, EncoderLayer) and isinstance(result, TokenResult)
        assert state.x is not None, "an iterated layer"
        found.append((layer, state.x, result))
        below = state
    return found


@torch.no_grad()
def moduli(layer: EncoderLayer, x: Tensor) -> dict[str, float]:
    """Return by how much steps shrink, in the largest norm of a token.

    The seventh step over the sixth, and the largest ratio for small random changes.

    Args:
        layer: An encoder layer.
        x: Its injected input [n, D + 1, T, 1].
    """
    inner, x = layer.recurrence.layer, x[:, :-1, :, 0].mT.contiguous()
    iterates = [x]
    for _ in range(8):
        iterates.append(inner.apply_once(iterates[-1], x))

    def size(change: Tensor) -> Tensor:
        length: Tensor = change.norm(dim=2).amax(1)
        return length

    steps = [size(b - a) for a, b in pairwise(iterates)]
    ratio = steps[6] / steps[5]
    gap = 1e-3 * torch.randn_like(x)
    moved = inner.apply_once(iterates[-1] + gap, x) - inner.apply_once(iterates[-1], x)
    return {
        "modulus, median": float(ratio.median()),
        "modulus, 95 %": float(ratio.quantile(0.95)),
        "modulus, random": float((size(moved) / size(gap)).max()),
        "bound": float(inner.modulus_bound()),
    }


def gradients(network: MainNetwork, split: Split, num: int = 500) -> dict[str, float]:
    """Return the cosine of the implicit and the unrolled gradient of the weights.

    In double precision, of the loss of those of the first samples whose solves come to
    a fixed point in every layer; and their share. Elsewhere there is no solution to
    differentiate.
    """
    own, inputs = copy.deepcopy(network).double(), split.inputs[:num]
    if inputs.is_floating_point():
        inputs = inputs.double()
    exact: Any = {"rtol": 1e-9, "max_steps": 400}
    with torch.no_grad():
        solved = solve_layers(own, inputs, SolverConfig(**exact))
    ended = torch.stack([result.status == 0 for _, _, result in solved]).all(0)
    if not ended.any():
        return {"have a solution": 0.0}
    found = list[Tensor]()
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        own.zero_grad()
        options = exact | {"adjoint_rtol": 1e-9, "adjoint_max_steps": 400}
        solver = SolverConfig(**options, rule=rule)
        state, labels = {everything(own): 1.0}, split.labels[:num][ended]
        loss_of_states(own, inputs[ended], labels, state, solver).backward()
        grads = [w.grad for w in own.parameters() if w.grad is not None]
        found.append(torch.cat([grad.flatten() for grad in grads]))
    alike = float(torch.cosine_similarity(found[0], found[1], dim=0))
    return {"cosine": alike, "have a solution": percent(ended)}


def percent(right: Tensor) -> float:
    """Return the share of what is true, in %."""
    return 100 * float(right.double().mean())
