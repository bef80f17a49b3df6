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
class SkipState:
    """Residual networks in progress, one per row.

    Attributes:
        maps: Input of each block, and last that of the head, B + 1 times
            float [n, C, H, W]. Behind the blocks that are decided on, none has run.
        pooled: Their global averages, float [n, B + 1, W]; 0 beyond a map's channels.
        logits: Current answers, float [n, K].
        position: Blocks that are decided on, int64 [n].
        taken: The action at each of them, int64 [n, B]; elsewhere `STOP`.
        gates: What the network's own gates of each block said when the row stood before
            it, B times float [n, G]; G is 0 without gates.
    """

    maps: list[Tensor]
    pooled: Tensor
    logits: Tensor
    position: Tensor
    taken: Tensor
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
            maps=[torch.zeros(num_rows, *shape, **kind) for shape in shapes],
            pooled=torch.zeros(num_rows, num_blocks + 1, widest, **kind),
            logits=torch.zeros(num_rows, num_classes, **kind),
            position=torch.zeros(num_rows, dtype=torch.int64, device=device),
            taken=torch.full((num_rows, num_blocks), STOP, device=device),
            gates=[torch.zeros(num_rows, num, **kind) for num in num_gates],
        )

    @property
    def ran(self) -> Tensor:
        """Blocks whose branch ran, iterated or not, bool [n, B]."""
        return branch_runs(self.taken)

    def write(self, level: int, rows: Tensor, maps: Tensor) -> None:
        """Overwrite the input of block `level` (from 0) of some rows, [m, C, H, W]."""
        self.maps[level].index_copy_(0, rows, maps)
        self.pooled[rows, level, : maps.shape[1]] = maps.mean((2, 3))

    def clone(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


def branch_runs(actions: Tensor) -> Tensor:
    """Return whether each of some actions runs the branch, bool of the same shape."""
    return (actions == RUN) | (actions == ITERATE)
