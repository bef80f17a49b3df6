"""Certified upper bounds of operator norms, and weights scaled to stay below one.

The norm of a convolution is not that of its kernel matrix. A zero-padded convolution
on an H x W map is a compression of the circular one on any torus with room for the
kernel's radius, so the largest singular value of the kernel's Fourier symbol on that
torus is an upper bound. Gram iteration bounds it from above by matrix products alone.
"""

import torch
from torch import Tensor

# Covers rounding in the bound itself, so that it stays an upper bound in float32.
_ROUNDING = 1.0 + 1e-4


def gram_bound(matrices: Tensor, iterations: int = 6) -> Tensor:
    """Return an upper bound of the largest spectral norm of a stack of matrices.

    ``||W|| <= ||G_t||_F^(1/2^t)`` with ``G_0 = W`` and ``G_{t+1} = G_t^H G_t``,
    rescaled at every step; the excess is at most ``rank^(1/2^(t+1))``.

    Args:
        matrices: Real or complex [F, a, b].
        iterations: Gram steps t, >= 1.

    Returns:
        Scalar bound, differentiable.

    References:
        Delattre et al. (2023), Efficient Bound of Lipschitz Constant for
        Convolutional Layers by Gram Iteration.
    """
    gram = matrices
    log_scale = torch.zeros(len(matrices), device=gram.device, dtype=gram.real.dtype)
    for _ in range(iterations):
        norm = _frobenius(gram)
        gram = gram / norm[:, None, None]
        gram = gram.mH @ gram
        log_scale = 2 * (log_scale + norm.log())
    log_bound = (_frobenius(gram).log() + log_scale) / 2**iterations
    bound: Tensor = log_bound.max().exp() * _ROUNDING
    return bound


def depthwise_bound(kernel: Tensor, height: int, width: int) -> Tensor:
    """Return an upper bound of each channel's norm, if each is convolved by itself.

    A channel's symbol is a number, whose largest magnitude is the norm on the torus.

    Args:
        kernel: Real kernel [C, 1, k, k], odd k.
        height: Height of the map in pixels.
        width: Width of the map in pixels.

    Returns:
        Bounds [C, 1, 1, 1], differentiable.
    """
    largest = conv_symbol(kernel, height, width).abs().amax(0)
    return largest[:, :, None, None] * _ROUNDING


def conv_symbol(kernel: Tensor, height: int, width: int) -> Tensor:
    """Return the Fourier symbol of a kernel on the torus that certifies an H x W map.

    Args:
        kernel: Real kernel [C_out, C_in, k, k], odd k.
        height: Height of the map in pixels.
        width: Width of the map in pixels.

    Returns:
        Complex [F, C_out, C_in], one matrix per frequency. Conjugate frequencies of a
        real kernel have equal norms and are left out.
    """
    radius = kernel.shape[-1] // 2
    size = (height + radius, width + radius)
    precise = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    symbol: Tensor = torch.fft.rfft2(precise, s=size)
    return symbol.flatten(2).permute(2, 0, 1)


def contract(weight: Tensor, bound: Tensor, kappa: float) -> Tensor:
    """Scale a weight so that its norm is at most kappa.

    Args:
        weight: The weight.
        bound: Certified upper bound of its norm (scalar), or of the norms of parts
            that act by themselves, in a shape that fits the weight's.
        kappa: Largest norm, > 0; weights below it are returned as they are.
    """
    return weight * (kappa / bound.clamp(min=kappa)).to(weight.dtype)


def _frobenius(matrices: Tensor) -> Tensor:
    tiny = torch.finfo(matrices.real.dtype).tiny
    squares = (matrices * matrices.conj()).real
    return squares.sum((1, 2)).clamp(min=tiny).sqrt()
