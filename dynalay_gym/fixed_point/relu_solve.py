"""Solve and implicit gradient of ``z* = relu(x + W z*)`` in closed form.

With the mask ``m = [z* > 0]`` and the loss gradient v for z*, the implicit function
theorem gives

    y = m (v + W^T y),   dx = y,   dW = sum of outer products y ⊗ z*:

again a fixed point, found by the same solvers. All that is kept for the backward pass
is z*, so memory does not grow with the number of iterations.

Axes: n samples.
"""

from dataclasses import replace
from typing import Any, Protocol

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
)


class LinearMap(Protocol):
    """A map that is linear in its argument and in its weight."""

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Apply it: ``W z``, in new memory."""

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Apply its transpose: ``W^T a``, in new memory."""

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Gradient of ``sum(a * W z)`` with respect to the weight."""


def relu_map(linear: LinearMap, weight: Tensor) -> Map:
    """Return ``f(z, x) = relu(x + W z)``, which cannot be differentiated."""

    def f(z: Tensor, x: Tensor) -> Tensor:
        return _plus(linear.recur(z, weight), x).relu_()

    return f


def relu_solve(
    linear: LinearMap,
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
    if torch.is_grad_enabled():
        return SolveResult(*_ReluSolve.apply(x, weight, z0, linear, config))
    return _solve(linear, weight, z0, x, config)


def _solve(
    linear: LinearMap,
    weight: Tensor,
    z0: Tensor | None,
    x: Tensor,
    config: SolverConfig,
) -> SolveResult:
    is_plain = config.method is SolverMethod.PLAIN  # keeps x's layout, and so its bits
    inside = x if is_plain else channels_last(x)
    start = torch.relu(inside) if z0 is None else z0
    if is_plain:
        return iterate(relu_map(linear, weight), start, inside, config=config)
    f = relu_map(linear, channels_last(weight))
    result = iterate(f, channels_last(start), inside, config=config)
    if x.is_contiguous():
        return replace(result, value=result.value.contiguous())
    return result


class _ReluSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        z0: Tensor | None,
        linear: LinearMap,
        config: SolverConfig,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        result = _solve(linear, weight, z0, x, config)
        evidence = result.residual, result.num_steps, result.status
        ctx.save_for_backward(result.value, weight)
        ctx.mark_non_differentiable(*evidence)
        ctx.linear, ctx.config, ctx.autocast = linear, config, _autocast_of(x)
        return result.value, *evidence

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
    linear: LinearMap,
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
    linear: LinearMap, weight: Tensor, z: Tensor, v: Tensor, config: SolverConfig
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
    return iterate(f, start, v, z, config=adjoint).value


def _plus(own: Tensor, other: Tensor) -> Tensor:
    """Return the sum, in the memory of ``own`` where its type can hold it."""
    return own.add_(other) if own.dtype == other.dtype else own + other


def _masked(a: Tensor, z: Tensor) -> Tensor:
    """Return a where z is positive, else 0: the derivative of the ReLU that gave z."""
    masked: Tensor = torch.ops.aten.threshold_backward(a, z, 0)
    return masked
