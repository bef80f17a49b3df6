"""Residual blocks of which each row runs only what its gates leave.

Axes: n rows, C channels, H x W pixels, m rows of a group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import conv2d
from dynalay_gym.fixed_point.rows import select_rows
from dynalay_gym.networks.residual.blocks import ResidualBlock, activate

Kept = slice | Tensor  # the inner channels that a group of rows computes


def mask_block(
    block: ResidualBlock, x: Tensor, scale: Tensor, channels: Tensor | None = None
) -> Tensor:
    """Run a whole block and multiply by the gates: what training differentiates.

    Args:
        block: The block.
        x: Its inputs [n, C_in, H, W].
        scale: Factor of the branch of each row [n].
        channels: Factors of its inner channels [n, C_inner]; None is all 1.

    Returns:
        ``merge(shortcut(x), scale * outer(inner(x) * channels))``, [n, C_out, H', W'].
    """
    inner = block.inner(x)
    if channels is not None:
        inner = inner * channels[:, :, None, None]
    branch = scale[:, None, None, None] * block.outer(inner)
    return block.merge(block.shortcut(x), branch)


def run_block(
    block: ResidualBlock, x: Tensor, scale: Tensor, channels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run of a block what the gates of each row leave: `mask_block`, for less.

    A row whose scale is 0 runs no branch, and an inner channel whose gate is 0 is
    neither made nor read. A row's bits do not depend on the rows beside it. Without a
    0 among its gates they are those of `mask_block`, and so, if all are 1, those of
    ``block(x)``; with channels left out, sums may be in another order.

    Rows that leave out the same channels run together. If those are the last ones,
    the kernels of the others are read in place; they are gathered otherwise.

    Args:
        block: The block, in evaluation mode.
        x: Its inputs [n, C_in, H, W].
        scale: Factor of the branch of each row [n].
        channels: Factors of its inner channels [n, C_inner]; None is all 1.

    Returns:
        Outputs [n, C_out, H', W'], and the multiply-adds of each row, int64 [n].
    """
    assert scale.shape == x.shape[:1] and not block.training
    shortcut = block.shortcut(x)
    counted = block.macs(x.shape[-1])
    macs = torch.full_like(scale, counted.shortcut, dtype=torch.int64)
    groups = list(_groups(block, scale, channels))
    for number, (rows, kept) in enumerate(groups):
        gates = None if channels is None else channels[rows][:, kept]
        branch = _branch(block, x, shortcut, rows, gates, kept)
        branch = scale[rows, None, None, None] * branch
        macs[rows] += counted.channel * _count(kept)
        if len(rows) == len(x):  # spares the plain pass a copy
            return block.merge(shortcut, branch), macs
        shortcut = shortcut.clone() if number == 0 else shortcut
        shortcut.index_add_(0, rows, branch)
    return block.merge(shortcut), macs


def _groups(
    block: ResidualBlock, scale: Tensor, channels: Tensor | None
) -> Iterator[tuple[Tensor, Kept]]:
    """Yield the rows, int64 [m], that run the branch with the same inner channels."""
    rows = scale.nonzero()[:, 0]
    if len(rows) == 0:
        return
    if channels is None:
        yield rows, slice(block.inner_channels)
        return
    patterns, of_row = (channels[rows] != 0).unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        kept = pattern.nonzero()[:, 0]
        num = len(kept)
        is_slice = bool(pattern[:num].all())
        yield rows[of_row == number], slice(num) if is_slice else kept


def _branch(
    block: ResidualBlock,
    x: Tensor,
    shortcut: Tensor,
    rows: Tensor,
    gates: Tensor | None,
    kept: Kept,
) -> Tensor:
    """Return the branch of some rows, [m, C_out, H', W'], with some inner channels."""
    if _count(kept) == 0:  # nothing is read, and yet there is a bias
        return block.finish(torch.zeros_like(select_rows(shortcut, rows)))
    if len(rows) < len(x):
        x = select_rows(x, rows)
    made = conv2d(x, block.conv1.weight[kept], stride=block.stride, padding=1)
    inner = activate(_normalise(block.norm1, made, kept), block.form)
    if gates is not None:
        inner = inner * gates[:, :, None, None]
    return block.finish(conv2d(inner, block.conv2.weight[:, kept], padding=1))


def _normalise(norm: nn.BatchNorm2d, x: Tensor, kept: Kept) -> Tensor:
    """Normalise some of the channels that a normalisation knows."""
    assert norm.running_mean is not None and norm.running_var is not None
    known = norm.running_mean, norm.running_var, norm.weight, norm.bias
    mean, variance, weight, bias = (each[kept] for each in known)
    return F.batch_norm(x, mean, variance, weight, bias, eps=norm.eps)


def _count(kept: Kept) -> int:
    return kept.stop if isinstance(kept, slice) else len(kept)
