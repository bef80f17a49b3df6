"""The same solves and gradients by torchdeq, as a user of that library would write it.

It needs the extra ``[deq]``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchdeq import get_deq

from benchmarks.speed.baselines.layers import OpenLayer


def deq_solve(layer: OpenLayer, x: Tensor, **options: Any) -> tuple[Tensor, float]:
    """Solve from relu(x) by plain iteration, unless the options say otherwise.

    Args:
        layer: The layer.
        x: Injected input [n, C, H, W].
        **options: Those of ``torchdeq.get_deq``.

    Returns:
        Fixed points [n, C, H, W], and the most steps of a sample.
    """
    plain = {f"{way}_solver": "fixed_point_iter" for way in "fb"}
    relative = {f"{way}_stop_mode": "rel" for way in "fb"}
    deq = get_deq(**plain | relative | options)
    deq.train(torch.is_grad_enabled())
    found, info = deq(_map(layer, x), torch.relu(x).detach())
    value: Tensor = found[-1]
    return value.view_as(x), float(info["nstep"].max())


def _map(layer: OpenLayer, x: Tensor) -> Callable[[Tensor], Tensor]:
    padding = layer.free_weight.shape[-1] // 2
    return lambda z: torch.relu(x + F.conv2d(z, layer.free_weight, padding=padding))
