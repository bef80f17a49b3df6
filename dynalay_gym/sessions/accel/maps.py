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
FROM_ZERO, ON_TOP = np.bool_(False), np.bool_(True)
NO_NORM: Any = np.int64(-1)

CONV = np.dtype(
    [
        ("in_channels", np.int64),
        ("out_channels", np.int64),
        ("columns", np.int64),  # of its output
        ("kernel", np.int64),
        ("stride", np.int64),
        ("padding", np.int64),
        ("in_side", np.int64),
        ("out_side", np.int64),
        ("source", np.int64),  # where the map that it reads is; 0: the image
        ("source_columns", np.int64),
        ("weight", np.int64),  # where its packed kernel begins among the numbers
        ("norm", np.int64),  # and scales and shifts of its output, [P, 2, columns]
    ]
)


@compiled
def convolve(
    conv: Any, numbers: Numbers, x: Numbers, out: Numbers, on_top: bool, pattern: int
) -> None:
    """Convolve a padded map; kernel rows that lie outside it are left out.

    Args:
        conv: The convolution, a `CONV`.
        numbers: Kernels, scales and shifts.
        x: The padded map.
        out: The result, a map.
        on_top: Whether it is added to what `out` holds.
        pattern: Pattern of the normalisation, or `NO_NORM`.
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
    """Write the padded map that a convolution reads: an image, or ``relu(x)``.

    Args:
        conv: The convolution.
        x: The map; NaN stays.
        out: The padded map.
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
    """Write the padded map of ``relu(u)``, averaged over squares, less at the edges.

    Args:
        conv: The convolution that reads it.
        u: A map.
        side: Its side.
        ratio: Side of the squares.
        out: The padded map.
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
    """Write the global average of ``relu(x)``.

    Args:
        x: A map.
        columns: Numbers of a pixel.
        numbers: Begin with as many ones as pixels.
        scratch: Room for the map and one more pixel.
        out: Averages, [C].
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
