"""Implicit gradient of ``z* = relu(x + W z*)`` in closed form, as one function.

With the mask ``m = [z* > 0]`` and the loss gradient v for z*, the implicit function
theorem gives

    y = m (v + W^T y),   dx = y,   dW = sum over samples of y (x) z*:

again a fixed point, found by the same solvers. All that is kept for the backward pass
is z*, so memory does not grow with the number of iterations.

Axes: n samples.
"""

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynalay_gym.fixed_point.iteration import Map
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, iterate
from dynalay_gym.fixed_point.tiles import in_tiles, pixels_first


class LinearMap(Protocol):
    """A map that is linear in its argument and in its weight."""

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Apply it: ``W z``, in new memory."""

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Apply its transpose: ``W^T a``, in new memory."""

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Gradient of ``sum(a * W z)`` with respect to the weight."""


class Precision(NamedTuple):
    """Autocast settings under which a solve ran; its gradient runs under the same."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "Precision":
        """The settings of now."""
        device = tensor.device.type
        dtype = torch.get_autocast_dtype(device)
        return cls(device, dtype, torch.is_autocast_enabled(device))

    def autocast(self) -> torch.autocast:
        """Context that restores them."""
        return torch.autocast(self.device, self.dtype, self.enabled)


def relu_map(linear: LinearMap, weight: Tensor) -> Map:
    """``f(z, x) = relu(x + W z)``, reusing memory; not to be differentiated."""

    def f(z: Tensor, x: Tensor) -> Tensor:
        return _plus(linear.recur(z, weight), x).relu_()

    return f


def _plus(own: Tensor, other: Tensor) -> Tensor:
    """Sum in the memory of ``own`` where its type can hold it."""
    return own.add_(other) if own.dtype == other.dtype else own + other


def relu_solve(
    linear: LinearMap,
    weight: Tensor,
    z0: Tensor | None,
    x: Tensor,
    config: SolverConfig,
) -> SolveResult:
    """Solve ``z = relu(x + W z)``; differentiable in x and the weight.

    Args:
        linear: What ``W`` is.
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
    if config.is_plain:  # it keeps the layout, and so its bits
        start = torch.relu(x) if z0 is None else z0
        return iterate(relu_map(linear, weight), start, x, config=config)
    inside, weight = pixels_first(x), pixels_first(weight)
    z0 = None if z0 is None else pixels_first(z0)
    result = iterate(
        relu_map(linear, weight),
        torch.relu(inside) if z0 is None else z0,
        inside,
        config=config,
        in_precision=lambda dtype: relu_map(linear, weight.to(dtype)),
    )
    if inside is x or not x.is_contiguous():
        return result
    return replace(result, value=result.value.contiguous())


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
        ctx.linear, ctx.config, ctx.precision = linear, config, Precision.of(x)
        return result.value, *evidence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        z_star, weight = ctx.saved_tensors
        with ctx.precision.autocast():
            dx, dw = relu_gradients(
                ctx.linear, weight, z_star, grad, ctx.config, ctx.needs_input_grad[1]
            )
        return dx, dw, None, None, None


def relu_gradients(
    linear: LinearMap,
    weight: Tensor,
    z_star: Tensor,
    grad: Tensor,
    config: SolverConfig,
    with_weight: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of a loss for x and the weight, given the one for z_star.

    Args:
        linear: What ``W`` is.
        weight: Its weight.
        z_star: Solution [n, ...].
        grad: Gradient of the loss for z_star [n, ...].
        config: Gradient rule and options of the adjoint.
        with_weight: Whether the weight's gradient is wanted.
    """
    dw = torch.zeros_like(weight) if with_weight else None
    weight, parts = pixels_first(weight), []
    for v, z in in_tiles(grad, z_star):
        v, z = pixels_first(v), pixels_first(z)
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


def _masked(a: Tensor, z: Tensor) -> Tensor:
    """Derivative of the ReLU whose output is z, times a: 0 where z is not positive."""
    masked: Tensor = torch.ops.aten.threshold_backward(a, z, 0)
    return masked
