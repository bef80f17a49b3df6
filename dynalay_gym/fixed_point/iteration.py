"""Plain fixed-point iteration with evidence for every sample.

Axes: n samples; the rest of a state's axes are flattened for norms.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import (
    Progress,
    SolveResult,
    checked_residual,
    select_rows,
)

# Takes the iterate and whatever it is a function of beside it, row by row.
Map = Callable[..., Tensor]


@torch.no_grad()
def fixed_point_iteration(
    f: Map, z0: Tensor, *args: Tensor, rtol: float, max_steps: int
) -> SolveResult:
    """Iterate ``z <- f(z, *args)`` until each sample's relative residual is below rtol.

    Samples that converge leave the batch at once, so nobody pays for the slowest.
    Divergence is data: a sample whose iterate stops being finite keeps its last finite
    one and is flagged.

    Args:
        f: The map; row i of its output depends on row i of its arguments alone.
        z0: Initial iterate [n, ...].
        *args: What f takes beside the iterate, each [n, ...]; constant over the
            iteration.
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of f, >= 0.

    Returns:
        SolveResult with a value of the shape of z0, without gradient.

    References:
        Mathur & Plis (2023), DynaLay, section 2.1 and eq. 13.
    """
    progress, z, step = Progress(z0, rtol, max_steps), z0, 0
    while step < max_steps and progress.going:
        step += 1
        new = f(z, *args)
        stay = progress.note(new, z, checked_residual(new, new - z), step)
        z = new
        if stay is not None:
            z = select_rows(z, stay)
            args = tuple(select_rows(part, stay) for part in args)
    return progress.result()
