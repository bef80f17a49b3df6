"""Convolution and matrix product whose rows do not depend on the batch around them.

Vendor kernels choose their summation order by the batch size, so a sample alone can
differ in the last bit from the same sample in a batch. An environment must not: a row
has to behave as it does alone. Three rules make it so at almost no cost (all measured):
convolutions agree from two rows up, and a lone row with them if it is not given to
another library; a kernel of one pixel agrees when it is dilated; and a matrix product
agrees when it is written as a convolution that spans all features.

Axes: n rows, C channels, H x W pixels, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolve; each row's bits are independent of the other rows.

    Args:
        x: Input [n, C_in, H, W].
        weight: Kernel [C_out, C_in / groups, k, k].
        stride: Stride in both directions.
        padding: Zero padding on every side, in pixels.
        bias: Added to every pixel [C_out].
        groups: Groups of channels that are convolved by themselves.

    Returns:
        Output [n, C_out, H', W'].
    """
    # An exported graph has no batch size yet; it promises values, not bits.
    if not torch.compiler.is_exporting() and x.shape[0] == 1:
        return _convolve_lone_row(x, weight, stride, padding, bias, groups)
    # PyTorch gives 1x1 convolutions of fewer than 16 rows to another library, unless
    # they are dilated; to a kernel of one pixel dilation means nothing else.
    dilation = 2 if weight.shape[-1] == 1 else 1
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _convolve_lone_row(
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    bias: Tensor | None,
    groups: int,
) -> Tensor:
    if _runs_on_onednn(x):  # PyTorch would give a lone row to another library
        sizes = (padding,) * 2, (stride,) * 2, (1, 1)
        return torch.mkldnn_convolution(x, weight, bias, *sizes, groups)
    # Beside a copy of itself, in the same memory format.
    pair, move = torch.cat([x, x]), {"stride": stride, "padding": padding}
    return conv2d(pair, weight, bias=bias, groups=groups, **move)[:1]


def _runs_on_onednn(x: Tensor) -> bool:
    """Return whether oneDNN convolves x, outside of autograd and autocast."""
    is_plain = x.is_cpu and x.dtype == torch.float32 and not torch.is_grad_enabled()
    is_changed = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return is_plain and not is_changed and torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows by a matrix; each row's bits are independent of the other rows.

    Args:
        x: Input [n, D].
        weight: Matrix [K, D].

    Returns:
        Output [n, K].
    """
    # A lone row stands beside a copy: as a convolution of one row it would be cut up.
    if not torch.compiler.is_exporting() and len(x) == 1:
        return linear(torch.cat([x, x]), weight)[:1]
    return conv2d(x[:, None, None, :], weight[:, None, None, :])[:, :, 0, 0]


def gelu(x: Tensor) -> Tensor:
    """Apply GELU; each row's bits are independent of the other rows.

    PyTorch's own kernel, which it uses for maps with channels last and for lone
    numbers, treats what does not fill a vector at the end of a tensor otherwise;
    oneDNN's does not.

    Args:
        x: Maps [n, C, H, W].

    Returns:
        Maps of the same layout.
    """
    if torch.compiler.is_exporting():
        return F.gelu(x)
    if x.numel() == 1:
        return gelu(torch.cat([x, x]))[:1]
    if x.is_contiguous():
        return F.gelu(x)
    return F.gelu(x.movedim(1, 3)).movedim(3, 1)


def conv2d_macs(kernel: torch.Size, out_height: int, out_width: int) -> int:
    """Return the multiply-adds of one row: ``C_out * C_in * k * k * H' * W'``."""
    return kernel.numel() * out_height * out_width


def conv2d_size(size: int, stride: int) -> int:
    """Return the side of a padded convolution's output: ``ceil(size / stride)``."""
    return -(-size // stride)
