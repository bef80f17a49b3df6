"""Plain iteration of a recurrent convolution, for one row."""

import math
from typing import Any

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled, noinline
from dynalay_gym.sessions.accel.maps import FROM_ZERO, NO_NORM, convolve, pad
from dynalay_gym.sessions.accel.vectors import Numbers, relax

# Squares of smaller norms would be lost to underflow, and with them a residual.
_TINY = np.float32(1e-24)

CONVERGED, MAX_STEPS, NONFINITE = 0, 1, 2  # as in `SolverStatus`


@compiled
def _residual(
    norm: np.float32, change: np.float32, new: Numbers, old: Numbers
) -> np.float32:
    """Return the relative residual of squared norms, or of maps if those do not fit.

    NaN of an iterate that is not finite; 0 of two that are zero.
    """
    if _TINY < norm < math.inf and change < math.inf:
        return np.float32(math.sqrt(change / norm))
    wide_norm, wide_change = 0.0, 0.0  # in double precision every square fits
    for i in range(old.size):
        value = np.float64(new[i])
        step = value - old[i]
        wide_norm += value * value
        wide_change += step * step
    if not wide_norm < math.inf:
        return np.float32(math.nan)
    return np.float32(math.sqrt(wide_change / wide_norm) if wide_change > 0 else 0)


@compiled
def iterate(
    conv: Any,
    numbers: Numbers,
    x: Numbers,
    z: Numbers,
    rtol: np.float32,
    max_steps: int,
    padded: Numbers,
    new: Numbers,
) -> tuple[np.float32, int, int]:
    """Iterate ``z <- relu(x + W z)`` from z, which receives the last finite iterate.

    Returns the relative residual of the last step (1 if none was taken), steps and
    status.
    """
    noinline()
    residual, steps, status = np.float32(1), 0, MAX_STEPS
    while steps < max_steps and status == MAX_STEPS:
        steps += 1
        pad(conv, z, padded)
        convolve(conv, numbers, padded, new, FROM_ZERO, NO_NORM)
        norm, change = relax(z.size, new, x, z)
        residual = _residual(norm, change, new, z)
        if math.isnan(residual):
            status = NONFINITE
        else:
            for i in range(z.size):
                z[i] = new[i]
            if residual < rtol:
                status = CONVERGED
    return residual, steps, status
