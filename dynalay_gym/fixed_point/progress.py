"""Evidence of a solve: residuals, and who is still being iterated.

What decides who stays is a few numbers per sample; they are kept on the host, where
reading them costs least, and the states stay where they are.

Axes: n samples; the rest of a state's axes are flattened for norms.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.fixed_point import batch_invariant

# Squares of smaller norms would be lost to underflow, and with them a residual.
_TINY = 1e-24

# Elements of a row from which libraries divide a sum among threads (PyTorch 2^15,
# OpenBLAS 10,000).
GRAIN = 2**13


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


class Progress:
    """The samples of a batch that are still iterated, and how the others ended.

    Args:
        z0: Initial iterate [n, ...].
        rtol: Relative tolerance.
        max_steps: Most steps.
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
    def going(self) -> bool:
        """Whether any sample is still iterated."""
        return len(self._rows) > 0

    def note(
        self, new: Tensor, last_finite: Tensor, residual: NDArray[np.float32], step: int
    ) -> Tensor | None:
        """Note a tested step of the m samples that are iterated; some end with it.

        Args:
            new: Iterate [m, ...].
            last_finite: What a sample keeps whose new iterate is not finite [m, ...].
            residual: Relative residual [m]; NaN of an iterate that is not finite.
            step: Number of the step, from 1.

        Returns:
            Which of the m stay, int64 [k]; None while all of them do, or none.
        """
        going = residual >= self._rtol  # never of NaN
        is_last = step == self._max_steps
        if not is_last and going.all():
            return None
        broken = np.isnan(residual)
        if broken.any():
            new = new.clone()
            there = _index(np.flatnonzero(broken), new)
            new[there] = last_finite[there]
        if is_last or not going.any():
            self._end(self._rows, new, residual, step)
            self._rows = self._rows[:0]
            return None
        leave = _index(np.flatnonzero(~going), new)
        self._end(self._rows[~going], select_rows(new, leave), residual[~going], step)
        self._rows = self._rows[going]
        return _index(np.flatnonzero(going), new)

    def result(self) -> SolveResult:
        """How all samples ended."""
        device = self._value.device
        evidence = self._residual, self._num_steps, self._status
        return SolveResult(
            self._value, *(torch.from_numpy(each).to(device) for each in evidence)
        )

    def _end(
        self,
        rows: NDArray[np.int64],
        value: Tensor,
        residual: NDArray[np.float32],
        step: int,
    ) -> None:
        """Note how some samples end: their values and the evidence."""
        self._residual[rows], self._num_steps[rows] = residual, step
        self._status[rows[residual < self._rtol]] = SolverStatus.CONVERGED
        self._status[rows[np.isnan(residual)]] = SolverStatus.NONFINITE
        if len(rows) == len(self._status):  # all at once: nothing to put together
            self._value = value
            return
        if len(self._rows) == len(self._status):  # the first to leave
            self._value = _like(value, len(self._status))
        batch_invariant.put_rows(self._value, _index(rows, value), value)


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


def _squared_norms(states: Tensor) -> NDArray[np.float32]:
    """``squared_norm`` on the host; in its memory without another array of states."""
    rows = flat_rows(states)
    if not states.is_cpu or states.dtype != torch.float32 or rows.shape[1] > GRAIN:
        found: NDArray[np.float32] = squared_norm(states).cpu().numpy()
        return found
    return row_norms(rows.numpy())


def row_norms(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared norm of each row of [n, D], D at most ``GRAIN``."""
    dots: NDArray[np.float32] = np.vecdot(numbers, numbers)
    return dots


def simple_residual(
    norm: NDArray[np.float32], step: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """``sqrt(step / norm)`` of squared norms [n]; None if one is out of range."""
    is_finite = norm.sum() + step.sum() < math.inf  # only if every term is
    if not is_finite or norm.min(initial=1.0) <= _TINY:
        return None
    found: NDArray[np.float32] = np.sqrt(step / norm)
    return found


def row_sums(numbers: Tensor) -> Tensor:
    """Sum of each row of [n, D]; a lone row is not divided among threads."""
    is_divided = numbers.shape[1] >= GRAIN and not torch.compiler.is_exporting()
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


def checked_residual(new: Tensor, change: Tensor) -> NDArray[np.float32]:
    """``relative_residual`` on the host, for states of any size.

    Args:
        new: Later iterate [n, ...].
        change: Its difference from the earlier one [n, ...].

    Returns:
        float32 [n]; NaN where a norm is not finite.
    """
    with np.errstate(over="ignore"):
        found = simple_residual(_squared_norms(new), _squared_norms(change))
    if found is not None:
        return found
    size = torch.maximum(_largest(new), _largest(change))
    small = (size < math.sqrt(_TINY)) & (size > 0)
    scale = torch.where(small, size, 1.0).view(-1, *[1] * (new.dim() - 1))
    new, change = new / scale, change / scale
    return _relative(squared_norm(new), squared_norm(change)).cpu().numpy()


def _largest(states: Tensor) -> Tensor:
    return flat_rows(states).abs().amax(1)


def _index(rows: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(like.device)


def _like(value: Tensor, n: int) -> Tensor:
    """Memory for n rows in the layout of value [m, ...]."""
    if value.dim() == 4 and not value.is_contiguous():
        pixels = value.permute(0, 2, 3, 1)
        return pixels.new_empty(n, *pixels.shape[1:]).permute(0, 3, 1, 2)
    return value.new_empty(n, *value.shape[1:])
