"""Solving ``z = f(z, x)`` for sequences whose tokens leave one by one.

A token settles as soon as one step would move it by less than the tolerance: it stays
at the iterate at which this was tested, and is not computed again. The others go on
reading it. That the last ones do not move the settled ones by more than a few
tolerances is what a contraction promises, and `TokenResult` does not claim more: its
residuals are those at which tokens settled.

Axes: n samples, T tokens, D channels, a active tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import (
    SolveResult,
    SolverStatus,
    relative_residual,
)

Where = tuple[Tensor, ...]  # sample and position of each active token, int64 [a]
# From the iterate [n, T, D], and where tokens are active, to their next states [a, D].
TokenStep = Callable[[Tensor, Where], Tensor]


@dataclass(frozen=True, kw_only=True)
class TokenResult(SolveResult):
    """A solve and its evidence, per sample and per token.

    A sample has converged when all of its tokens have settled; its residual is the
    largest of those that took part in its last step, and its number of steps that of
    its slowest token.

    Attributes:
        token_steps: Steps that each token took part in, int64 [n, T].
        settled: Whether a token does not move any more, bool [n, T]; True of padding.
    """

    token_steps: Tensor
    settled: Tensor


def iterate_tokens(
    step: TokenStep, z0: Tensor, settled: Tensor, rtol: float, max_steps: int
) -> TokenResult:
    """Iterate until all tokens have settled; differentiable if the step is.

    A sample of which a token stops being finite keeps its last finite iterate.

    Args:
        step: The map, for active tokens alone.
        z0: Initial iterate [n, T, D].
        settled: Tokens that have settled before, and padding, bool [n, T].
        rtol: Relative tolerance of a token, > 0.
        max_steps: Most steps, >= 0.

    Returns:
        TokenResult; the residual of a sample that took no step is 1.
    """
    z, active, number = z0, ~settled, 0
    steps = torch.zeros_like(settled, dtype=torch.int64)
    residual = torch.ones(len(z0), dtype=torch.float32, device=z0.device)
    while number < max_steps and bool(active.any()):
        number += 1
        sample, position = where = active.nonzero(as_tuple=True)
        new = step(z, where)
        moved = relative_residual(new.detach(), z.detach()[where]).float()
        _keep_largest(residual, sample, moved)
        goes_on = (moved >= rtol) & ~residual.isnan()[sample]
        steps[where] += 1
        going = sample[goes_on], position[goes_on]
        z = z.index_put(going, new[goes_on])
        active[where] = goes_on
    return _result(z, residual, steps, settled, active)


def _keep_largest(residual: Tensor, sample: Tensor, moved: Tensor) -> None:
    """Write the largest residual of each sample's active tokens; NaN if one is NaN."""
    largest = torch.full_like(residual, -1.0)
    largest.scatter_reduce_(0, sample, moved, "amax")
    torch.where(largest < 0, residual, largest, out=residual)


def _result(
    z: Tensor, residual: Tensor, steps: Tensor, settled: Tensor, active: Tensor
) -> TokenResult:
    is_broken = residual.isnan()
    capped = active.any(1)
    status = torch.full_like(residual, SolverStatus.CONVERGED, dtype=torch.int64)
    status[capped] = SolverStatus.MAX_STEPS
    status[is_broken] = SolverStatus.NONFINITE
    # Tokens of a broken sample have not settled, but those that had before.
    has_settled = torch.where(is_broken[:, None], settled, ~active)
    num_steps = steps.amax(1) if steps.shape[1] > 0 else steps.sum(1)
    return TokenResult(
        value=z,
        residual=residual,
        num_steps=num_steps,
        status=status,
        token_steps=steps,
        settled=has_settled,
    )


def joined(parts: Sequence[TokenResult]) -> TokenResult:
    """Return the solves of several tiles of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(TokenResult) if field.name != "saved"]
    found = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
    return TokenResult(**found)
