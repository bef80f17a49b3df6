"""Solving ``z = f(z, x)``: options, plain iteration, and a solve with its gradient.

Axes: n samples; the rest of a state's axes are flattened for norms.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from dynalay_gym.fixed_point.anderson import anderson_iteration
from dynalay_gym.fixed_point.gradients import unrolled_iteration, with_gradient
from dynalay_gym.fixed_point.progress import Map, Progress, SolveResult, step_residual
from dynalay_gym.fixed_point.rows import in_tiles, select_rows
from dynalay_gym.utils.ranges import Iterations, Tolerance, check_fields

P = ParamSpec("P")
T = TypeVar("T")


class GradientRule(StrEnum):
    """How a solve is differentiated; see `dynalay_gym.fixed_point.gradients`."""

    IMPLICIT = "implicit"
    ONE_STEP = "one-step"
    UNROLL = "unroll"


class SolverMethod(StrEnum):
    """How a fixed point is iterated to."""

    PLAIN = "plain"
    ANDERSON = "anderson"


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """Options of a solve and of its gradient.

    Attributes:
        rtol: Relative tolerance of the forward iteration, > 0.
        max_steps: Most forward applications, >= 0.
        method: Forward iteration; the environments use the plain one, whose steps are
            what they count.
        rule: Gradient rule.
        adjoint_rtol: Relative tolerance of the adjoint iteration, > 0.
        adjoint_max_steps: Most adjoint applications, >= 0; 0 equals ``one-step``.
        adjoint_method: Adjoint iteration of a layer; ``plain`` is the Neumann series.

    Raises:
        ConfigError: A tolerance, a number of steps or a name is impossible.
    """

    rtol: Tolerance = 1e-5
    max_steps: Iterations = 100
    method: SolverMethod = SolverMethod.PLAIN
    rule: GradientRule = GradientRule.IMPLICIT
    adjoint_rtol: Tolerance = 1e-2
    adjoint_max_steps: Iterations = 100
    adjoint_method: SolverMethod = SolverMethod.ANDERSON

    def __post_init__(self) -> None:
        """Reject impossible tolerances, step counts and names."""
        check_fields(self)
        for name, kind in (
            ("rule", GradientRule),
            ("method", SolverMethod),
            ("adjoint_method", SolverMethod),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))


@torch.no_grad()
def fixed_point_iteration(
    f: Map, z0: Tensor, *args: Tensor, rtol: float, max_steps: int
) -> SolveResult:
    """Iterate ``z <- f(z, *args)``: one batch, plain, no gradient.

    A sample leaves the batch as soon as its relative residual is below rtol, so none
    waits for the slowest. Divergence is no error: a sample whose iterate stops being
    finite keeps its last finite one, and its status says so.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone.
        z0: Initial iterate [n, ...].
        *args: Further arguments of f, each [n, ...].
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.

    Returns:
        SolveResult with a value of the shape of z0, without gradient.

    References:
        Mathur & Plis (2023), DynaLay, section 2.1 and eq. 13.
    """
    progress, z, step = Progress(z0, rtol, max_steps), z0, 0
    while step < max_steps and progress.is_running:
        step += 1
        new = f(z, *args)
        stay = progress.record(new, z, step_residual(new, new - z), step)
        z = new
        if stay is not None:
            z = select_rows(z, stay)
            args = tuple(select_rows(part, stay) for part in args)
    return progress.result()


def residual_curve(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> list[float]:
    """Return the relative residual after each plain iteration of one sample's solve.

    Args:
        f: The map.
        z0: Initial iterate [1, ...].
        x: Injected input [1, ...].
        config: Tolerance and most steps.
    """
    z, curve = z0, list[float]()
    while len(curve) < config.max_steps:
        result = fixed_point_iteration(f, z, x, rtol=config.rtol, max_steps=1)
        z = result.value
        curve.append(float(result.residual))
        if not curve[-1] >= config.rtol:
            break
    return curve


def iterate(
    f: Map, z0: Tensor, *args: Tensor, config: SolverConfig, latest: bool = False
) -> SolveResult:
    """Find the fixed point of ``f(., *args)``: any method, no gradient.

    The batch is cut into tiles that fit the processor's cache.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone. It
            returns new memory.
        z0: Initial iterate [n, ...].
        *args: Further arguments of f, each [n, ...].
        config: Method, tolerance and steps.
        latest: Whether the value is always the last application's, as it is in plain
            iteration; see `anderson_iteration`.
    """
    run = fixed_point_iteration
    if config.method is SolverMethod.ANDERSON:
        run = partial(anderson_iteration, latest=latest)
    parts = [
        run(f, *tile, rtol=config.rtol, max_steps=config.max_steps)
        for tile in in_tiles(z0, *args)
    ]
    if len(parts) == 1:
        return parts[0]
    return SolveResult(
        value=torch.cat([part.value for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        num_steps=torch.cat([part.num_steps for part in parts]),
        status=torch.cat([part.status for part in parts]),
    )


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Keep ``torch.compile`` out of a function: how long it iterates, data decide.

    What `torch.compiler.disable` does, which would import the whole compiler here.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            eager: Callable[P, T] = torch.compiler.disable(function)
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return run


@uncompiled
def solve(f: Map, z0: Tensor, x: Tensor, config: SolverConfig) -> SolveResult:
    """Find the fixed point of ``f(., x)``: `iterate` plus the gradient rule.

    It takes any map. `FixedPointLayer.solve` knows its map, and is faster and takes
    less memory.

    Args:
        f: The map, as for `iterate`; its parameters receive gradients by closure.
        z0: Initial iterate [n, ...].
        x: Injected input [n, ...].
        config: Method, tolerances and the gradient rule. The adjoint is the Neumann
            series, its tolerance that of the whole batch.

    Returns:
        SolveResult. With gradients on, ``value`` carries the gradient that the rule
        defines; differentiating it twice raises RuntimeError, but with ``unroll``. The
        values equal those without gradients (with ``unroll``, those of plain
        iteration).

    References:
        DynaLay eq. 5 (implicit gradient); Liao et al. (2018), recurrent
        back-propagation; Fung et al. (2022), Jacobian-free back-propagation.
    """
    if torch.is_grad_enabled() and config.rule is GradientRule.UNROLL:
        return unrolled_iteration(f, z0, x, config.rtol, config.max_steps)
    result = iterate(f, z0, x, config=config)
    if not torch.is_grad_enabled():
        return result
    if config.max_steps == 0:
        return replace(result, value=z0)
    is_implicit = config.rule is GradientRule.IMPLICIT
    steps = config.adjoint_max_steps if is_implicit else 0
    value = with_gradient(f, result.value, x, config.adjoint_rtol, steps)
    return replace(result, value=value)
