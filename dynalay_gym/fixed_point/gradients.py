"""Gradients through a solve of any map: implicit, one-step, unrolled.

At ``z* = f(z*, x)`` the implicit function theorem turns a loss's gradient v for z* into
``y = v + J^T y`` with ``J = df/dz``, and y is then propagated through one application
of f to x and the parameters. The series ``y = v + J^T v + ...`` (Neumann; recurrent
back-propagation) is cut at a tolerance; without any of its terms (y = v) it is the
one-step, Jacobian-free gradient. Neither depends on how z* was found, so memory does
not grow with the iterations. Both are formulas for a first derivative, so a second one
through them is refused. Unrolling keeps every iterate and is the reference.

Axes: n samples.
"""

from typing import Any

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import Map, Progress, SolveResult, step_residual
from dynalay_gym.fixed_point.rows import select_rows


def with_gradient(
    f: Map, z_star: Tensor, x: Tensor, adjoint_rtol: float, adjoint_max_steps: int
) -> Tensor:
    """Return z_star with the implicit gradient for x and the parameters of f.

    Args:
        f: The map.
        z_star: Its fixed point [n, ...], without gradient.
        x: Injected input [n, ...].
        adjoint_rtol: Relative tolerance of the adjoint over the whole batch, > 0.
        adjoint_max_steps: Most adjoint applications; 0 for the one-step gradient.

    Returns:
        The value; differentiating it twice raises RuntimeError.
    """
    last = f(z_star, x)
    if last.requires_grad:
        with torch.enable_grad():
            z = z_star.detach().requires_grad_()
            image = f(z, x.detach()) if adjoint_max_steps > 0 else z

        def adjoint(grad: Tensor) -> Tensor:
            y = _neumann(image, z, grad, adjoint_rtol, adjoint_max_steps)
            if not torch.is_grad_enabled():
                return y
            # The first derivative is itself to be differentiated.
            refused: Tensor = _Once.apply(y, f(z_star, x))
            return refused

        last.register_hook(adjoint)
    change = (last - last.detach()).nan_to_num()  # 0, also if it overflowed
    return z_star.detach() + change


class _Once(torch.autograd.Function):
    """The identity of y, which depends on what `anchor` depends on, and says so."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, anchor: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            "a solve can be differentiated once; use rule='unroll' for more"
        )


def _neumann(
    image: Tensor, z: Tensor, grad: Tensor, rtol: float, max_steps: int
) -> Tensor:
    """Solve ``y = grad + J^T y`` by iteration from ``y = grad``."""
    y = grad
    for _ in range(max_steps):
        (back,) = torch.autograd.grad(image, z, y, retain_graph=True)
        new = grad + back
        change = (new - y).norm()
        y = new
        if change <= rtol * y.norm():
            break
    return y


def unrolled_iteration(
    f: Map, z0: Tensor, x: Tensor, rtol: float, max_steps: int
) -> SolveResult:
    """Iterate plainly inside the graph.

    Args:
        f: The map.
        z0: Initial iterate [n, ...].
        x: Injected input [n, ...].
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.

    Returns:
        SolveResult whose numbers are those of `fixed_point_iteration`, and whose value
        remembers every step.
    """
    progress, z, step = Progress(z0, rtol, max_steps), z0, 0
    while step < max_steps and progress.is_running:
        step += 1
        new = f(z, x)
        residual = step_residual(new.detach(), (new - z).detach())
        stay = progress.record(new, z, residual, step)
        z = new
        if stay is not None:
            z, x = select_rows(z, stay), select_rows(x, stay)
    return progress.result()
