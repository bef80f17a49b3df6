"""A main network as one would write it by hand: ordinary calls on folded weights.

No bookkeeping of rows, normalisation folded into the kernels; a batch iterates until
its slowest sample has converged. It agrees with the package to rounding (tests: 1e-4).

Axes: n samples; u, y [n, C, H, W] visible; h, x [n, Ch, Hh, Wh] hidden stream.
A pattern has bit i set if layer i + 1 is iterated.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.networks.layers.base import MainLayer
from dynalay_gym.networks.layers.conv import WideStreamLayer
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.main_network import MainNetwork

Kernel = tuple[Tensor, Tensor]  # weight and bias


class Level(NamedTuple):
    """Weights of one layer; lists have one entry per pattern of the layers below."""

    plain: list[Kernel]
    visible: list[Kernel]
    hidden: list[Kernel]
    recurrent: Tensor
    readout: list[Kernel]
    stride: int
    ratio: int
    hidden_stride: int


class HandNetwork:
    """Frozen weights of a wide-stream `MainNetwork`, and how to apply them.

    Args:
        network: The network, in evaluation mode.
        memory_format: Of kernels and activations.
    """

    def __init__(
        self,
        network: MainNetwork,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.config, self.memory_format = network.config, memory_format
        self.num_layers = network.num_layers
        if self.config.stem:
            self.stem_kernel = self._fold(network.stem_weight, network.stem_norm)[0]
        self.levels = [self._level(layer) for layer in network.main_layers]
        scale, shift = (part.detach() for part in network.head_norm.affine())
        head, bias = network.head.detach(), network.head_bias.detach()
        pairs = zip(scale, shift, strict=True)
        self.heads = [(head * one, head @ add + bias) for one, add in pairs]

    def stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return visible and hidden stream below layer 1."""
        y = images = images.contiguous(memory_format=self.memory_format)
        if self.config.stem:
            y = F.conv2d(images, *self.stem_kernel, self.config.stem_stride, 1).relu_()
        h = F.pixel_unshuffle(images, self.config.unshuffle)
        return y, h.contiguous(memory_format=self.memory_format)

    def plain(self, i: int, below: Tensor, pattern: int) -> Tensor:
        """Return the pre-activation u of layer ``i`` (from 0); it shows relu(u)."""
        level = self.levels[i]
        return F.conv2d(below, *level.plain[pattern], level.stride, 1)

    def inject(self, i: int, u: Tensor, below: Tensor | None, pattern: int) -> Tensor:
        """Return the iteration's input x; ``below`` is the hidden stream there."""
        level, visible = self.levels[i], torch.relu(u)
        if level.ratio > 1:
            visible = F.avg_pool2d(visible, level.ratio, ceil_mode=True)
        x = F.conv2d(visible, *level.visible[pattern], padding=1)
        if below is not None:
            kernel, _ = level.hidden[pattern]
            x += F.conv2d(below, kernel, None, level.hidden_stride, 1)
        return x

    def iterate(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        """Apply the recurrent map once: relu(x + A h)."""
        return F.conv2d(h, self.levels[i].recurrent, padding=1).add_(x).relu_()

    def solve(
        self, i: int, x: Tensor, rtol: float, max_steps: int
    ) -> tuple[Tensor, float, int]:
        """Iterate until all samples have converged: h, largest residual, steps."""
        h, residual, steps = torch.relu(x), 1.0, 0
        while steps < max_steps and not residual < rtol:
            new = self.iterate(i, h, x)
            h, residual, steps = new, largest_residual(new, h), steps + 1
        return h, residual, steps

    def read(self, i: int, u: Tensor, h: Tensor, pattern: int) -> Tensor:
        """Return the visible activation of an iterated layer."""
        level = self.levels[i]
        read = F.conv2d(h, *level.readout[pattern])
        if level.ratio > 1:
            read = F.interpolate(read, size=u.shape[2:])
        return read.add_(u).relu_()

    def features(self, i: int, y: Tensor, h: Tensor | None) -> Tensor:
        """Return the pooled activations [n, C + Ch] of layer ``i``."""
        pooled = y.mean((2, 3))
        if h is None:
            return F.pad(pooled, (0, self.config.hidden[i]))
        return torch.cat([pooled, h.mean((2, 3))], 1)

    def answer(self, y: Tensor, h: Tensor | None, state_id: int) -> Tensor:
        """Return logits [n, K] from the last layer."""
        return F.linear(self.features(self.num_layers - 1, y, h), *self.heads[state_id])

    @torch.no_grad()
    def run(self, images: Tensor, state_id: int, rtol: float, max_steps: int) -> Tensor:
        """Return logits [n, K] of one state."""
        y, h = self.stem(images)
        hidden: Tensor | None = h
        for i in range(self.num_layers):
            pattern = state_id & (2**i - 1)
            u = self.plain(i, y, pattern)
            if state_id >> i & 1:
                x = self.inject(i, u, hidden, pattern)
                hidden = self.solve(i, x, rtol, max_steps)[0]
                y = self.read(i, u, hidden, pattern)
            else:
                y, hidden = u.relu_(), None
        return self.answer(y, hidden, state_id)

    def _level(self, layer: MainLayer) -> Level:
        assert isinstance(layer, WideStreamLayer), "the baseline knows one form"
        return Level(
            plain=self._fold(layer.weight_in, layer.norm),
            visible=self._fold(layer.visible_to_hidden, layer.norm_hidden),
            hidden=self._fold(layer.hidden_to_hidden, layer.norm_hidden),
            recurrent=self._format(layer.recurrence.weight().detach()),
            readout=self._fold(layer.readout, layer.norm_readout),
            stride=layer.stride,
            ratio=layer.ratio,
            hidden_stride=layer.hidden_stride,
        )

    def _fold(self, weight: Tensor, norm: PatternNorm) -> list[Kernel]:
        """Return kernel and bias per pattern."""
        scale, shift = (part.detach() for part in norm.affine())
        kernels = [self._format(weight.detach() * s.view(-1, 1, 1, 1)) for s in scale]
        return list(zip(kernels, shift, strict=True))

    def _format(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=self.memory_format)


def largest_residual(new: Tensor, old: Tensor) -> float:
    """Return the largest ``||new - old|| / ||new||`` of the samples; 0/0 = 0."""
    change = torch.linalg.vector_norm((new - old).flatten(1), dim=1)
    norm = torch.linalg.vector_norm(new.flatten(1), dim=1)
    return float((change / norm).nan_to_num_(0.0).max())
