"""Plain iteration of a recurrent convolution, for one row."""

import math
from typing import Any

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled, fast_reduction
from dynalay_gym.sessions.accel.maps import ZERO, convolve, pad
from dynalay_gym.sessions.accel.vectors import FROM_ZERO, NO_NORM, Numbers, noinline

# Squares of smaller norms would be lost to underflow, and with them a residual.
_TINY = np.float32(1e-24)

CONVERGED, MAX_STEPS, NONFINITE = 0, 1, 2  # as in ``SolverStatus``


@fast_reduction
def _step(new: Numbers, x: Numbers, old: Numbers) -> tuple[np.float32, np.float32]:
    """``new <- relu(new + x)``; squared norms of it and of its change from old."""
    noinline()
    norm, change = ZERO, ZERO
    for i in range(x.size):
        value = new[i] + x[i]
        value = ZERO if value < 0 else value
        step = value - old[i]
        norm += value * value
        change += step * step
        new[i] = value
    return norm, change


@compiled
def _relax(conv: Any, sums: Numbers, x: Numbers, padded: Numbers) -> np.float32:
    """``sums <- relu(sums + x)``, whole pixels; its relative residual to a padded map.

    NaN of an iterate whose norm is not finite; 0 of two that are zero.
    """
    noinline()
    channels, columns, side = conv.out_channels, conv.columns, conv.out_side
    if columns != channels:
        for pixel in range(side * side):
            for c in range(channels):
                sums[pixel * channels + c] = sums[pixel * columns + c]
    line, margin = side * channels, conv.padding * channels
    norm, change = ZERO, ZERO
    for y in range(side):
        first, old = y * line, y * (line + 2 * margin) + margin
        new = sums[first : first + line]
        parts = _step(new, x[first : first + line], padded[old : old + line])
        norm, change = norm + parts[0], change + parts[1]
    if not norm < math.inf:
        return np.float32(math.nan)
    if norm > _TINY:
        return np.float32(math.sqrt(change / norm))
    wide_norm, wide_change = 0.0, 0.0  # in double precision no square is lost
    for y in range(side):
        for i in range(line):
            value = np.float64(sums[y * line + i])
            step = value - padded[y * (line + 2 * margin) + margin + i]
            wide_norm += value * value
            wide_change += step * step
    return np.float32(math.sqrt(wide_change / wide_norm) if wide_change > 0 else 0)


@compiled
def iterate(
    conv: Any,
    numbers: Numbers,
    x: Numbers,
    start: Numbers,
    value: Numbers,
    rtol: np.float32,
    max_steps: int,
    padded: Numbers,
    sums: Numbers,
) -> tuple[np.float32, int, int]:
    """Iterate ``z <- relu(x + W z)`` from relu(start); value gets the last finite z.

    Returns:
        Relative residual of the last step (1 if none was taken), steps and status.
    """
    noinline()
    side, channels, edge = conv.out_side, conv.out_channels, conv.padding
    pad(start, ZERO, side, channels, edge, padded)
    residual, steps, status = np.float32(1), 0, MAX_STEPS
    while steps < max_steps and status == MAX_STEPS:
        steps += 1
        convolve(conv, numbers, padded, sums, FROM_ZERO, NO_NORM)
        residual = _relax(conv, sums, x, padded)
        if math.isnan(residual):
            status = NONFINITE
        else:
            pad(sums, ZERO, side, channels, edge, padded)
            if residual < rtol:
                status = CONVERGED
    line, wide = side * channels, (side + 2 * edge) * channels
    for y in range(side):
        first = y * wide + edge * channels
        for i in range(line):
            value[y * line + i] = padded[first + i]
    return residual, steps, status
