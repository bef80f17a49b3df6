"""Convolutions of one map, and what stands between them.

Maps are flat, [H * W * C] with the channels of a pixel side by side; in *padded* ones
columns of zeros stand on both sides of every row.
"""

import math
from typing import Any

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.vectors import Numbers, multiply, noinline, panel_width

ZERO, ANY = np.float32(0), np.float32(-math.inf)  # least values of a map

CONV = np.dtype(
    [
        ("in_channels", np.int64),
        ("out_channels", np.int64),
        ("columns", np.int64),  # out_channels in whole vectors
        ("kernel", np.int64),
        ("stride", np.int64),
        ("padding", np.int64),
        ("in_side", np.int64),
        ("out_side", np.int64),
        ("weight", np.int64),  # where its packed kernel begins among the numbers
    ]
)


@compiled
def convolve(
    conv: Any, numbers: Numbers, x: Numbers, out: Numbers, resumes: int, norm: int
) -> None:
    """Convolve a padded map; kernel rows that lie outside it are left out.

    Args:
        conv: The convolution.
        numbers: Kernels, scales and shifts.
        x: The padded map.
        out: Written: ``columns`` numbers a pixel, those after the channels zero.
        resumes: ``ON_TOP`` of what out holds, or ``FROM_ZERO``.
        norm: Where scales and shifts of the columns begin among the numbers, or
            ``NO_NORM``.
    """
    noinline()
    side, channels, columns = conv.out_side, conv.in_channels, conv.columns
    line = (conv.in_side + 2 * conv.padding) * channels
    run, step = conv.kernel * channels, conv.stride * channels
    width = panel_width(columns)
    for first in range(0, columns, width):
        panel = conv.weight + first * conv.kernel * run
        here = norm + first if norm >= 0 else norm
        for y in range(side):
            top = y * conv.stride - conv.padding
            low, high = max(0, -top), min(conv.kernel, conv.in_side - top)
            at, w_at = (top + low) * line, panel + low * run * width
            o = y * side * columns + first
            multiply(
                side, x, at, step, line, high - low, run,
                numbers, w_at, out, o, columns, width, resumes, here,
            )  # fmt: skip


@compiled
def convolve_into(
    conv: Any,
    numbers: Numbers,
    x: Numbers,
    resumes: int,
    norm: int,
    sums: Numbers,
    out: Numbers,
) -> None:
    """``convolve`` into a map of whole pixels, by way of sums if they are wider."""
    if conv.columns == conv.out_channels:
        convolve(conv, numbers, x, out, resumes, norm)
        return
    convolve(conv, numbers, x, sums, resumes, norm)
    for pixel in range(conv.out_side**2):
        for c in range(conv.out_channels):
            out[pixel * conv.out_channels + c] = sums[pixel * conv.columns + c]


@compiled
def pad(
    x: Numbers, least: np.float32, side: int, channels: int, edge: int, padded: Numbers
) -> None:
    """Padded map of ``max(x, least)``; NaN stays."""
    noinline()
    line, margin = side * channels, edge * channels
    wide = line + 2 * margin
    for y in range(side):
        first, numbers = y * wide, x[y * line : (y + 1) * line]
        padded[first : first + margin] = 0.0
        padded[first + margin + line : first + wide] = 0.0
        inside = padded[first + margin : first + margin + line]
        for i in range(line):
            inside[i] = least if numbers[i] < least else numbers[i]


@compiled
def pad_shuffled(
    image: Numbers, side: int, channels: int, factor: int, padded: Numbers
) -> None:
    """Padded map of an image, pixel-unshuffled to ``side``.

    Its channels are those of the pixels that they come from, in their order.
    """
    noinline()
    run, line = factor * channels, side * factor * channels
    padded[: side * (side + 2) * factor * run] = 0.0
    for y in range(side):
        for x in range(side):
            first = (y * (side + 2) + x + 1) * factor * run
            for down in range(factor):
                at, to = (y * factor + down) * line + x * run, first + down * run
                inside, pixels = padded[to : to + run], image[at : at + run]
                for i in range(run):
                    inside[i] = pixels[i]


@compiled
def pad_pooled(
    u: Numbers, side: int, channels: int, ratio: int, padded: Numbers
) -> None:
    """Padded map of ``relu(u)``, averaged over squares of ``ratio`` (less at edges)."""
    noinline()
    small = (side + ratio - 1) // ratio
    padded[: small * (small + 2) * channels] = 0.0
    for y in range(small):
        bottom = min(side, (y + 1) * ratio)
        for x in range(small):
            right = min(side, (x + 1) * ratio)
            first = (y * (small + 2) + x + 1) * channels
            here = padded[first : first + channels]
            for i in range(y * ratio, bottom):
                for j in range(x * ratio, right):
                    pixel = u[(i * side + j) * channels : (i * side + j + 1) * channels]
                    for c in range(channels):
                        here[c] += max(pixel[c], ZERO)
            count = np.float32((bottom - y * ratio) * (right - x * ratio))
            for c in range(channels):
                here[c] /= count


@compiled
def average(x: Numbers, least: np.float32, out: Numbers) -> None:
    """Average of ``max(x, least)`` over the pixels of a map."""
    noinline()
    channels, pixels = out.size, x.size // out.size
    half = pixels // 2 * channels
    first, second = x[:half], x[half : 2 * half]
    out[:] = 0.0
    for pixel in range(pixels // 2):  # two sums need not wait for each other
        at = pixel * channels
        for c in range(channels):
            one, other = first[at + c], second[at + c]
            one = least if one < least else one
            other = least if other < least else other
            out[c] += one + other
    for i in range(2 * half, x.size):  # the last pixel of an odd number
        out[i - 2 * half] += least if x[i] < least else x[i]
    for c in range(channels):
        out[c] /= np.float32(pixels)
