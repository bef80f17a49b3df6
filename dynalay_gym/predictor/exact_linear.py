"""A linear layer whose rows do not depend on the batch, by arithmetic without rounding.

Axes: m rows, K inputs, N outputs.
"""

import math

import numpy as np
from numpy.typing import NDArray

_INPUT_BITS = 24  # as many as float32 has
_SUM_BITS = 52  # float64 has one more, into which the rounded weights may grow
_BLOCK_MACS = 2**18  # beyond it OpenBLAS starts threads, which wait busily afterwards


class ExactLinear:
    """Linear layer of which no bit depends on the batch; for running, not training.

    Libraries choose the order of the additions by the size of the batch, so a row's sum
    may differ in its last bits. Here the order cannot show, because nothing is rounded
    on the way: the inputs are rounded to 24 bits, weights and bias to multiples of a
    power of two such that float64 holds every product and every partial sum exactly.
    The error is about that of float32.

    Args:
        weight: Matrix, float64 [N, K].
        bias: Vector, float64 [N].
        bound: Largest magnitude of an input; beyond it the bits may depend on the batch
            after all.

    Attributes:
        reach: Largest magnitude of an output, for inputs within the bound.
    """

    def __init__(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64], bound: float
    ) -> None:
        self.reach = float((np.abs(weight).sum(1) * bound + np.abs(bias)).max())
        unit = 2.0 ** (math.frexp(self.reach)[1] - _SUM_BITS)
        self.scale = 2.0 ** (_INPUT_BITS - math.frexp(bound)[1])
        # [K, N], so that a row times it is an output.
        self.weight = np.ascontiguousarray(np.rint(weight / self.scale / unit).T) * unit
        self.bias = np.rint(bias / unit) * unit

    def __call__(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return ``x W^T + b``, float64 [m, N], of x [m, K]."""
        whole = np.multiply(x, self.scale, dtype=np.float64)
        np.rint(whole, out=whole)
        out = np.empty((len(x), len(self.bias)))
        size = max(1, _BLOCK_MACS // self.weight.size)
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            np.matmul(whole[block], self.weight, out=out[block])
        out += self.bias
        return out
