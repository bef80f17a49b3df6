"""A residual network: stem, B residual blocks, head.

Axes: n samples, K classes, B blocks.
"""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import (
    conv2d,
    conv2d_macs,
    conv2d_size,
    linear,
)
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.conv import check_map
from dynalay_gym.networks.residual.blocks import (
    Conv2d,
    ResidualBlock,
    activate,
    batch_norm,
    init_dirac,
)
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.utils.device import torch_defaults

_PATCH = 2  # side of the patches that are whitened
_MIN_VARIANCE = 1e-3  # directions of less contrast are not blown up further


class PlainStem(nn.Module):
    """One 3 x 3 convolution, normalised and activated.

    Args:
        in_channels: Channels of an image.
        out_channels: Channels of the first stage.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 3)
        self.norm = batch_norm(out_channels, "classic")

    def forward(self, images: Tensor) -> Tensor:
        """Map [n, C, H, W] to [n, C_out, H, W]."""
        return activate(self.norm(self.conv(images)), "classic")

    def out_size(self, size: int) -> int:
        """Return the side of the maps for images of a side."""
        return size

    def macs(self, size: int) -> int:
        """Return the multiply-adds for one image of a side."""
        return conv2d_macs(self.conv.weight.shape, size, size)


class WhiteningStem(nn.Module):
    """Whitened patches, a 3 x 3 convolution, and pooling that halves the sides.

    The first convolution projects 2 x 2 patches on their principal directions, each
    divided by its standard deviation, and on the negatives of these. `whiten` sets it
    from images; it is not trained.

    Args:
        in_channels: Channels of an image.
        out_channels: Channels of the first stage.

    References:
        K. Jordan (2024), 94 % on CIFAR-10 in 3.29 seconds on a single GPU.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        directions = in_channels * _PATCH**2
        self.patches = Conv2d(in_channels, 2 * directions, _PATCH)
        self.patches.weight.requires_grad_(False)
        self.bias = nn.Parameter(torch.zeros(2 * directions))
        self.conv = Conv2d(2 * directions, out_channels, 3)
        self.norm = batch_norm(out_channels, "fast")

    def forward(self, images: Tensor) -> Tensor:
        """Map [n, C, H, W] to [n, C_out, H // 2, W // 2]."""
        x = activate(conv2d(images, self.patches.weight, bias=self.bias), "fast")
        pooled = F.max_pool2d(self.conv(x), 2, ceil_mode=True)
        return activate(self.norm(pooled), "fast")

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first convolution from images [n, C, H, W]."""
        patches = F.unfold(images, _PATCH).movedim(1, 2).flatten(0, 1)
        covariance = patches.double().T.cov()
        variances, directions = torch.linalg.eigh(covariance)
        scaled = (
            directions.T / variances.clamp(min=0).add(_MIN_VARIANCE).sqrt()[:, None]
        )
        kernels = scaled.reshape(-1, *self.patches.weight.shape[1:])
        self.patches.weight.copy_(torch.cat([kernels, -kernels]))

    def out_size(self, size: int) -> int:
        """Return the side of the maps for images of a side."""
        return size // 2

    def macs(self, size: int) -> int:
        """Return the multiply-adds for one image of a side."""
        kernels = self.patches.weight.shape, self.conv.weight.shape
        side = size - _PATCH + 1
        return sum(conv2d_macs(kernel, side, side) for kernel in kernels)


class Head(nn.Linear):
    """Linear layer on the mean over pixels."""

    def forward(self, top: Tensor) -> Tensor:
        """Return logits [n, K] of the last block's output [n, C, H, W]."""
        return linear(top.mean((2, 3)), self.weight) + self.bias


def _recurrence(
    config: ResidualConfig, channels: int, size: int
) -> ConvFixedPointLayer:
    """Return what iterates the inner activations of a block, [n, C, size, size]."""
    solver = SolverConfig(rtol=config.rtol, max_steps=config.max_steps)
    layer = ConvFixedPointLayer(channels, size, size, solver=solver, depthwise=True)
    check_map(layer)
    return layer


class ResidualNetwork(nn.Module):
    """Stem, residual blocks, head; ``forward`` runs all of them.

    Args:
        config: Architecture.

    Raises:
        ConfigError: Maps are too large to be iterated.
    """

    @torch_defaults(device=None)
    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.config = config
        make_stem = PlainStem if config.form == "classic" else WhiteningStem
        self.stem: PlainStem | WhiteningStem = make_stem(
            config.in_shape[0], config.widths[0]
        )
        size = self.stem.out_size(config.in_shape[1])
        blocks, below = list[ResidualBlock](), config.widths[0]
        for stage, (width, depth) in enumerate(
            zip(config.widths, config.depths, strict=True)
        ):
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                size, recurrence = conv2d_size(size, stride), None
                if len(blocks) + 1 in config.iterated:
                    recurrence = _recurrence(config, width, size)
                how = config.form, config.shortcut
                blocks.append(ResidualBlock(below, width, stride, *how, recurrence))
                below = width
        self.block_list = nn.ModuleList(blocks)
        self.head = Head(below, config.num_classes)
        if config.form == "fast":
            init_dirac(self.block_list)

    @property
    def blocks(self) -> Sequence[ResidualBlock]:
        """The residual blocks, bottom up."""
        return [cast(ResidualBlock, block) for block in self.block_list]

    def forward(self, images: Tensor, iterated: Collection[int] = ()) -> Tensor:
        """Return logits [n, K] of images [n, C, H, W].

        Args:
            images: Images.
            iterated: Numbers of the blocks, from 1, that are iterated to their fixed
                points; of those in the architecture's ``iterated``.

        Raises:
            ConfigError: A block cannot be iterated.
        """
        self.config.check_iterated(iterated)
        x = self.stem(images)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, number in iterated)
        return self.answer(x)

    def answer(self, top: Tensor) -> Tensor:
        """Return logits [n, K] of the last block's output [n, C, H, W]."""
        logits: Tensor = self.head(top)
        return logits

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Side of the maps that enter each block."""
        sizes = [self.stem.out_size(self.config.in_shape[1])]
        for block in self.blocks[:-1]:
            sizes.append(conv2d_size(sizes[-1], block.stride))
        return tuple(sizes)

    @property
    def stem_macs(self) -> int:
        """Multiply-adds of the stem for one image."""
        return self.stem.macs(self.config.in_shape[1])

    @property
    def head_macs(self) -> int:
        """Multiply-adds of the head for one image."""
        return self.head.weight.numel()

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole network for one image."""
        parts = zip(self.blocks, self.block_sizes, strict=True)
        costs = [block.macs(size) for block, size in parts]
        blocks = sum(cost.shortcut + cost.branch for cost in costs)
        return self.stem_macs + blocks + self.head_macs
