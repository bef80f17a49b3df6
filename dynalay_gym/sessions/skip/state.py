"""What a residual network in progress keeps of each row.

Axes: n rows, m of them chosen, B blocks, K classes, W channels of the widest map,
G gates of a block.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dynalay_gym.sessions.skip.decisions import ITERATE, RUN, STOP


@dataclass
class BlockState:
    """Networks in progress, one per row, whose blocks are decided on in turn.

    Attributes:
        pooled: Global averages of what enters each block, and last the head (0 if it is
            not known), float [n, B + 1, W]; 0 beyond its channels.
        logits: Current answers, float [n, K].
        position: Blocks that are decided on, int64 [n].
        taken: The action at each of them, int64 [n, B]; elsewhere `STOP`.
    """

    pooled: Tensor
    logits: Tensor
    position: Tensor
    taken: Tensor

    @property
    def ran(self) -> Tensor:
        """Blocks that were decided to run, iterated or not, bool [n, B]."""
        return branch_runs(self.taken)

    def clone(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


def empty_parts(
    num_rows: int, num_blocks: int, width: int, num_classes: int, device: torch.device
) -> dict[str, Tensor]:
    """Return memory for the parts of `BlockState`."""
    kind: Any = {"dtype": torch.float32, "device": device}
    return {
        "pooled": torch.zeros(num_rows, num_blocks + 1, width, **kind),
        "logits": torch.zeros(num_rows, num_classes, **kind),
        "position": torch.zeros(num_rows, dtype=torch.int64, device=device),
        "taken": torch.full((num_rows, num_blocks), STOP, device=device),
    }


@dataclass
class SkipState(BlockState):
    """Residual networks in progress; see `BlockState`.

    Attributes:
        maps: Input of each block, and last that of the head, B + 1 times
            float [n, C, H, W]. Behind the blocks that are decided on, none has run.
        gates: What the network's own gates of each block said when the row stood before
            it, B times float [n, G]; G is 0 without gates.
    """

    maps: list[Tensor]
    gates: list[Tensor]

    @classmethod
    def empty(
        cls,
        shapes: Sequence[tuple[int, int, int]],
        num_gates: Sequence[int],
        num_rows: int,
        num_classes: int,
        device: torch.device,
    ) -> Self:
        """Return memory for n rows of maps (C, H, W) and G gates, of each block."""
        num_blocks, widest = len(shapes) - 1, max(shape[0] for shape in shapes)
        kind: Any = {"dtype": torch.float32, "device": device}
        return cls(
            **empty_parts(num_rows, num_blocks, widest, num_classes, device),
            maps=[torch.zeros(num_rows, *shape, **kind) for shape in shapes],
            gates=[torch.zeros(num_rows, num, **kind) for num in num_gates],
        )

    def write(self, level: int, rows: Tensor, maps: Tensor) -> None:
        """Overwrite the input of block `level` (from 0) of some rows, [m, C, H, W]."""
        self.maps[level].index_copy_(0, rows, maps)
        self.pooled[rows, level, : maps.shape[1]] = maps.mean((2, 3))


def branch_runs(actions: Tensor) -> Tensor:
    """Return whether each of some actions runs the branch, bool of the same shape."""
    return (actions == RUN) | (actions == ITERATE)
