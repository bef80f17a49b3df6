"""Residual blocks of which each row runs, or iterates, only what its gates leave.

Axes: n rows, C channels, H x W pixels, m rows of a group.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import conv2d, conv2d_size
from dynalay_gym.fixed_point.relu_solve import relu_solve
from dynalay_gym.fixed_point.rows import select_rows
from dynalay_gym.networks.residual.blocks import ResidualBlock, activate

Kept = slice | Tensor  # the inner channels that a group of rows computes


def mask_block(
    block: ResidualBlock,
    x: Tensor,
    scale: Tensor,
    channels: Tensor | None = None,
    iterates: bool = False,
) -> Tensor:
    """Run a whole block and multiply by the gates: what training differentiates.

    Args:
        block: The block.
        x: Its inputs [n, C_in, H, W].
        scale: Factor of the branch of each row [n].
        channels: Factors of its inner channels [n, C_inner]; None is all 1.
        iterates: Whether the inner activations are iterated to their fixed point.

    Returns:
        ``merge(shortcut(x), scale * outer(inner(x) * channels))``, [n, C_out, H', W'].
    """
    inner = block.inner(x, iterates)
    if channels is not None:  # autocast leaves gates in float32, and maps must not be
        inner = inner * channels[:, :, None, None].to(inner)
    branch = block.outer(inner, iterates)
    return block.merge(
        block.shortcut(x), scale[:, None, None, None].to(branch) * branch
    )


def run_block(
    block: ResidualBlock,
    x: Tensor,
    scale: Tensor,
    channels: Tensor | None = None,
    iterates: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run of a block what the gates of each row leave: `mask_block`, for less.

    A row whose scale is 0 runs no branch, and an inner channel whose gate is 0 is
    neither made nor iterated nor read. A row's bits do not depend on the rows beside
    it. Without a 0 among its gates they are those of `mask_block`, and so, if all are
    1, those of ``block(x, iterates)``; with channels left out, sums may be in another
    order, and a solve stops by the residual of those that are kept.

    Rows that leave out the same channels run together. If those are the last ones,
    the kernels of the others are read in place; they are gathered otherwise.

    Args:
        block: The block, in evaluation mode; with a recurrence if it is iterated.
        x: Its inputs [n, C_in, H, W].
        scale: Factor of the branch of each row [n].
        channels: Factors of its inner channels [n, C_inner]; None is all 1.
        iterates: Whether the inner activations are iterated to their fixed point.

    Returns:
        Outputs [n, C_out, H', W'], and of each row the multiply-adds, the iterations
        and the `SolverStatus`, int64 [3, n]; the last two are 0 if none is iterated.
    """
    assert scale.shape == x.shape[:1] and not block.training
    total = block.shortcut(x)
    cost = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
    groups = _groups(block, scale, channels)
    is_whole = len(groups) == 1 and len(groups[0][0]) == len(x)  # spares copies
    if not is_whole:
        total = total.clone()
    for rows, kept in groups:
        inputs = x if is_whole else select_rows(x, rows)
        gates = None if channels is None else channels.index_select(0, rows)
        branch, cost[1:, rows] = _branch(block, inputs, gates, kept, iterates)
        factor = scale.index_select(0, rows)[:, None, None, None]
        branch = (factor * branch).to(total)  # autocast leaves factors in float32
        total = total + branch if is_whole else total.index_add_(0, rows, branch)
    cost[0] = count_macs(block, x, scale, channels, cost[1])
    return block.merge(total), cost


def count_macs(
    block: ResidualBlock,
    x: Tensor,
    scale: Tensor,
    channels: Tensor | None = None,
    steps: Tensor | int = 0,
) -> Tensor:
    """Return the multiply-adds of what the gates of each row leave, int64 [n].

    Args:
        block: The block.
        x: Its inputs [n, C_in, H, W].
        scale: Factor of the branch of each row [n].
        channels: Factors of its inner channels [n, C_inner]; None is all 1.
        steps: Iterations that each row took [n].
    """
    counted = block.macs(x.shape[-1])
    num: Tensor | int = counted.num_channels
    if channels is not None:
        num = channels.count_nonzero(1)
    of_channel = counted.channel + steps * counted.iteration
    return (scale != 0) * num * of_channel + counted.shortcut


def _groups(
    block: ResidualBlock, scale: Tensor, channels: Tensor | None
) -> list[tuple[Tensor, Kept]]:
    """Return rows, int64 [m], that run the branch with the same inner channels."""
    rows = scale.nonzero()[:, 0]
    if len(rows) == 0:
        return []
    if channels is None:
        return [(rows, slice(block.inner_channels))]
    is_open = (channels != 0).cpu().numpy()
    alike: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        alike.setdefault(is_open[row].tobytes(), []).append(row)
    return [
        (torch.tensor(some, device=rows.device), _kept(is_open[some[0]], rows.device))
        for some in alike.values()
    ]


def _kept(is_open: NDArray[np.bool_], device: torch.device) -> Kept:
    """Return which of bool [C_inner] channels are open."""
    kept = is_open.nonzero()[0]
    if is_open[: len(kept)].all():
        return slice(len(kept))
    return torch.from_numpy(kept).to(device)


def _branch(
    block: ResidualBlock,
    x: Tensor,
    gates: Tensor | None,
    kept: Kept,
    iterates: bool,
) -> tuple[Tensor, Tensor]:
    """Return the branch with some of its inner channels, and what its solve took.

    Args:
        block: The block.
        x: Inputs of the rows of a group [m, C_in, H, W].
        gates: Their gates [m, C_inner]; None is all 1.
        kept: The open ones.
        iterates: Whether they are iterated.

    Returns:
        Outputs [m, C_out, H', W']; iterations and status, int64 [2, m].
    """
    taken = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
    if isinstance(kept, slice) and kept.stop == 0:  # only biases are left
        sides = (conv2d_size(side, block.stride) for side in x.shape[2:])
        nothing = x.new_zeros(len(x), block.out_channels, *sides)
        return block.finish(nothing, iterates), taken
    made = conv2d(x, _take(block.conv1.weight, kept), stride=block.stride, padding=1)
    u = _normalise(block.norm1, made, kept)
    if iterates:
        inner, taken = _solve(block, u, kept)
    else:
        inner = activate(u, block.inner_form)
    if gates is not None:
        inner = inner * _take(gates, kept, 1)[:, :, None, None]
    read = conv2d(inner, _take(block.conv2.weight, kept, 1), padding=1)
    return block.finish(read, iterates), taken


def _solve(block: ResidualBlock, u: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Return the fixed point of some channels, and iterations and status, [2, m]."""
    layer = block.recurrence
    assert layer is not None, "a fixed-point layer"
    result = relu_solve(layer, _take(layer.weight(), kept), None, u, layer.solver)
    return result.value, torch.stack([result.num_steps, result.status])


def _normalise(norm: nn.BatchNorm2d, x: Tensor, kept: Kept) -> Tensor:
    """Normalise some of the channels that a normalisation knows."""
    assert norm.running_mean is not None and norm.running_var is not None
    known = norm.running_mean, norm.running_var, norm.weight, norm.bias
    mean, variance, weight, bias = (_take(each, kept) for each in known)
    return F.batch_norm(x, mean, variance, weight, bias, eps=norm.eps)


def _take(values: Tensor, kept: Kept, axis: int = 0) -> Tensor:
    """Return some channels along an axis; the first ones are not copied."""
    if isinstance(kept, slice):
        return values.narrow(axis, 0, kept.stop)
    return values.index_select(axis, kept)
