"""Fixed-point iteration with occasional extrapolation: alternating Anderson.

Most steps are plain ones. Every ``_PERIOD``-th one is extrapolated along the last
difference, by one scalar per sample in closed form: with ``g = f(z) - z`` the change
of a step, the weight that makes ``g`` shortest on the line through the last two is

    beta = <g, g - g_old> / <g - g_old, g - g_old>,   z <- f(z) - beta (f(z) - f_old).

So acceleration costs a few passes over the state per period and no linear solve, and a
sample's result does not depend on the batch around it.

Axes: n samples.
"""

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import Map, Progress, SolveResult, step_residual
from dynalay_gym.fixed_point.rows import flat_rows, row_sums, select_rows

# Measured on trained layers: extrapolating more often saves few applications of the
# map and costs as many passes over the state.
_PERIOD = 4
_TEST_PERIOD = 2
_LARGEST_WEIGHT = 1e3


@torch.no_grad()
def anderson_iteration(
    f: Map,
    z0: Tensor,
    *args: Tensor,
    rtol: float,
    max_steps: int,
    latest: bool = False,
) -> SolveResult:
    """Find ``z = f(z, *args)``; same arguments, test and evidence as the plain one.

    The test is that of plain iteration, ``||f(z) - z|| / ||f(z)|| < rtol``, at every
    second step and the last. Where it is passed the value is z: its residual is known,
    while that of f(z) may be larger where f expands, or rounds coarsely. A sample that
    is out of steps gets its last f(z). No value is an extrapolated state. A sample is
    extrapolated as long as its residual falls; from then on it takes plain steps.

    Args:
        f: The map, as for `fixed_point_iteration`; it returns new memory.
        z0: Initial iterate [n, ...].
        *args: Further arguments of f, each [n, ...].
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.
        latest: Return the last f(z) of every sample; for a contraction it is closer,
            though its own residual is not known.

    Returns:
        SolveResult; a sample whose iterate stops being finite keeps the last finite
        one that was tested (or z0) and is flagged.

    References:
        Anderson (1965); Banerjee, Suryanarayana and Pask (2016), Periodic Pulay method.
    """
    progress, step = Progress(z0, rtol, max_steps), 0
    z = tested = old_change = z0
    best = np.full(len(z0), np.inf, dtype=np.float32)
    while step < max_steps and progress.is_running:
        step += 1
        new = f(z, *args)
        is_last = step == max_steps
        if step % _TEST_PERIOD != 0 and not is_last:
            # The step before an extrapolation leaves its change for it.
            old_change = new - z if (step + 1) % _PERIOD == 0 else old_change
            z = new
            continue
        change = new - z
        residual = step_residual(new, change)
        ends = new if latest else z
        if is_last and not latest:
            is_open = torch.from_numpy(~(residual < rtol)).to(z.device)
            ends = torch.where(_per_row(is_open, new), new, z)
        stay = progress.record(ends, tested, residual, step)
        if stay is not None:
            args = tuple(select_rows(part, stay) for part in args)
            new, change, old_change = (
                select_rows(part, stay) for part in (new, change, old_change)
            )
            residual, best = (part[stay.cpu().numpy()] for part in (residual, best))
        z = tested = new
        if step % _PERIOD == 0 and step + 1 < max_steps and progress.is_running:
            falls = residual <= best
            best = np.where(falls, residual, -np.inf)  # plain from here on
            weight = _weight(change, old_change)
            weight = weight.where(torch.from_numpy(falls).to(z.device), 0.0)
            z = torch.addcmul(new, change, _per_row(-weight, new).to(new.dtype))
    return progress.result()


def _weight(change: Tensor, old_change: Tensor) -> Tensor:
    """Return ``beta`` of each sample [n]; 0, a plain step, where it is of no use."""
    turn = flat_rows(torch.sub(change, old_change, out=old_change))
    product = row_sums((flat_rows(change) * turn).float())
    weight = product / row_sums(turn.float().square())
    return weight.where(weight.abs() <= _LARGEST_WEIGHT, 0.0)


def _per_row(numbers: Tensor, states: Tensor) -> Tensor:
    """Return numbers [n] in the shape that goes with states [n, ...]."""
    return numbers.view(-1, *[1] * (states.dim() - 1))
