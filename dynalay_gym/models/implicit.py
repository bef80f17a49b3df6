"""Gradients of a fixed point: exact adjoint, one step, or unrolled."""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.models.fixed_point import (
    Map,
    SolveResult,
    SolverStatus,
    fixed_point_iteration,
    relative_residual,
)


class GradientRule(StrEnum):
    """How a solve is differentiated."""

    IMPLICIT = "implicit"
    ONE_STEP = "one-step"
    UNROLL = "unroll"


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """Options of a solve and of its gradient.

    Attributes:
        rtol: Relative tolerance of the forward iteration, > 0.
        max_steps: Most forward applications, >= 0.
        rule: Gradient rule.
        adjoint_rtol: Relative tolerance of the adjoint iteration, > 0.
        adjoint_max_steps: Most adjoint applications, >= 0; 0 equals ``one-step``.
    """

    rtol: float = 1e-5
    max_steps: int = 100
    rule: GradientRule = GradientRule.IMPLICIT
    adjoint_rtol: float = 1e-3
    adjoint_max_steps: int = 100

    def __post_init__(self) -> None:
        """Reject impossible tolerances and step counts."""
        if not (self.rtol > 0 and self.adjoint_rtol > 0):
            raise ConfigError("rtol and adjoint_rtol must be greater than 0")
        if self.max_steps < 0 or self.adjoint_max_steps < 0:
            raise ConfigError("max_steps and adjoint_max_steps must be at least 0")


def solve(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> SolveResult:
    """Find the fixed point of ``f(., x)``; differentiable when gradients are on.

    Args:
        f: The map; its parameters receive gradients by closure.
        z0: Initial iterate [n, ...].
        x: Injected input [n, ...].
        config: Tolerances and the gradient rule.

    Returns:
        SolveResult. With gradients on, ``value`` carries the gradient that the rule
        defines, and its numbers are those of the plain solve.

    References:
        DynaLay eq. 5 (implicit gradient); Liao et al. (2018), recurrent
        back-propagation; Fung et al. (2022), Jacobian-free back-propagation.
    """
    if torch.is_grad_enabled() and config.rule is GradientRule.UNROLL:
        return _unrolled(f, z0, x, config)
    result = fixed_point_iteration(
        f, z0, x, rtol=config.rtol, max_steps=config.max_steps
    )
    if not torch.is_grad_enabled():
        return result
    if config.max_steps == 0:
        return replace(result, value=z0)
    return replace(result, value=_attach(f, result.value, x, config))


def _attach(f: Map, z_star: Tensor, x: Tensor, config: SolverConfig) -> Tensor:
    """Return z_star with the gradient of one application, corrected by the adjoint."""
    last = f(z_star, x)
    if last.requires_grad and config.rule is GradientRule.IMPLICIT:
        with torch.enable_grad():
            z = z_star.detach().requires_grad_()
            image = f(z, x.detach())
        last.register_hook(lambda grad: _adjoint(image, z, grad, config))
    return z_star + (last - last.detach()).nan_to_num()  # 0, also if it overflowed


def _adjoint(image: Tensor, z: Tensor, grad: Tensor, config: SolverConfig) -> Tensor:
    """Solve ``g = J^T g + grad`` by Neumann (RBP) iteration."""
    total = grad
    for _ in range(config.adjoint_max_steps):
        (back,) = torch.autograd.grad(image, z, total, retain_graph=True)
        new = grad + back
        change = (new - total).norm()
        total = new
        if change <= config.adjoint_rtol * total.norm():
            break
    return total


def _unrolled(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> SolveResult:
    """Iterate inside the graph; converged samples are held by a mask."""
    z, n = z0, z0.shape[0]
    shape = (n,) + (1,) * (z0.dim() - 1)
    active = torch.ones(n, dtype=torch.bool, device=z0.device)
    residual = torch.ones(n, device=z0.device)
    num_steps = torch.zeros(n, dtype=torch.int64, device=z0.device)
    for _ in range(config.max_steps):
        if not bool(active.any()):
            break
        new = f(z, x)
        change = relative_residual(new.detach(), z.detach())
        residual = torch.where(active, change, residual)
        num_steps += active
        finite = ~change.isnan()
        z = torch.where((active & finite).view(shape), new, z)
        active = active & finite & ~(change < config.rtol)
    status = torch.where(
        residual < config.rtol, SolverStatus.CONVERGED, SolverStatus.MAX_STEPS
    )
    status[residual.isnan()] = SolverStatus.NONFINITE
    return SolveResult(z, residual, num_steps, status)
