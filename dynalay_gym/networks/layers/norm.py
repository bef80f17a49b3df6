"""Normalisation with one set of statistics per pattern of iterated layers upstream.

The same weights see differently distributed inputs when a layer below was iterated.
Sharing running statistics between those cases ruins the mixed states (measured), so
each pattern has its own.

Axes: n samples, C channels, P patterns.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.caching import Freezable

# Which layers below are iterated (bit i = layer i + 1): of a whole batch, or int64 [n].
Pattern = int | Tensor


class PatternNorm(Freezable):
    """Batch normalisation of [n, C, ...] with one set per upstream pattern.

    Args:
        channels: Channels C.
        num_patterns: Number of patterns P; layer l of a main network has 2^(l-1).
        by_batch: Whether training normalises by the batch and learns the statistics;
            otherwise there is the scale and the shift alone.

    Attributes:
        momentum: Weight of a new batch in the running statistics.
        eps: Added to the variance.
    """

    momentum = 0.1
    eps = 1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, num_patterns: int, *, by_batch: bool = True
    ) -> None:
        super().__init__()
        self.by_batch = by_batch
        self.weight = nn.Parameter(torch.ones(num_patterns, channels))
        self.bias = nn.Parameter(torch.zeros(num_patterns, channels))
        self.register_buffer("running_mean", torch.zeros(num_patterns, channels))
        self.register_buffer("running_var", torch.ones(num_patterns, channels))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each [P, C], that evaluation applies."""
        if self._frozen is not None:
            frozen: tuple[Tensor, Tensor] = self._frozen
            return frozen
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def freeze(self) -> Self:
        """Compute scale and shift once for many passes; ``train()`` undoes it."""
        self._frozen = None
        self._frozen = tuple(part.detach() for part in self.affine())
        return self

    def forward(self, x: Tensor, pattern: Pattern) -> Tensor:
        """Normalise x [n, C, ...]: by the batch in training, else by what was learnt.

        Args:
            x: Input [n, C, ...].
            pattern: One pattern for the batch (int), or one per row (int64 [n];
                evaluation only).

        Returns:
            Tensor of the shape of x.
        """
        if self.training and self.by_batch:
            assert isinstance(pattern, int), "a training batch has one pattern"
            return F.batch_norm(
                x,
                self.running_mean[pattern],
                self.running_var[pattern],
                self.weight[pattern],
                self.bias[pattern],
                training=True,
                momentum=self.momentum,
                eps=self.eps,
            )
        shape = -1, x.shape[1], *[1] * (x.dim() - 2)
        scale, shift = (part[pattern].view(shape) for part in self.affine())
        return (x * scale).add_(shift)
