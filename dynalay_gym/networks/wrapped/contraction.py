"""Does iterating a block of somebody's network converge, and how fast?

Nothing bounds such a block, so this is measured on inputs, and holds for them alone.

Axes: n samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.rows import row_norms
from dynalay_gym.networks.wrapped.network import WrappedNetwork

_STEPS = 10


@dataclass(frozen=True)
class BlockContraction:
    """What iterating a block did to some inputs.

    Attributes:
        name: Name of the block.
        certified: Whether it is bound to contract, being a `FixedPointLayer`.
        median: Factor from one step of the iteration to the next, the mean of ten
            steps, median over samples; below 1 the steps become shorter. Of a certified
            block its bound.
        largest: The largest such factor.
        mean_steps: Mean iterations of the solve.
        converged: Share of samples that met the tolerance.
        diverged: Share of samples whose iterate stopped being finite.
    """

    name: str
    certified: bool
    median: float
    largest: float
    mean_steps: float
    converged: float
    diverged: float


@torch.no_grad()
def measure_contraction(
    network: WrappedNetwork, inputs: Tensor
) -> list[BlockContraction]:
    """Iterate each block of a network by itself, while the others run as trained.

    Args:
        network: The network, in evaluation mode.
        inputs: Inputs [n, ...].

    Returns:
        One entry for each block that can be iterated, or is one of ours.
    """
    found, values = list[BlockContraction](), network.start(inputs)
    for level, name in enumerate(network.names):
        solved, layer = network.solve(level, values), network.own_layer(name)
        if solved is not None and layer is not None:
            factors = torch.full((len(inputs),), layer.kappa)
            found.append(_entry(name, True, factors, solved[1]))
        elif "iterate" in network.choices[level]:
            factors = _factors(network, level, values)
            _, result = network.iterate(level, values)
            found.append(_entry(name, False, factors, result))
        values = network.advance(level, network.run(level, values), values)
    return found


def _factors(network: WrappedNetwork, level: int, values: Sequence[Any]) -> Tensor:
    """Return the mean factor between steps of each sample, float [n]."""
    step, (x, *others) = network.iteration(level, values)
    z, sizes = x, list[Tensor]()
    for _ in range(_STEPS):
        new = step(z, x, *others)
        sizes.append(row_norms(new - z))
        z = new
    factors = (sizes[-1] / sizes[0]) ** (1 / (_STEPS - 1))
    return torch.where(sizes[-1] == 0, 0.0, factors)  # it has arrived


def _entry(
    name: str, certified: bool, factors: Tensor, result: SolveResult
) -> BlockContraction:
    ended = [(result.status == status).double().mean() for status in SolverStatus]
    return BlockContraction(
        name=name,
        certified=certified,
        median=float(factors.nan_to_num(nan=torch.inf).median()),
        largest=float(factors.nan_to_num(nan=torch.inf).max()),
        mean_steps=float(result.num_steps.double().mean()),
        converged=float(ended[SolverStatus.CONVERGED]),
        diverged=float(ended[SolverStatus.NONFINITE]),
    )
