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
        ("in_side", np.int64),
        ("out_side", np.int64),
        ("weight", np.int64),  # where its packed kernel begins among the numbers
    ]
)


@compiled
def convolve(
    conv: Any, numbers: Numbers, x: Numbers, out: Numbers, on_top: bool, norm: int
) -> None:
    """Convolve a padded map; kernel rows that lie outside it are left out.

    Args:
        conv: The convolution, a `CONV`; it pads by half its kernel.
        numbers: Kernels, scales and shifts.
        x: The padded map.
        out: The result, a map.
        on_top: Whether it is added to what `out` holds.
        norm: Where the columns' scales and shifts begin among the numbers, or
            `NO_NORM`.
    """
    noinline()
    side, columns, padding = conv.out_side, conv.columns, conv.kernel // 2
    line = (conv.in_side + 2 * padding) * conv.in_channels
    run, step = conv.kernel * conv.in_channels, conv.stride * conv.in_channels
    for first in range(0, columns, PANEL):
        width = min(PANEL, columns - first)
        panel = conv.weight + first * conv.kernel * run
        panel_norm = norm + first if norm >= 0 else norm
        for y in range(side):
            top = y * conv.stride - padding
            low, high = max(0, -top), min(conv.kernel, conv.in_side - top)
            multiply(
                side, x, (top + low) * line, step, line, high - low, run,
                numbers, panel + low * run * width, width,
                out, y * side * columns + first, columns, width, on_top, panel_norm,
            )  # fmt: skip


@compiled
def pad(conv: Any, x: Numbers, columns: int, least: np.float32, out: Numbers) -> None:
    """Write the padded map of ``max(x, least)`` that a convolution reads; NaN stays.

    Args:
        conv: The convolution.
        x: A map of its input, or one without zero columns.
        columns: Numbers of a pixel of x.
        least: `ZERO` or `ANY`.
        out: The padded map.
    """
    noinline()
    channels, side = conv.in_channels, conv.in_side
    margin, line = conv.kernel // 2 * channels, side * channels
    count, run, step = side, channels, columns
    if columns == channels:  # a row's pixels need not be taken one by one
        count, run, step = 1, line, line
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
def pad_unshuffled(conv: Any, image: Numbers, channels: int, out: Numbers) -> None:
    """Write the padded map of an image whose squares become pixels.

    Its channels are in the order of `torch.nn.functional.pixel_unshuffle`.

    Args:
        conv: The convolution that reads it.
        image: Its pixels, [H * W * C].
        channels: Its channels C.
        out: The padded map.
    """
    noinline()
    side, deep, padding = conv.in_side, conv.in_channels, conv.kernel // 2
    factor = int(math.sqrt(deep // channels))
    line = (side + 2 * padding) * deep
    out[: side * line] = 0.0
    for y in range(side):
        for x in range(side):
            to = y * line + (x + padding) * deep
            for c in range(channels):
                for down in range(factor):
                    at = (y * factor + down) * side * factor + x * factor
                    for right in range(factor):
                        out[to] = image[(at + right) * channels + c]
                        to += 1


@compiled
def pad_pooled(
    conv: Any, u: Numbers, columns: int, side: int, ratio: int, out: Numbers
) -> None:
    """Write the padded map of ``relu(u)``, averaged over squares, less at the edges.

    Args:
        conv: The convolution that reads it.
        u: A map.
        columns: Numbers of a pixel of u.
        side: Its side.
        ratio: Side of the squares.
        out: The padded map.
    """
    noinline()
    channels, small, padding = conv.in_channels, conv.in_side, conv.kernel // 2
    line = (small + 2 * padding) * channels
    out[: small * line] = 0.0
    for y in range(small):
        bottom = min(side, (y + 1) * ratio)
        for x in range(small):
            right = min(side, (x + 1) * ratio)
            first = y * line + (x + padding) * channels
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
            1, numbers, 0, 0, 0, 1, pixels, relu, first, columns,
            sums, first, columns, width, FROM_ZERO, NO_NORM,
        )  # fmt: skip
    for c in range(out.size):
        out[c] = sums[c] / np.float32(pixels)
