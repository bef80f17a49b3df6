"""A solve and its gradients: exact adjoint, one step, or unrolled."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.anderson import anderson_iteration
from dynalay_gym.fixed_point.iteration import Map, fixed_point_iteration
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus, checked_residual
from dynalay_gym.fixed_point.tiles import in_tiles, joined


class GradientRule(StrEnum):
    """How a solve is differentiated."""

    IMPLICIT = "implicit"
    ONE_STEP = "one-step"
    UNROLL = "unroll"


class SolverMethod(StrEnum):
    """How a fixed point is iterated to."""

    PLAIN = "plain"
    ANDERSON = "anderson"


WARM_PRECISIONS = {"bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """Options of a solve and of its gradient.

    Attributes:
        rtol: Relative tolerance of the forward iteration, > 0.
        max_steps: Most forward applications, >= 0.
        method: Forward iteration; the environments use the plain one, whose steps are
            what they count.
        warm_precision: ``bf16`` to begin a layer's solve in that precision: at most
            half of the steps, until ``warm_rtol``; then it goes on as usual.
        warm_rtol: Relative tolerance of the beginning, > 0.
        rule: Gradient rule.
        adjoint_rtol: Relative tolerance of the adjoint iteration, > 0.
        adjoint_max_steps: Most adjoint applications, >= 0; 0 equals ``one-step``.
        adjoint_method: Adjoint iteration of a layer; ``plain`` is the Neumann series.
    """

    rtol: float = 1e-5
    max_steps: int = 100
    method: SolverMethod = SolverMethod.PLAIN
    warm_precision: str | None = None
    warm_rtol: float = 2e-2
    rule: GradientRule = GradientRule.IMPLICIT
    adjoint_rtol: float = 1e-2
    adjoint_max_steps: int = 100
    adjoint_method: SolverMethod = SolverMethod.ANDERSON

    @property
    def is_plain(self) -> bool:
        """Whether the forward iteration is the environments' own."""
        return self.method is SolverMethod.PLAIN and self.warm_precision is None

    def __post_init__(self) -> None:
        """Reject impossible tolerances, step counts and names."""
        if not (self.rtol > 0 and self.adjoint_rtol > 0 and self.warm_rtol > 0):
            raise ConfigError("rtol, adjoint_rtol and warm_rtol must be greater than 0")
        if self.max_steps < 0 or self.adjoint_max_steps < 0:
            raise ConfigError("max_steps and adjoint_max_steps must be at least 0")
        if self.warm_precision not in (None, *WARM_PRECISIONS):
            choices = ", ".join(WARM_PRECISIONS)
            raise ConfigError(
                f"unknown warm_precision {self.warm_precision!r}; choose None or one "
                f"of: {choices}"
            )
        for name, kind in (
            ("rule", GradientRule),
            ("method", SolverMethod),
            ("adjoint_method", SolverMethod),
        ):
            value = getattr(self, name)
            if value not in list(kind):
                raise ConfigError(
                    f"unknown {name} {value!r}; choose one of: {', '.join(kind)}"
                )
            object.__setattr__(self, name, kind(value))


def iterate(
    f: Map,
    z0: Tensor,
    *args: Tensor,
    config: SolverConfig,
    in_precision: Callable[[torch.dtype], Map] | None = None,
) -> SolveResult:
    """Iterate to the fixed point of ``f(., *args)``, without gradient, tile by tile.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone. It
            returns new memory.
        z0: Initial iterate [n, ...].
        *args: What f takes beside the iterate, each [n, ...].
        config: Method, tolerance and steps.
        in_precision: Makes f for arguments of a type, for ``warm_precision``.

    Returns:
        SolveResult.

    Raises:
        ConfigError: for a ``warm_precision`` without ``in_precision``.
    """
    if config.warm_precision and in_precision is None:
        raise ConfigError("warm_precision needs a layer's solve; set it to None")
    coarse = WARM_PRECISIONS.get(config.warm_precision or "")
    parts = []
    for tensors in in_tiles(z0, *args):
        if coarse is None or in_precision is None:
            part = _run(f, *tensors, config=config)
        else:
            part = _run_warm(f, in_precision(coarse), coarse, *tensors, config=config)
        parts.append(part)
    return joined(parts)


def _run(f: Map, *tensors: Tensor, config: SolverConfig) -> SolveResult:
    run = anderson_iteration
    if config.method is SolverMethod.PLAIN:
        run = fixed_point_iteration
    return run(f, *tensors, rtol=config.rtol, max_steps=config.max_steps)


def _run_warm(
    f: Map, coarse_f: Map, coarse: torch.dtype, *tensors: Tensor, config: SolverConfig
) -> SolveResult:
    """Begin in low precision. Budgets are fixed, so that no row waits for another."""
    budget = config.max_steps // 2
    rough = replace(config, rtol=max(config.warm_rtol, config.rtol), max_steps=budget)
    warm = _run(coarse_f, *(part.to(coarse) for part in tensors), config=rough)
    start = warm.value.to(tensors[0].dtype)
    rest = replace(config, max_steps=config.max_steps - budget)
    result = _run(f, start, *tensors[1:], config=rest)
    return replace(result, num_steps=result.num_steps + warm.num_steps)


def solve(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> SolveResult:
    """Find the fixed point of ``f(., x)``; differentiable when gradients are on.

    For any map. A layer's own ``solve`` knows its map and is faster and leaner.

    Args:
        f: The map; its parameters receive gradients by closure.
        z0: Initial iterate [n, ...].
        x: Injected input [n, ...].
        config: Method, tolerances and the gradient rule. The adjoint is the Neumann
            series, its tolerance that of the whole batch.

    Returns:
        SolveResult. With gradients on, ``value`` carries the gradient that the rule
        defines, and its numbers are those of the solve without (unrolled: of plain
        iteration).

    References:
        DynaLay eq. 5 (implicit gradient); Liao et al. (2018), recurrent
        back-propagation; Fung et al. (2022), Jacobian-free back-propagation.
    """
    if torch.is_grad_enabled() and config.rule is GradientRule.UNROLL:
        return unrolled(f, z0, x, config)
    result = iterate(f, z0, x, config=config)
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


def unrolled(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> SolveResult:
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
        step = checked_residual(new.detach(), (new - z).detach())
        change = torch.from_numpy(step).to(z.device)
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
