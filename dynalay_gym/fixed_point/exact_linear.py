"""A linear layer whose rows do not depend on the batch, by arithmetic without rounding.

Axes: m rows, K inputs, N outputs.
"""

import math

import torch
from torch import Tensor, nn

_INPUT_BITS = 24  # as many as float32 has
_SUM_BITS = 52  # float64 has one more, into which the rounded weights may grow


class ExactLinear(nn.Linear):
    """Linear layer of which no bit depends on the batch, on any device; for running.

    Libraries choose the order of the additions by the size of the batch, so a row's sum
    may differ in its last bits. Here the order cannot show, because nothing is rounded
    on the way: the inputs are rounded to 24 bits, weights and bias to multiples of a
    power of two such that float64 holds every product and every partial sum exactly.
    The error is about that of float32.

    Args:
        weight: Matrix [N, K].
        bias: Vector [N].
        bound: Largest magnitude of an input; beyond it the bits may depend on the batch
            after all.

    Attributes:
        reach: Largest magnitude of an output, for inputs within the bound.
    """

    def __init__(self, weight: Tensor, bias: Tensor, bound: float) -> None:
        super().__init__(weight.shape[1], weight.shape[0], dtype=torch.float64)
        weight, bias = weight.double(), bias.double()
        self.reach = float((weight.abs().sum(1) * bound + bias.abs()).max())
        unit = 2.0 ** (math.frexp(self.reach)[1] - _SUM_BITS)
        self._scale = 2.0 ** (_INPUT_BITS - math.frexp(bound)[1])
        with torch.no_grad():
            self.weight.copy_((weight / self._scale / unit).round() * unit)
            self.bias.copy_((bias / unit).round() * unit)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b``, float32 [m, N], of x [m, K]."""
        return super().forward((x.double() * self._scale).round_()).float()
