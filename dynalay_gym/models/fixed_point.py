"""Plain fixed-point iteration with evidence for every sample.

Axes: n samples; the rest of a state's axes are flattened for norms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

Map = Callable[[Tensor, Tensor], Tensor]


class SolverStatus(IntEnum):
    """How one sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2


@dataclass(frozen=True)
class SolveResult:
    """A solve and its evidence, per sample.

    Attributes:
        value: Last finite iterate [n, ...].
        residual: Relative residual of the last step, float [n]; 1 if none was taken.
        num_steps: Applications of the map, int64 [n].
        status: ``SolverStatus`` values, int64 [n].
    """

    value: Tensor
    residual: Tensor
    num_steps: Tensor
    status: Tensor


def relative_residual(new: Tensor, old: Tensor) -> Tensor:
    """``||new - old|| / ||new||`` per sample (DynaLay eq. 13), with 0/0 = 0.

    Args:
        new: Later iterate [n, ...].
        old: Earlier iterate [n, ...].

    Returns:
        Float [n]; a dead state (both zero) has residual 0: it has converged. Infinite
        if only the later one is zero, NaN if a norm overflows.
    """
    norm = new.flatten(1).float().square().sum(1)
    change = (new - old).flatten(1).float().square().sum(1)
    ratio = torch.where(norm.isinf(), torch.nan, change / norm)
    return torch.where(change == 0, change, ratio).sqrt()


@torch.no_grad()
def fixed_point_iteration(
    f: Map, z0: Tensor, x: Tensor, *, rtol: float, max_steps: int
) -> SolveResult:
    """Iterate ``z <- f(z, x)`` until each sample's relative residual is below rtol.

    Samples that converge leave the batch at once, so nobody pays for the slowest.
    Divergence is data: a sample whose iterate stops being finite keeps its last finite
    one and is flagged.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone.
        z0: Initial iterate [n, ...].
        x: Injected input [n, ...], constant over the iteration.
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.

    Returns:
        SolveResult with a value of the shape of z0, without gradient.

    References:
        Mathur & Plis (2023), DynaLay, section 2.1 and eq. 13.
    """
    n, device = z0.shape[0], z0.device
    value = z0.clone()
    residual = torch.ones(n, device=device)
    num_steps = torch.zeros(n, dtype=torch.int64, device=device)
    status = torch.full_like(num_steps, SolverStatus.MAX_STEPS)
    active, z = torch.arange(n, device=device), z0
    for step in range(1, max_steps + 1):
        if active.numel() == 0:
            break
        new = f(z, x)
        change = relative_residual(new, z)
        finite = ~change.isnan()
        converged = finite & (change < rtol)
        residual[active] = change
        num_steps[active] = step
        status[active[converged]] = SolverStatus.CONVERGED
        status[active[~finite]] = SolverStatus.NONFINITE
        going = finite & ~converged
        if bool(going.all()) and step < max_steps:
            z = new
            continue
        leaving = finite if step == max_steps else converged
        value[active[leaving]] = new[leaving]
        value[active[~finite]] = z[~finite]
        active, z, x = active[going], new[going], x[going]
    return SolveResult(value, residual, num_steps, status)
