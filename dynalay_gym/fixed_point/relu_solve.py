"""Solve and implicit gradient of ``z* = relu(x + W z*)`` in closed form.

With the mask ``m = [z* > 0]`` and the loss gradient v for z*, the implicit function
theorem gives

    y = m (v + W^T y),   dx = y,   dW = sum of outer products y ⊗ z*:

again a fixed point, found by the same solvers. All that is kept for the backward pass
is z*, so memory does not grow with the number of iterations.

Axes: n samples.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynalay_gym.fixed_point.progress import Map, SolveResult
from dynalay_gym.fixed_point.rows import channels_last, in_tiles
from dynalay_gym.fixed_point.solve import (
    GradientRule,
    SolverConfig,
    SolverMethod,
    iterate,
    uncompiled,
)

if TYPE_CHECKING:
    from dynalay_gym.fixed_point.layers import FixedPointLayer


def relu_map(linear: "FixedPointLayer", weight: Tensor) -> Map:
    """Return ``f(z, x) = relu(x + W z)``, which cannot be differentiated."""

    def f(z: Tensor, x: Tensor) -> Tensor:
        return _plus(linear.recur(z, weight), x).relu_()

    return f


@uncompiled
def relu_solve(
    linear: "FixedPointLayer",
    weight: Tensor,
    z0: Tensor | None,
    x: Tensor,
    config: SolverConfig,
) -> SolveResult:
    """Solve ``z = relu(x + W z)``; differentiable in x and the weight.

    Args:
        linear: How ``W`` is applied.
        weight: Its weight.
        z0: Initial iterate [n, ...], relu(x) if None; receives no gradient.
        x: Injected input [n, ...].
        config: Tolerances and gradient rule, ``implicit`` or ``one-step``.

    Returns:
        SolveResult; its value can be differentiated once.
    """
    return SolveResult(*_ReluSolve.apply(x, weight, z0, linear, config))


class _ReluSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        z0: Tensor | None,
        linear: "FixedPointLayer",
        config: SolverConfig,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        start = torch.relu(x) if z0 is None else z0
        if config.method is SolverMethod.PLAIN:  # keeps x's layout, and so its bits
            result = iterate(relu_map(linear, weight), start, x, config=config)
            value = result.value
        else:
            f, inside = relu_map(linear, channels_last(weight)), channels_last(x)
            result = iterate(f, channels_last(start), inside, config=config)
            value = result.value.contiguous() if x.is_contiguous() else result.value
        evidence = result.residual, result.num_steps, result.status
        ctx.save_for_backward(value, weight)
        ctx.mark_non_differentiable(*evidence)
        ctx.linear, ctx.config, ctx.autocast = linear, config, _autocast_of(x)
        return value, *evidence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        z_star, weight = ctx.saved_tensors
        needs_weight = ctx.needs_input_grad[1]
        with ctx.autocast:
            dx, dw = _gradients(
                ctx.linear, weight, z_star, grad, ctx.config, needs_weight
            )
        return dx, dw, None, None, None


def _autocast_of(x: Tensor) -> torch.autocast:
    """Return a context of the settings under which a solve of x runs at the moment."""
    device = x.device.type
    is_enabled = torch.is_autocast_enabled(device)
    return torch.autocast(device, torch.get_autocast_dtype(device), is_enabled)


def _gradients(
    linear: "FixedPointLayer",
    weight: Tensor,
    z_star: Tensor,
    grad: Tensor,
    config: SolverConfig,
    needs_weight: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients for x and, if it is needed, for the weight."""
    dw = torch.zeros_like(weight) if needs_weight else None
    weight, parts = channels_last(weight), []
    for v, z in in_tiles(grad, z_star):
        v, z = channels_last(v), channels_last(z)
        y = _adjoint(linear, weight, z, v, config)
        if dw is not None:
            dw += linear.weight_gradient(z, y, weight)
        parts.append(y)
    return torch.cat(parts) if len(parts) > 1 else parts[0], dw


def _adjoint(
    linear: "FixedPointLayer",
    weight: Tensor,
    z: Tensor,
    v: Tensor,
    config: SolverConfig,
) -> Tensor:
    """Solve ``y = m (v + W^T y)`` from ``y = m v``."""

    def f(y: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return _masked(_plus(linear.recur_transposed(y, weight), v), z)

    start = _masked(v, z)
    if config.rule is GradientRule.ONE_STEP:
        return start
    adjoint = SolverConfig(
        rtol=config.adjoint_rtol,
        max_steps=config.adjoint_max_steps,
        method=config.adjoint_method,
    )
    return iterate(f, start, v, z, config=adjoint, latest=True).value


def _plus(own: Tensor, other: Tensor) -> Tensor:
    """Return the sum, in the memory of ``own`` where its type can hold it."""
    return own.add_(other) if own.dtype == other.dtype else own + other


def _masked(a: Tensor, z: Tensor) -> Tensor:
    """Return a where z is positive, else 0: the derivative of the ReLU that gave z."""
    masked: Tensor = torch.ops.aten.threshold_backward(a, z, 0)
    return masked
