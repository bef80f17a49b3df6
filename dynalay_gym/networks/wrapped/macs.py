"""Multiply-adds of any function of tensors, counted while it runs.

Linear layers, convolutions, matrix products, attention and recurrent layers of PyTorch
count; additions, normalisations and look-ups do not, as everywhere in this package.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Return the multiply-adds of a call.

    Args:
        function: What is called, without gradients.
        *args: Its arguments, of one sample.
    """
    with (
        torch.no_grad(),
        _no_fused_kernels(),
        FlopCounterMode(display=False) as counter,
    ):
        function(*args)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _no_fused_kernels() -> Iterator[None]:
    """Keep PyTorch from calling kernels whose products the counter cannot see."""
    backends: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn
    enabled = [backend.enabled for backend in backends]
    is_fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for backend in backends:
            backend.enabled = False
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, was in zip(backends, enabled, strict=True):
            backend.enabled = was
        torch.backends.mha.set_fastpath_enabled(is_fast)
