"""Convolutions of few rows, fast: as matrix products with the very same bits.

A call of the library that convolves on the CPU takes some 40 microseconds before it
begins, more than an image alone needs. A matrix product begins at once. Both add a
pixel's products in the same order (kernel row, kernel column, channel), so they agree
to the last bit; whether they do on this machine is tried, and else products are not
used. Every product has one size, whatever the batch, so rows stay independent.

Axes: n rows, C channels, P pixels of an output map, K = k * k * C_in inputs of a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.models import rowwise

Numbers = NDArray[np.float32]

# Larger products may be cut up by the library and added in another order.
_LARGEST_PRODUCT = 1_000_000
# Products of other widths than multiples of it may take another order, too.
_COLUMNS = 16
# Rows of a product of vectors; any number would do that is never one.
_VECTORS = 8

# What a call of the convolution library, a product and a run of copied numbers cost, in
# multiply-adds of the time that they take (measured; only speed depends on it).
_CALL, _PRODUCT, _RUN = 3_000_000, 25_000, 450


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution; those of a product of vectors have one pixel.

    Attributes:
        in_channels: Channels C_in.
        out_channels: Channels C_out.
        kernel: Side k of the kernel.
        stride: Stride in both directions.
        padding: Zero padding on every side.
        height: Height in pixels of the input.
        width: Width in pixels of the input.
        has_bias: Whether a bias is added to each channel.
    """

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    height: int = 1
    width: int = 1
    has_bias: bool = False

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = (self.height, self.width)
        high, wide = (side + 2 * self.padding - self.kernel for side in sides)
        return high // self.stride + 1, wide // self.stride + 1

    @cached_property
    def depth(self) -> int:
        """Inputs K of an output pixel."""
        return self.kernel**2 * self.in_channels

    @cached_property
    def block(self) -> int:
        """Pixels of one product: of one row of the batch, if it has more than one."""
        pixels, columns = self.size[0] * self.size[1], self.out_channels
        if pixels == 1:
            return _VECTORS
        while pixels * columns * self.depth > _LARGEST_PRODUCT and pixels % 2 == 0:
            pixels //= 2
        return pixels

    @cached_property
    def max_rows(self) -> int:
        """Most rows for which products are faster than the library."""
        pixels = self.size[0] * self.size[1]
        runs = pixels * self.kernel if self.kernel > 1 else 0
        macs = pixels * self.out_channels * self.depth
        return _CALL // (macs // 2 + _PRODUCT + _RUN * runs)


def as_matrix(weight: Tensor) -> Numbers:
    """Kernel [C_out, C_in, k, k] as a matrix [K, C_out], or wider with zeros."""
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).numpy()
    missing = -len(weight) % _COLUMNS
    return np.ascontiguousarray(np.pad(matrix, ((0, 0), (0, missing))))


def columns(maps: Numbers, geometry: Geometry) -> Numbers:
    """Inputs of every output pixel of maps [n, H, W, C]: [n * P, K]."""
    if (geometry.kernel, geometry.stride, geometry.padding) == (1, 1, 0):
        return maps.reshape(-1, geometry.depth)
    n, height, width, channels = maps.shape
    edge, side, step = geometry.padding, geometry.kernel, geometry.stride
    padded = np.zeros(
        (n, height + 2 * edge, width + 2 * edge, channels), dtype=np.float32
    )
    padded[:, edge : edge + height, edge : edge + width] = maps
    row, down, right, number = padded.strides
    # A kernel's row is one run of memory.
    windows: Numbers = np.ndarray(
        (n, *geometry.size, side, side * channels),
        np.float32,
        padded,
        strides=(row, step * down, step * right, down, number),
    )
    return windows.reshape(-1, geometry.depth)


def products(rows: Numbers, matrix: Numbers, geometry: Geometry) -> Numbers:
    """Multiply rows by a matrix, a block of rows at a time.

    Args:
        rows: Rows [r, K].
        matrix: What ``as_matrix`` gives.
        geometry: Sizes of the block and of the result.

    Returns:
        Products [r, C_out].
    """
    num, depth = rows.shape
    if num % geometry.block:
        missing = np.zeros((-num % geometry.block, depth), dtype=np.float32)
        rows = np.concatenate([rows, missing])
    with np.errstate(over="ignore", invalid="ignore"):  # as tensors do
        found: Numbers = np.matmul(rows.reshape(-1, geometry.block, depth), matrix)
    wanted = found.reshape(len(rows), -1)[:num, : geometry.out_channels]
    return np.ascontiguousarray(wanted)


def convolve(
    x: Tensor, matrix: Numbers, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Convolve maps [n, C_in, H, W] by products: [n, C_out, H', W']."""
    pixels = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
    out = products(columns(pixels, geometry), matrix, geometry)
    if bias is not None:
        out += bias.numpy()
    maps = out.reshape(len(x), *geometry.size, -1)
    return torch.from_numpy(maps).permute(0, 3, 1, 2)


def _generator() -> Callable[..., Tensor]:
    """Draws tensors that do not depend on the defaults of the moment."""
    generator = torch.Generator("cpu").manual_seed(0)
    return partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")


@cache
def convolution_agrees(geometry: Geometry) -> bool:
    """Whether products give the bits of ``rowwise.conv2d`` on this machine."""
    channels, side = geometry.out_channels, geometry.kernel
    draw = _generator()
    # Drawn with channels last: ``contiguous`` would leave a single channel as it is.
    weight = draw(channels, side, side, geometry.in_channels).permute(0, 3, 1, 2)
    maps = draw(2, geometry.height, geometry.width, geometry.in_channels)
    maps = maps.permute(0, 3, 1, 2)
    bias = draw(channels) if geometry.has_bias else None
    stride, padding = geometry.stride, geometry.padding
    expected = rowwise.conv2d(maps, weight, bias, stride=stride, padding=padding)
    found = convolve(maps, as_matrix(weight), bias, geometry)
    return torch.equal(found, expected)


@cache
def product_agrees(geometry: Geometry) -> bool:
    """Whether products give the bits of ``rowwise.linear`` on this machine."""
    draw = _generator()
    weight = draw(geometry.out_channels, geometry.in_channels)
    x = draw(2 * _VECTORS, geometry.in_channels)
    found = products(x.numpy(), as_matrix(weight[:, :, None, None]), geometry)
    return np.array_equal(found, rowwise.linear(x, weight).numpy())
