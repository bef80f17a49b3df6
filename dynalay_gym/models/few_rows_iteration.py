"""Plain iteration of a convolutional layer for few rows: the same bits, on the host.

Axes: n rows, C channels, H x W pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.models import few_rows
from dynalay_gym.models.few_rows import Geometry, Numbers
from dynalay_gym.models.progress import (
    GRAIN,
    Progress,
    SolveResult,
    row_norms,
    simple_residual,
)


def iterate_few_rows(
    z: Tensor,
    x: Tensor,
    matrix: Numbers,
    geometry: Geometry,
    *,
    rtol: float,
    max_steps: int,
) -> SolveResult | None:
    """Iterate ``z <- relu(x + W z)`` as ``fixed_point_iteration`` does.

    Args:
        z: Initial iterate [n, C, H, W].
        x: Injected input [n, C, H, W].
        matrix: Kernel of W as a matrix.
        geometry: Its sizes; W keeps those of the map.
        rtol: Relative tolerance, > 0.
        max_steps: Most applications of the map, >= 1.

    Returns:
        SolveResult; None if a norm is zero or out of range, for then it takes more
        care.
    """
    states, inputs = _pixels(z), _pixels(x)
    if states[0].size > GRAIN:
        return None
    progress, step = Progress(z, rtol, max_steps), 0
    with np.errstate(over="ignore", invalid="ignore"):
        while step < max_steps and progress.going:
            step += 1
            inside = few_rows.columns(states, geometry)
            new = few_rows.products(inside, matrix, geometry).reshape(states.shape)
            new += inputs
            np.maximum(new, 0.0, out=new)
            residual = _residual(new, states)
            if residual is None:
                return None
            stay = progress.note(_maps(new), z, residual, step)
            states = new
            if stay is not None:
                states, inputs = states[stay.numpy()], inputs[stay.numpy()]
    return progress.result()


def _residual(new: Numbers, old: Numbers) -> NDArray[np.float32] | None:
    rows = len(new), -1
    norm, step = row_norms(new.reshape(rows)), row_norms((new - old).reshape(rows))
    return simple_residual(norm, step)


def _pixels(maps: Tensor) -> Numbers:
    """Maps [n, C, H, W] as [n, H, W, C]."""
    return np.ascontiguousarray(maps.permute(0, 2, 3, 1).numpy())


def _maps(pixels: Numbers) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
