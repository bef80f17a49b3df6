"""The same solves and gradients by torchdeq, the library compared with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.solver_layers import OpenLayer
from dynalay_gym.errors import ConfigError

BUDGET = 200  # most steps of any solve
FORWARD_RTOL, BACKWARD_RTOL = 1e-3, 1e-4
DEFAULT = "torchdeq fixed_point_iter"
IFT = "torchdeq implicit"

Solver = Callable[[Tensor], tuple[Tensor, float]]  # x -> value, mean steps


def torchdeq() -> Any:
    """The library compared with.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torchdeq as library
    except ImportError as error:
        raise ConfigError(
            "this benchmark compares with torchdeq: pip install 'dynalay-gym[deq]'"
        ) from error
    return library


def deq_solver(layer: OpenLayer, solver: str, channels_last: bool = False) -> Solver:
    """The same solve by torchdeq, from the same start."""
    deq = torchdeq().get_deq(
        f_solver=solver, f_max_iter=BUDGET, f_tol=FORWARD_RTOL, f_stop_mode="rel"
    )
    deq.eval()

    def solve(x: Tensor) -> tuple[Tensor, float]:
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        found, info = deq(deq_map(layer, x), torch.relu(x))
        return found[-1], float(info["nstep"].max())

    return solve


def deq_gradient(
    layer: OpenLayer, options: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """The same by torchdeq, whose solvers iterate plainly both ways."""
    deq = torchdeq().get_deq(
        f_solver="fixed_point_iter",
        f_max_iter=BUDGET,
        f_tol=BACKWARD_RTOL,
        f_stop_mode="rel",
        b_solver="fixed_point_iter",
        b_max_iter=BUDGET,
        b_tol=1e-3,
        b_stop_mode="rel",
        **options,
    )
    deq.train()

    def forward(x: Tensor) -> Tensor:
        found, _ = deq(deq_map(layer, x), torch.relu(x).detach())
        value: Tensor = found[-1]
        return value.view_as(x)

    return forward


def deq_map(layer: OpenLayer, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The layer's map as a user of torchdeq would write it."""
    padding = layer.free_weight.shape[-1] // 2
    return lambda z: torch.relu(x + F.conv2d(z, layer.free_weight, padding=padding))
