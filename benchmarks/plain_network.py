"""A main network as one would write it by hand: ordinary calls on folded weights.

No padding of lone rows, no row bookkeeping, normalisation folded into the kernels. It
agrees with the package to rounding (tests: 1e-4) and is what the package is measured
against: alone in single environments, and in dense batches as the bound.

Axes: n samples; u, y [n, C, H, W] visible; h, x [n, Ch, Hh, Wh] hidden stream.
A pattern has bit i set if layer i + 1 is iterated.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.norm import PatternNorm


class Level(NamedTuple):
    """Weights of one layer; lists have one entry per pattern of the layers below."""

    plain: list[tuple[Tensor, Tensor]]
    visible: list[tuple[Tensor, Tensor]]
    hidden: list[Tensor]
    recurrent: Tensor
    readout: list[tuple[Tensor, Tensor]]
    stride: int
    ratio: int
    hidden_stride: int


class PlainNetwork:
    """Frozen weights of a wide-stream ``MainNetwork``, and how to apply them.

    Args:
        model: The network, frozen.
        memory_format: Of kernels and activations.
    """

    def __init__(
        self,
        model: MainNetwork,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        assert model.config.form == "wide", "the baseline knows one form"
        self.config, self.memory_format = model.config, memory_format
        self.num_layers = model.num_layers
        if self.config.stem:
            self.stem_kernel = self._fold(model.stem_weight, model.stem_norm)[0]
        self.levels = [
            self._level(layer, self.config.pools[i])
            for i, layer in enumerate(model.layers)
        ]
        scale, shift = _affine(model.head_norm)
        head, bias = model.head.detach(), model.head_bias.detach()
        self.heads = [
            (head * one, head @ add + bias)
            for one, add in zip(scale, shift, strict=True)
        ]

    def stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Visible and hidden stream below layer 1."""
        images = images.contiguous(memory_format=self.memory_format)
        y = images
        if self.config.stem:
            kernel, bias = self.stem_kernel
            y = F.conv2d(images, kernel, bias, self.config.stem_stride, 1).relu_()
        h = F.pixel_unshuffle(images, self.config.unshuffle)
        return y, h.contiguous(memory_format=self.memory_format)

    def plain(self, i: int, below: Tensor, pattern: int) -> Tensor:
        """Pre-activation u of layer ``i`` (from 0); its activation is relu(u)."""
        level = self.levels[i]
        return F.conv2d(below, *level.plain[pattern], level.stride, 1)

    def inject(self, i: int, u: Tensor, below: Tensor | None, pattern: int) -> Tensor:
        """Input x of the iteration; ``below`` is the hidden stream of layer i - 1."""
        level, visible = self.levels[i], torch.relu(u)
        if level.ratio > 1:
            visible = F.avg_pool2d(visible, level.ratio, ceil_mode=True)
        x = F.conv2d(visible, *level.visible[pattern], padding=1)
        if below is not None:
            x += F.conv2d(below, level.hidden[pattern], None, level.hidden_stride, 1)
        return x

    def iterate(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        """One application of the recurrent map: relu(x + A h)."""
        return F.conv2d(h, self.levels[i].recurrent, padding=1).add_(x).relu_()

    def solve(
        self, i: int, x: Tensor, rtol: float, max_steps: int
    ) -> tuple[Tensor, float, int]:
        """Iterate the batch until all samples converged: h, last residual, steps."""
        h, residual, steps = torch.relu(x), 1.0, 0
        while steps < max_steps and not residual < rtol:
            new = self.iterate(i, h, x)
            h, residual, steps = new, largest_residual(new, h), steps + 1
        return h, residual, steps

    def read(self, i: int, u: Tensor, h: Tensor, pattern: int) -> Tensor:
        """Visible activation of an iterated layer."""
        level = self.levels[i]
        read = F.conv2d(h, *level.readout[pattern])
        if level.ratio > 1:
            read = F.interpolate(read, size=u.shape[2:])
        return read.add_(u).relu_()

    def answer(self, y: Tensor, h: Tensor | None, path: int) -> Tensor:
        """Logits [n, K] from the last layer."""
        return F.linear(self.features(self.num_layers - 1, y, h), *self.heads[path])

    def features(self, i: int, y: Tensor, h: Tensor | None) -> Tensor:
        """Pooled activations [n, C + Ch] of layer ``i``."""
        pooled = y.mean((2, 3))
        if h is None:
            return F.pad(pooled, (0, self.config.hidden[i]))
        return torch.cat([pooled, h.mean((2, 3))], 1)

    @torch.no_grad()
    def run(self, images: Tensor, path: int, rtol: float, max_steps: int) -> Tensor:
        """Logits [n, K] with the layers of ``path`` iterated."""
        y, h = self.stem(images)
        hidden: Tensor | None = h
        for i in range(self.num_layers):
            pattern = path & (2**i - 1)
            u = self.plain(i, y, pattern)
            if path >> i & 1:
                x = self.inject(i, u, hidden, pattern)
                hidden = self.solve(i, x, rtol, max_steps)[0]
                y = self.read(i, u, hidden, pattern)
            else:
                y, hidden = u.relu_(), None
        return self.answer(y, hidden, path)

    def _level(self, layer: Any, ratio: int) -> Level:
        hidden, _ = self._kernels(layer.hidden_to_hidden, layer.norm_hidden)
        return Level(
            plain=self._fold(layer.weight_in, layer.norm),
            visible=self._fold(layer.visible_to_hidden, layer.norm_hidden),
            hidden=hidden,
            recurrent=self._format(layer.recurrence.weight().detach()),
            readout=self._fold(layer.readout, layer.norm_readout),
            stride=layer.stride,
            ratio=ratio,
            hidden_stride=layer.hidden_stride,
        )

    def _fold(self, weight: Tensor, norm: PatternNorm) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self._kernels(weight, norm), strict=True))

    def _kernels(
        self, weight: Tensor, norm: PatternNorm
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Kernel and bias per pattern."""
        scale, shift = _affine(norm)
        kernels = [
            self._format(weight.detach() * one.view(-1, 1, 1, 1)) for one in scale
        ]
        return kernels, list(shift)

    def _format(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=self.memory_format)


def _affine(norm: PatternNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift [P, C] of a normalisation with running statistics."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale.detach(), (norm.bias - norm.running_mean * scale).detach()


def largest_residual(new: Tensor, old: Tensor) -> float:
    """Largest ``||new - old|| / ||new||`` of the samples; 0/0 = 0."""
    change = torch.linalg.vector_norm((new - old).flatten(1), dim=1)
    norm = torch.linalg.vector_norm(new.flatten(1), dim=1)
    return float((change / norm).nan_to_num_(0.0).max())
