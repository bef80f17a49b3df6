"""Bookkeeping of a batched solve.

Who still iterates, and each sample's residual, steps and status: a few numbers per
sample, kept in main memory, where reading them costs least. The states stay on their
device.

Axes: n samples, m of them still iterated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.fixed_point.rows import (
    empty_rows,
    flat_rows,
    row_norms,
    select_rows,
)

# f(z, *args): the iterate [n, ...] and what the map depends on beside it, row by row.
Map = Callable[..., Tensor]
Residuals = NDArray[np.floating]

# Below it the squares that a norm sums are lost to underflow in single precision.
_SMALLEST_NORM = 1e-12
# Elements of a row above which NumPy's library may divide a product among threads.
_LONGEST_DOT = 2**13


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
        residual: Relative residual of the last step, float32 [n]; 1 if none was taken,
            NaN if the iterate stopped being finite.
        num_steps: Applications of the map, int64 [n].
        status: `SolverStatus` values, int64 [n].
        saved: Multiply-adds by which the steps took less than whole applications of the
            map, int64 [n]; None where all of them were whole.
    """

    value: Tensor
    residual: Tensor
    num_steps: Tensor
    status: Tensor
    saved: Tensor | None = None

    def macs(self, application: int) -> Tensor:
        """Return the multiply-adds of the solve, int64 [n].

        Args:
            application: Those of one whole application of the map.
        """
        whole = application * self.num_steps
        return whole if self.saved is None else whole - self.saved


class Progress:
    """The samples of a batch that are still iterated, and how the others ended.

    Args:
        z0: Initial iterate [n, ...].
        rtol: Relative tolerance, > 0.
        max_steps: Most steps, >= 0.
    """

    def __init__(self, z0: Tensor, rtol: float, max_steps: int) -> None:
        n = len(z0)
        self._value = z0 if max_steps > 0 else z0.clone()
        self._rtol, self._max_steps = rtol, max_steps
        self._residual = np.ones(n, dtype=np.float32)
        self._num_steps = np.zeros(n, dtype=np.int64)
        self._status = np.full(n, SolverStatus.MAX_STEPS, dtype=np.int64)
        self._rows = np.arange(n)

    @property
    def is_running(self) -> bool:
        """Whether any sample is still iterated."""
        return len(self._rows) > 0

    def record(
        self, new: Tensor, last_finite: Tensor, residual: Residuals, step: int
    ) -> Tensor | None:
        """Record a step of the m samples that are iterated; some end with it.

        Args:
            new: Iterate [m, ...].
            last_finite: Value of a sample whose new iterate is not finite [m, ...].
            residual: Relative residual [m]; NaN of an iterate that is not finite.
            step: Number of the step, from 1.

        Returns:
            Which of the m go on, int64 [k]; None if all of them do, or none.
        """
        goes_on = residual >= self._rtol  # False for NaN
        if step == self._max_steps:
            goes_on[:] = False
        if goes_on.all():
            return None
        is_broken = np.isnan(residual)
        if is_broken.any():
            new = new.clone()
            broken = _on_device(np.flatnonzero(is_broken), new)
            new[broken] = last_finite[broken]
        if not goes_on.any():
            self._end(self._rows, new, residual, step)
            self._rows = self._rows[:0]
            return None
        ends = ~goes_on
        value = select_rows(new, _on_device(np.flatnonzero(ends), new))
        self._end(self._rows[ends], value, residual[ends], step)
        self._rows = self._rows[goes_on]
        return _on_device(np.flatnonzero(goes_on), new)

    def result(self) -> SolveResult:
        """Return how all samples ended."""
        evidence = (self._residual, self._num_steps, self._status)
        return SolveResult(
            self._value, *(_on_device(part, self._value) for part in evidence)
        )

    def _end(
        self, rows: NDArray[np.int64], value: Tensor, residual: Residuals, step: int
    ) -> None:
        """Keep the values and the evidence of samples that end."""
        self._residual[rows], self._num_steps[rows] = residual, step
        self._status[rows[residual < self._rtol]] = SolverStatus.CONVERGED
        self._status[rows[np.isnan(residual)]] = SolverStatus.NONFINITE
        n = len(self._status)
        if len(rows) == n:  # all at once: nothing to put together
            self._value = value
            return
        if len(self._rows) == n:  # the first to leave
            self._value = empty_rows(n, value)
        where = _on_device(rows, value)
        flat_rows(self._value).index_copy_(0, where, flat_rows(value))


def relative_residual(new: Tensor, old: Tensor) -> Tensor:
    """Return ``||new - old|| / ||new||`` per sample, with 0/0 = 0.

    Args:
        new: Later iterate [n, ...].
        old: Earlier iterate [n, ...].

    Returns:
        Float [n]. Where both are zero the residual is 0: the sample has converged.
        Infinite if only the later one is zero, NaN if a norm is not finite.

    References:
        Mathur & Plis (2023), DynaLay, eq. 13.
    """
    return _ratio(row_norms(new), row_norms(new - old))


def _ratio(norm: Tensor, change: Tensor) -> Tensor:
    ratio = torch.where(norm.isinf(), torch.nan, change / norm)
    return torch.where(change == 0, 0.0, ratio)


@np.errstate(all="ignore")  # whatever the caller has set: states may be of any size
def step_residual(new: Tensor, change: Tensor) -> Residuals:
    """Return the relative residual of a step, for finite states of any size.

    Args:
        new: Later iterate [n, ...].
        change: Its difference from the earlier one [n, ...].

    Returns:
        Array [n] in main memory; NaN where the iterate is not finite.
    """
    norm, size = _host_norms(new), _host_norms(change)
    in_range = (norm > _SMALLEST_NORM) & (norm < np.inf) & (size < np.inf)
    if in_range.all():
        return size / norm
    residual = np.divide(size, norm, out=np.ones_like(size), where=in_range)
    # Only the rows that need it, so that no row depends on another.
    odd = ~in_range
    rows = _on_device(np.flatnonzero(odd), new)
    residual[odd] = _scaled_residual(flat_rows(new)[rows], flat_rows(change)[rows])
    return residual


def _host_norms(states: Tensor) -> Residuals:
    """Return the norm of each row in main memory, with no copy of the states there."""
    rows = flat_rows(states)
    if rows.is_cpu and rows.dtype == torch.float32 and rows.shape[1] <= _LONGEST_DOT:
        array = rows.numpy()
        squares: Residuals = np.vecdot(array, array)
        return np.sqrt(squares)
    found: Residuals = row_norms(rows).cpu().numpy()
    return found


def _scaled_residual(new: Tensor, change: Tensor) -> Residuals:
    """Return residuals of rows [m, D] whose norms do not fit their type."""
    new, change = new.double(), change.double()
    largest = torch.maximum(new.abs().amax(1), change.abs().amax(1))[:, None]
    scale = torch.where(largest == 0, 1.0, largest)
    ratio = _ratio(row_norms(new / scale), row_norms(change / scale))
    found: Residuals = ratio.cpu().numpy()
    return found


def _on_device(array: NDArray[np.number], like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
