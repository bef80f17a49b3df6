"""Normalisation with one set of statistics per pattern of iterated layers upstream.

The same weights see differently distributed inputs when a layer below was iterated.
Sharing running statistics between those cases ruins the mixed states (measured), so
each pattern has its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.models import rowwise

Pattern = int | Tensor


class PatternNorm(nn.Module):
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
        self._frozen: tuple[Tensor, Tensor] | None = None
        self._kernels: dict[int, tuple[Tensor, Tensor]] = {}  # while frozen

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [P, C] that evaluation applies."""
        if self._frozen is not None:
            return self._frozen
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def freeze(self) -> None:
        """Compute scale and shift once for many passes; ``train()`` undoes it."""
        self._thaw()
        scale, shift = self.affine()
        self._frozen = scale.detach(), shift.detach()

    def train(self, mode: bool = True) -> "PatternNorm":
        """Set the training mode; training forgets the frozen scale and shift."""
        if mode:
            self._thaw()
        return super().train(mode)

    def _thaw(self) -> None:
        self._frozen = None
        self._kernels = {}

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
        shape = (-1, x.shape[1]) + (1,) * (x.dim() - 2)
        scale, shift = (_chosen(part, pattern).view(shape) for part in self.affine())
        return (x * scale).add_(shift)

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
            stride: See ``rowwise.conv2d``.
            padding: See ``rowwise.conv2d``.

        Returns:
            Output [n, C, H', W'].
        """
        if isinstance(pattern, int) and not self.training:
            folded = self._fold(kernel, pattern)
            return rowwise.conv2d(x, *folded, stride=stride, padding=padding)
        product = rowwise.conv2d(x, kernel, stride=stride, padding=padding)
        normalised: Tensor = self(product, pattern)
        return normalised

    def _fold(self, kernel: Tensor, pattern: int) -> tuple[Tensor, Tensor]:
        """Kernel and bias [C] that take the normalisation over."""
        if torch.is_grad_enabled() or self._frozen is None:
            return _folded(kernel, self.affine(), pattern)
        if pattern not in self._kernels:
            self._kernels[pattern] = _folded(kernel, self.affine(), pattern)
        return self._kernels[pattern]


def _chosen(table: Tensor, pattern: Pattern) -> Tensor:
    """Rows of a table [P, C]: the pattern's [C], or each row's [n, C]."""
    if isinstance(pattern, int):
        return table[pattern]
    return table.index_select(0, pattern)


def _folded(
    kernel: Tensor, affine: tuple[Tensor, Tensor], pattern: int
) -> tuple[Tensor, Tensor]:
    scale, shift = affine
    return kernel * scale[pattern].view(-1, 1, 1, 1), shift[pattern]
