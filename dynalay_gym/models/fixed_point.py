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
    rows = torch.arange(len(z0), device=z0.device)
    result, z = _not_begun(z0), z0
    for step in range(1, max_steps + 1 if len(z0) > 0 else 1):
        new = f(z, x)
        outcome = _outcome(new, z, rtol, step)
        leaving = outcome.status != SolverStatus.MAX_STEPS
        if step == max_steps or bool(leaving.all()):
            if len(rows) == len(z0):
                return outcome  # nobody left before: nothing to put together
            _put(result, rows, outcome)
            break
        if not bool(leaving.any()):
            z = new
            continue
        left, stay = leaving.nonzero().flatten(), (~leaving).nonzero().flatten()
        _put(result, rows[left], _take(outcome, left))
        rows, z, x = rows[stay], new.index_select(0, stay), x.index_select(0, stay)
    return result


def _not_begun(z0: Tensor) -> SolveResult:
    num_steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
    return SolveResult(
        value=z0.clone(),
        residual=torch.ones(len(z0), device=z0.device),
        num_steps=num_steps,
        status=torch.full_like(num_steps, SolverStatus.MAX_STEPS),
    )


def _outcome(new: Tensor, old: Tensor, rtol: float, step: int) -> SolveResult:
    """What the samples of a batch would have if all of them stopped here."""
    residual = relative_residual(new, old)
    broken, converged = residual.isnan(), residual < rtol
    status = torch.full(
        residual.shape, SolverStatus.MAX_STEPS, dtype=torch.int64, device=new.device
    )
    status.masked_fill_(converged, SolverStatus.CONVERGED)
    if bool(broken.any()):
        status.masked_fill_(broken, SolverStatus.NONFINITE)
        new = torch.where(broken.view(-1, *[1] * (new.dim() - 1)), old, new)
    return SolveResult(new, residual, torch.full_like(status, step), status)


def _take(result: SolveResult, rows: Tensor) -> SolveResult:
    return SolveResult(
        result.value.index_select(0, rows),
        result.residual[rows],
        result.num_steps[rows],
        result.status[rows],
    )


def _put(result: SolveResult, rows: Tensor, part: SolveResult) -> None:
    result.value.index_copy_(0, rows, part.value)
    result.residual[rows] = part.residual
    result.num_steps[rows] = part.num_steps
    result.status[rows] = part.status
