"""A residual block in the parts that can be left out.

``merge(shortcut(x), scale * outer(inner(x)))``: without its branch a block is its
shortcut, and without some of its inner channels the convolution that makes them and
the one that reads them are smaller. In some blocks the inner activations can be
iterated to a fixed point.

Axes: n samples, C channels, H x W pixels.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import (
    conv2d,
    conv2d_macs,
    conv2d_size,
    gelu,
)
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer

Form = Literal["classic", "fast"]
# Short trainings see few batches: their statistics have to follow faster.
_MOMENTUM = {"classic": 0.1, "fast": 0.4}


class BlockMacs(NamedTuple):
    """Multiply-adds of a block for one sample.

    Attributes:
        shortcut: Of the shortcut, which always runs.
        channel: Of one inner channel: what makes it, and what reads it.
        num_channels: Inner channels.
        iteration: Of one iteration of one inner channel; 0 where there is none.
    """

    shortcut: int
    channel: int
    num_channels: int
    iteration: int

    @property
    def branch(self) -> int:
        """Multiply-adds of the whole branch, not iterated."""
        return self.channel * self.num_channels


class Conv2d(nn.Conv2d):
    """Convolution without bias; a row's bits do not depend on the rows beside it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        side: Side of the kernel. An odd one is padded so that the map keeps its size.
        stride: Stride.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: int, stride: int = 1
    ) -> None:
        padding = (side - 1) // 2
        super().__init__(in_channels, out_channels, side, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [n, C_in, H, W] to [n, C_out, H', W']."""
        stride, padding = self.stride[0], int(self.padding[0])
        return conv2d(x, self.weight, stride=stride, padding=padding)


def activate(x: Tensor, form: Form) -> Tensor:
    """Apply the activation of a form."""
    return F.relu(x) if form == "classic" else gelu(x)


def batch_norm(channels: int, form: Form) -> nn.BatchNorm2d:
    """Return a batch normalisation of a form."""
    return nn.BatchNorm2d(channels, momentum=_MOMENTUM[form])


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (a *basic* block).

    With a recurrence it is a fixed-point layer too: ``inner(x) = relu(u)`` with
    ``u = norm1(conv1(x))`` is one application, from zero, of ``z = relu(u + W z)``, and
    *iterated* the inner activations are the solution z. W convolves every channel by
    itself, so that those that are left out change nothing in the others. It starts at
    0, where both are the same. The activation inside is a ReLU in either form, because
    GELU can expand. What the second convolution makes of a solution has a
    normalisation of its own, ``norm_iterated``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output and inside.
        stride: 1, or 2 to halve the sides.
        form: See `ResidualConfig`.
        shortcut: See `ResidualConfig`.
        recurrence: Depthwise layer of the inner maps; None if it cannot be iterated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        form: Form,
        shortcut: Literal["pad", "project", "pool"],
        recurrence: ConvFixedPointLayer | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.inner_channels = out_channels
        self.stride, self.form = stride, form
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride)
        self.norm1 = batch_norm(out_channels, form)
        self.conv2 = Conv2d(out_channels, out_channels, 3)
        self.norm2 = batch_norm(out_channels, form)
        self._shortcut = shortcut
        self.has_projection = shortcut != "pad" and (
            stride > 1 or in_channels != out_channels
        )
        if self.has_projection:
            conv_stride = stride if shortcut == "project" else 1
            self.projection = Conv2d(in_channels, out_channels, 1, conv_stride)
            self.projection_norm = batch_norm(out_channels, form)
        self.recurrence, self.inner_form = recurrence, form
        if recurrence is not None:
            self.inner_form = "classic"
            self.norm_iterated = batch_norm(out_channels, form)

    def forward(self, x: Tensor, iterates: bool = False) -> Tensor:
        """Map [n, C_in, H, W] to [n, C_out, H', W'].

        Args:
            x: Input.
            iterates: Whether the inner activations are iterated to their fixed point.
        """
        branch = self.outer(self.inner(x, iterates), iterates)
        return self.merge(self.shortcut(x), branch)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return what passes beside the branch, [n, C_out, H', W']."""
        if self.has_projection:
            if self._shortcut == "pool" and self.stride > 1:
                x = F.avg_pool2d(x, self.stride, ceil_mode=True)
            projected: Tensor = self.projection_norm(self.projection(x))
            return projected
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        added = self.out_channels - self.in_channels
        return F.pad(x, (0, 0, 0, 0, added // 2, added - added // 2)) if added else x

    def inner(self, x: Tensor, iterates: bool = False) -> Tensor:
        """Return the inner activations, [n, C_inner, H', W']."""
        u = self.norm1(self.conv1(x))
        if not iterates:
            return activate(u, self.inner_form)
        assert self.recurrence is not None, "a fixed-point layer"
        return self.recurrence.solve(u).value

    def outer(self, inner: Tensor, iterates: bool = False) -> Tensor:
        """Return the branch's output for inner activations, [n, C_out, H', W']."""
        return self.finish(self.conv2(inner), iterates)

    def finish(self, read: Tensor, iterates: bool = False) -> Tensor:
        """Return the branch's output for what the second convolution has read."""
        norm = self.norm_iterated if iterates else self.norm2
        branch: Tensor = norm(read)
        return branch if self.form == "classic" else activate(branch, self.form)

    def merge(self, shortcut: Tensor, branch: Tensor | None = None) -> Tensor:
        """Add the branch, if there is one, to the shortcut; both [n, C_out, H', W']."""
        total = shortcut if branch is None else shortcut + branch
        return F.relu(total) if self.form == "classic" else total

    def macs(self, size: int) -> BlockMacs:
        """Return the multiply-adds for maps of a side."""
        side = conv2d_size(size, self.stride)
        shortcut = 0
        if self.has_projection:
            shortcut = conv2d_macs(self.projection.weight.shape, side, side)
        made = conv2d_macs(self.conv1.weight[:1].shape, side, side)
        read = conv2d_macs(self.conv2.weight[:, :1].shape, side, side)
        iteration = 0
        if self.recurrence is not None:
            kernel = self.recurrence.free_weight[:1]
            iteration = conv2d_macs(kernel.shape, side, side)
        return BlockMacs(shortcut, made + read, self.inner_channels, iteration)


@torch.no_grad()
def init_dirac(module: nn.Module) -> None:
    """Let every square convolution pass its first channels on unchanged.

    A deep network that begins as nearly the identity trains faster.

    References:
        Zagoruyko & Komodakis (2017), DiracNets.
    """
    for part in module.modules():
        if isinstance(part, Conv2d) and part.kernel_size[0] == 3:
            same = min(part.in_channels, part.out_channels)
            nn.init.dirac_(part.weight[:same])
