"""Normalisation with one set of statistics per pattern of iterated layers upstream.

The same weights see differently distributed inputs when a layer below was iterated.
Sharing running statistics between those cases ruins the mixed states (measured), so
each pattern has its own.
"""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.caching import Freezable

Pattern = int | Tensor


class PatternNorm(Freezable):
    """Batch normalisation of [n, C, ...] with one set per upstream pattern.

    Args:
        channels: Channels C.
        num_patterns: Number of patterns P; layer l of a main network has 2^(l-1).
        momentum: Weight of a new batch in the running statistics.
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        num_patterns: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(num_patterns, channels))
        self.bias = nn.Parameter(torch.zeros(num_patterns, channels))
        self.register_buffer("running_mean", torch.zeros(num_patterns, channels))
        self.register_buffer("running_var", torch.ones(num_patterns, channels))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [P, C] that evaluation applies."""
        if self._kept is None:
            return self._affine()
        frozen: tuple[Tensor, Tensor] = self._kept["affine"]
        return frozen

    def freeze(self) -> Self:
        """Compute scale and shift once for many passes; ``train()`` undoes it."""
        self._kept = {"affine": tuple(part.detach() for part in self._affine())}
        return self

    def _affine(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor, pattern: Pattern) -> Tensor:
        """Normalise x.

        Args:
            x: Input [n, C, ...].
            pattern: One pattern for the batch (int), or one per row (int64 [n];
                evaluation only).

        Returns:
            Tensor of the shape of x.
        """
        if self.training:
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
        scale, shift = self._rows(pattern, x.dim())
        return (x * scale).add_(shift)

    def _rows(self, pattern: Pattern, dim: int) -> tuple[Tensor, Tensor]:
        """Scale and shift of each row, to be broadcast against [n, C, ...]."""
        scale, shift = self.affine()
        if isinstance(pattern, int):
            scale, shift = scale[pattern, None], shift[pattern, None]
        else:
            scale, shift = (
                scale.index_select(0, pattern),
                shift.index_select(0, pattern),
            )
        if dim == 2:
            return scale, shift
        shape = *scale.shape, *(1,) * (dim - 2)
        return scale.view(shape), shift.view(shape)

    def convolve(
        self,
        x: Tensor,
        kernel: Tensor,
        pattern: Pattern,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> Tensor:
        """Convolve and normalise: in one operation where all rows have one pattern.

        Args:
            x: Input [n, C_in, H, W].
            kernel: The kernel [C, C_in, k, k] whose output this normalises; always
                the same one.
            pattern: One pattern for the batch (int), or one per row (int64 [n];
                evaluation only).
            stride: See ``batch_invariant.conv2d``.
            padding: See ``batch_invariant.conv2d``.

        Returns:
            Output [n, C, H', W'].
        """
        if isinstance(pattern, int) and not self.training:
            fold = partial(self._fold, kernel, pattern)
            folded = self.kept(pattern, fold) if self.is_running else fold()
            return batch_invariant.conv2d(x, *folded, stride=stride, padding=padding)
        product = batch_invariant.conv2d(x, kernel, stride=stride, padding=padding)
        return self.normalise_own(product, pattern)

    def normalise_own(self, x: Tensor, pattern: Pattern) -> Tensor:
        """``forward`` of an input that nobody else has: its memory may be reused."""
        if not self.is_running:
            return self.forward(x, pattern)
        scale, shift = self._rows(pattern, x.dim())
        return x.mul_(scale).add_(shift)

    def _fold(self, kernel: Tensor, pattern: int) -> tuple[Tensor, Tensor]:
        """Kernel and bias [C] that take the normalisation over."""
        scale, shift = (part[pattern] for part in self.affine())
        folded = kernel * scale.view(-1, 1, 1, 1)
        return folded.contiguous(memory_format=torch.channels_last), shift
