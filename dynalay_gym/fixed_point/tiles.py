"""Solve a batch tile by tile, so that a tile's states stay in the processor's cache.

Iterating all samples once, then all of them again, streams the whole batch through
memory at every step. Rows do not depend on each other, so the tiles change no result.

Axes: n samples.
"""

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import SolveResult

# Of one state tensor; an iteration works on four to six of them.
_TILE_BYTES = 2**20
_MIN_ROWS = 8


def tile_rows(states: Tensor) -> int:
    """Rows of a tile for states [n, ...]; all of them on an accelerator."""
    n = max(states.shape[0], 1)
    if not states.is_cpu or states.nbytes <= _TILE_BYTES:
        return max(n, _MIN_ROWS)
    return max(_TILE_BYTES * n // states.nbytes, _MIN_ROWS)


def in_tiles(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors [n, ...] into tiles of the first one's tile size, along axis 0."""
    size = tile_rows(tensors[0])
    if tensors[0].shape[0] <= size:
        return [tensors]
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def joined(parts: list[SolveResult]) -> SolveResult:
    """Put the results of the tiles of a batch together."""
    if len(parts) == 1:
        return parts[0]
    return SolveResult(
        value=torch.cat([part.value for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        num_steps=torch.cat([part.num_steps for part in parts]),
        status=torch.cat([part.status for part in parts]),
    )


def pixels_first(states: Tensor) -> Tensor:
    """The same states with the channels of a pixel side by side, if they are maps.

    Convolutions are fastest that way on a processor; elsewhere nothing changes.
    """
    if states.dim() == 4 and states.device.type == "cpu":
        return states.contiguous(memory_format=torch.channels_last)
    return states
