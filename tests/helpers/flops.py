"""A second count of what a network executes, beside the environment's own."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


class FlopCount:
    """Counts the operations of PyTorch's convolutions: two per multiply-add."""

    def __init__(self) -> None:
        by_name = {torch.ops.aten.mkldnn_convolution: _convolution}
        self._convolutions = FlopCounterMode(display=False, custom_mapping=by_name)

    def __enter__(self) -> "FlopCount":
        """Count from here on."""
        self._convolutions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        self._convolutions.__exit__(*error)

    def total(self) -> int:
        """Operations counted."""
        return self._convolutions.get_total_flops()


def _convolution(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return conv_flop_count(x, weight, out_shape)
