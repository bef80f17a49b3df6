"""Convolutions of one map, and what stands between them.

A map is flat, [H * W * N]: a pixel's C channels, filled up with zeros to N columns,
whole vectors. A *padded* map has C numbers a pixel, and columns of zero pixels on both
sides of every row.
"""

import math
from typing import Any

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled, noinline
from dynalay_gym.sessions.accel.vectors import PANEL, Numbers, multiply

ZERO, ANY = np.float32(0), np.float32(-math.inf)  # least values of a map
# Arguments of `convolve`. Plain constants would have code of their own compiled.
FROM_ZERO: Any = np.bool_(False)
ON_TOP: Any = np.bool_(True)
NO_NORM: Any = np.int64(-1)

_CONV_FIELDS = (
    *("in_channels", "out_channels", "in_side", "out_side"),
    *("kernel", "stride", "padding"),
    "columns",  # numbers of a pixel of its output
    *("source", "source_columns"),  # where the map that it reads is (0: the image)
    "weight",  # where its packed kernel begins among the numbers
    "norm",  # where scales and shifts of its output begin, [P, 2, columns]
)
CONV = np.dtype([(name, np.int64) for name in _CONV_FIELDS])


@compiled
def convolve(
    conv: Any, numbers: Numbers, x: Numbers, out: Numbers, on_top: bool, pattern: int
) -> None:
    """Convolve a padded map x; add the result to `out` if `on_top`, else overwrite.

    Kernel rows that lie outside of x are left out. The result is normalised by the
    statistics of a pattern, unless that is `NO_NORM`.
    """
    noinline()
    side, columns = conv.out_side, conv.columns
    line = (conv.in_side + 2 * conv.padding) * conv.in_channels
    run, step = conv.kernel * conv.in_channels, conv.stride * conv.in_channels
    for first in range(0, columns, PANEL):
        width = min(PANEL, columns - first)
        panel = conv.weight + first * conv.kernel * run
        norm = conv.norm + 2 * pattern * columns + first if pattern >= 0 else pattern
        for y in range(side):
            top = y * conv.stride - conv.padding
            low, high = max(0, -top), min(conv.kernel, conv.in_side - top)
            multiply(
                side,
                x, ((top + low) * line, step, line, high - low, run),
                numbers, (panel + low * run * width, width),
                out, (y * side * columns + first, columns),
                width, on_top, norm,
            )  # fmt: skip


@compiled
def pad(conv: Any, x: Numbers, out: Numbers) -> None:
    """Write the padded map of ``relu(x)``, or of an image, for a convolution.

    NaN stays.
    """
    noinline()
    channels, columns, side = conv.in_channels, conv.source_columns, conv.in_side
    margin, line = conv.padding * channels, side * channels
    count, run, step = side, channels, columns
    if columns == channels:  # a row's pixels need not be taken one by one
        count, run, step = 1, line, line
    least = ANY if conv.source == 0 else ZERO
    for y in range(side):
        at, to = y * side * columns, y * (line + 2 * margin)
        out[to : to + margin] = 0.0
        to += margin
        for _ in range(count):
            pixels, inside = x[at : at + run], out[to : to + run]
            for i in range(run):
                inside[i] = least if pixels[i] < least else pixels[i]
            at, to = at + step, to + run
        out[to : to + margin] = 0.0


@compiled
def pad_pooled(conv: Any, u: Numbers, side: int, ratio: int, out: Numbers) -> None:
    """Write the padded map of ``relu(u)``, averaged over squares, for a convolution.

    Squares have the side `ratio`, less at the edges of u, [side, side, ..].
    """
    noinline()
    channels, columns, small = conv.in_channels, conv.source_columns, conv.in_side
    line = (small + 2 * conv.padding) * channels
    out[: small * line] = 0.0
    for y in range(small):
        bottom = min(side, (y + 1) * ratio)
        for x in range(small):
            right = min(side, (x + 1) * ratio)
            first = y * line + (x + conv.padding) * channels
            total = out[first : first + channels]
            for i in range(y * ratio, bottom):
                for j in range(x * ratio, right):
                    at = (i * side + j) * columns
                    pixel = u[at : at + channels]
                    for c in range(channels):
                        total[c] += max(pixel[c], ZERO)
            count = np.float32((bottom - y * ratio) * (right - x * ratio))
            for c in range(channels):
                total[c] /= count


@compiled
def average(
    x: Numbers, columns: int, numbers: Numbers, scratch: Numbers, out: Numbers
) -> None:
    """Write the global average of ``relu(x)``, [C].

    The numbers begin with as many ones as x has pixels; scratch has room for one more.
    """
    noinline()
    pixels, sums, relu = x.size // columns, scratch[:columns], scratch[columns:]
    for i in range(x.size):
        relu[i] = ZERO if x[i] < ZERO else x[i]
    for first in range(0, columns, PANEL):  # a product with a row of ones
        width = min(PANEL, columns - first)
        multiply(
            1, numbers, (0, 0, 0, 1, pixels), relu, (first, columns),
            sums, (first, columns), width, FROM_ZERO, NO_NORM,
        )  # fmt: skip
    for c in range(out.size):
        out[c] = sums[c] / np.float32(pixels)
