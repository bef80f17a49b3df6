"""Rows of a batch: how they lie in memory, and how they are picked, summed and tiled.

Every function treats a row the same way whatever the batch around it, bit for bit.

Axes: n samples (rows); a state [n, ...] is a vector [n, D], or maps [n, C, H, W], the
latter with the channels of a pixel side by side if it is not contiguous.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of one state tensor of a tile; an iteration works on four to six of them, which
# should stay in the processor's cache.
_TILE_BYTES = 2**20
_MIN_TILE_ROWS = 8


def channels_last(states: Tensor) -> Tensor:
    """Return maps in the layout in which a processor convolves fastest.

    States that are no maps, or lie on an accelerator, are returned as they are.
    """
    if states.dim() == 4 and states.is_cpu:
        return states.contiguous(memory_format=torch.channels_last)
    return states


def flat_rows(states: Tensor) -> Tensor:
    """View states as [n, D], in the order in which they lie in memory."""
    return _as_stored(states).flatten(1)


def select_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Copy rows (int64 [m]) of states, in the same layout.

    ``index_select`` forgets that channels lie side by side, and convolutions of
    another layout round otherwise: a row would depend on which others were picked.
    """
    return _as_seen(_as_stored(states).index_select(0, rows), states)


def empty_rows(num_rows: int, like: Tensor) -> Tensor:
    """Return memory for some rows in the layout of `like` [m, ...]."""
    stored = _as_stored(like)
    return _as_seen(stored.new_empty(num_rows, *stored.shape[1:]), like)


def row_sums(numbers: Tensor) -> Tensor:
    """Return the sum of each row of [n, D]."""
    return _reduce_rows(lambda rows: rows.sum(1), numbers)


def row_norms(states: Tensor) -> Tensor:
    """Return the Euclidean norm of each row [n], in single precision at least."""
    rows = flat_rows(states)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return _reduce_rows(
        lambda rows: torch.linalg.vector_norm(rows, dim=1, dtype=dtype), rows
    )


def in_tiles(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors [n, ...] along axis 0 into tiles that fit the processor's cache.

    Iterating all samples once, then all of them again, would stream the whole batch
    through memory at every step. On an accelerator everything is one tile.
    """
    first = tensors[0]
    if not first.is_cpu or first.nbytes <= _TILE_BYTES:
        return [tensors]
    size = max(_TILE_BYTES * len(first) // first.nbytes, _MIN_TILE_ROWS)
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def _as_stored(states: Tensor) -> Tensor:
    """View maps [n, C, H, W] with channels last as [n, H, W, C]; others as they are."""
    is_last = states.dim() == 4 and not states.is_contiguous()
    return states.permute(0, 2, 3, 1) if is_last else states


def _as_seen(stored: Tensor, like: Tensor) -> Tensor:
    """Undo `_as_stored` of a tensor in the layout of `like`."""
    is_last = like.dim() == 4 and not like.is_contiguous()
    return stored.permute(0, 3, 1, 2) if is_last else stored


def _reduce_rows(reduce: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Reduce each row of [n, D]; a lone row beside itself.

    Libraries sum a lone row in another order. An exported graph promises values but no
    bits, and does not know the number of rows.
    """
    if torch.compiler.is_exporting() or len(rows) != 1:
        return reduce(rows)
    return reduce(rows.expand(2, -1))[:1]
