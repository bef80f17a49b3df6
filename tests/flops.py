"""A second count of what a network executes, beside the environment's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from dynalay_gym.models import few_rows


class FlopCount:
    """Counts the operations of PyTorch's convolutions and of our matrix products.

    Zeros that a product is filled up with are not counted, nor are the trials whether
    products give the library's bits.
    """

    def __init__(self) -> None:
        by_name = {torch.ops.aten.mkldnn_convolution: _convolution}
        self._convolutions = FlopCounterMode(display=False, custom_mapping=by_name)
        self._patch = pytest.MonkeyPatch()
        self._products = self._tried = 0

    def __enter__(self) -> "FlopCount":
        """Count from here on."""
        multiply = few_rows.products

        def counted(rows: Any, matrix: Any, geometry: few_rows.Geometry) -> Any:
            self._products += 2 * len(rows) * geometry.depth * geometry.out_channels
            return multiply(rows, matrix, geometry)

        for name in ("convolution_agrees", "product_agrees"):
            self._patch.setattr(few_rows, name, self._apart(getattr(few_rows, name)))
        self._patch.setattr(few_rows, "products", counted)
        self._convolutions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        self._convolutions.__exit__(*error)
        self._patch.undo()

    def total(self) -> int:
        """Operations counted: two per multiply-add."""
        return self._convolutions.get_total_flops() + self._products - self._tried

    def _apart(self, trial: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def uncounted(geometry: few_rows.Geometry) -> bool:
            before = self.total()
            agrees = trial(geometry)
            self._tried += self.total() - before
            return agrees

        return uncounted


def _convolution(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return conv_flop_count(x, weight, out_shape)
