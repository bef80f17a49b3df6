"""Normalisation with one set of statistics per pattern of iterated layers upstream.

The same weights see differently distributed inputs when a layer below was iterated.
Sharing running statistics between those cases ruins the mixed states (measured), so
each pattern has its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [P, C] that evaluation applies."""
        if self._frozen is not None:
            return self._frozen
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def freeze(self) -> None:
        """Compute scale and shift once for many passes; ``train()`` undoes it."""
        self._frozen = None
        scale, shift = self.affine()
        self._frozen = scale.detach(), shift.detach()

    def train(self, mode: bool = True) -> "PatternNorm":
        """Set the training mode; training forgets the frozen scale and shift."""
        if mode:
            self._frozen = None
        return super().train(mode)

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
        scale, shift = self.affine()
        shape = (-1, x.shape[1]) + (1,) * (x.dim() - 2)
        return (x * scale[pattern].view(shape)).add_(shift[pattern].view(shape))
