"""Plain fixed-point iteration with evidence for every sample.

Axes: n samples; the rest of a state's axes are flattened for norms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

# Takes the iterate and whatever it is a function of beside it, row by row.
Map = Callable[..., Tensor]

# Squares of smaller norms would be lost to underflow, and with them a residual.
_TINY = 1e-24

# Elements from which PyTorch divides a sum among threads.
_GRAIN = 2**15


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
    return _relative(squared_norm(new), squared_norm(new - old))


def _relative(norm: Tensor, change: Tensor) -> Tensor:
    ratio = torch.where(norm.isinf(), torch.nan, change / norm)
    return torch.where(change == 0, change, ratio).sqrt()


def flat_rows(states: Tensor) -> Tensor:
    """View of states [n, ...] as [n, D], in the order in which they lie in memory."""
    if states.dim() == 4 and not states.is_contiguous():
        states = states.permute(0, 2, 3, 1)
    return states.flatten(1)


def squared_norm(states: Tensor) -> Tensor:
    """Squared norm of each row, float32 [n]."""
    return row_sums(flat_rows(states).float().square())


def row_sums(numbers: Tensor) -> Tensor:
    """Sum of each row of [n, D]; a lone row is not divided among threads."""
    is_divided = numbers.shape[1] >= _GRAIN and not torch.compiler.is_exporting()
    if is_divided and len(numbers) == 1:
        return numbers.expand(2, -1).sum(1)[:1]
    return numbers.sum(1)


def select_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Rows (int64 [m]) of states [n, ...], in the same layout.

    ``index_select`` forgets that channels lie side by side, and convolutions of
    another layout round otherwise: a row would depend on who left the batch.
    """
    if states.dim() == 4 and not states.is_contiguous():
        pixels = states.permute(0, 2, 3, 1)
        return pixels.index_select(0, rows).permute(0, 3, 1, 2)
    return states.index_select(0, rows)


def checked_residual(new: Tensor, change: Tensor) -> tuple[Tensor, bool]:
    """``relative_residual`` that holds for states of any size.

    Args:
        new: Later iterate [n, ...].
        change: Its difference from the earlier one [n, ...].

    Returns:
        Float [n], NaN where a norm is not finite; whether it is known to have no NaN.
    """
    norm, step = squared_norm(new), squared_norm(change)
    if bool(((norm > _TINY) & (norm + step < math.inf)).all()):
        return (step / norm).sqrt(), True
    size = torch.maximum(_largest(new), _largest(change))
    small = (size < math.sqrt(_TINY)) & (size > 0)
    scale = torch.where(small, size, 1.0).view(-1, *[1] * (new.dim() - 1))
    new, change = new / scale, change / scale
    return _relative(squared_norm(new), squared_norm(change)), False


def _largest(states: Tensor) -> Tensor:
    return flat_rows(states).abs().amax(1)


@torch.no_grad()
def fixed_point_iteration(
    f: Map, z0: Tensor, *args: Tensor, rtol: float, max_steps: int
) -> SolveResult:
    """Iterate ``z <- f(z, *args)`` until each sample's relative residual is below rtol.

    Samples that converge leave the batch at once, so nobody pays for the slowest.
    Divergence is data: a sample whose iterate stops being finite keeps its last finite
    one and is flagged.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone.
        z0: Initial iterate [n, ...].
        *args: What f takes beside the iterate, each [n, ...]; constant over the
            iteration.
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.

    Returns:
        SolveResult with a value of the shape of z0, without gradient.

    References:
        Mathur & Plis (2023), DynaLay, section 2.1 and eq. 13.
    """
    rows = torch.arange(len(z0), device=z0.device)
    result, z = not_begun(z0), z0
    for step in range(1, max_steps + 1 if len(z0) > 0 else 1):
        new = f(z, *args)
        residual, is_finite = checked_residual(new, new - z)
        outcome = outcome_of(new, residual, rtol, step)
        if not is_finite:
            outcome = without_nonfinite(outcome, z)
        leaving = outcome.status != SolverStatus.MAX_STEPS
        if step == max_steps or bool(leaving.all()):
            if len(rows) == len(z0):
                return outcome  # nobody left before: nothing to put together
            put_rows(result, rows, outcome)
            break
        if not bool(leaving.any()):
            z = new
            continue
        left, stay = leaving.nonzero().flatten(), (~leaving).nonzero().flatten()
        put_rows(result, rows[left], take_rows(outcome, left))
        rows, z = rows[stay], select_rows(new, stay)
        args = tuple(select_rows(part, stay) for part in args)
    return result


def not_begun(z0: Tensor) -> SolveResult:
    """Result of no steps at all; its value is a copy of z0."""
    num_steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
    return SolveResult(
        value=z0.clone(),
        residual=torch.ones(len(z0), device=z0.device),
        num_steps=num_steps,
        status=torch.full_like(num_steps, SolverStatus.MAX_STEPS),
    )


def outcome_of(new: Tensor, residual: Tensor, rtol: float, step: int) -> SolveResult:
    """What the samples of a batch would have if all of them stopped here.

    Args:
        new: Iterate [n, ...].
        residual: Relative residual of the step, float [n].
        rtol: Relative tolerance.
        step: Number of the step.
    """
    status = torch.full(
        residual.shape, SolverStatus.MAX_STEPS, dtype=torch.int64, device=new.device
    )
    status.masked_fill_(residual < rtol, SolverStatus.CONVERGED)
    return SolveResult(new, residual, torch.full_like(status, step), status)


def without_nonfinite(outcome: SolveResult, last_finite: Tensor) -> SolveResult:
    """Flag rows whose residual is NaN; their value is that of ``last_finite``."""
    broken = outcome.residual.isnan()
    states = broken.view(-1, *[1] * (last_finite.dim() - 1))
    return replace(
        outcome,
        value=torch.where(states, last_finite, outcome.value),
        status=outcome.status.masked_fill(broken, SolverStatus.NONFINITE),
    )


def take_rows(result: SolveResult, rows: Tensor) -> SolveResult:
    """Rows (int64 [m]) of a result."""
    return SolveResult(
        select_rows(result.value, rows),
        result.residual[rows],
        result.num_steps[rows],
        result.status[rows],
    )


def put_rows(result: SolveResult, rows: Tensor, part: SolveResult) -> None:
    """Write the result of m rows into rows (int64 [m]) of a larger one."""
    result.value.index_copy_(0, rows, part.value)
    result.residual[rows] = part.residual
    result.num_steps[rows] = part.num_steps
    result.status[rows] = part.status
