"""Who does what in one sweep over a network's layers, decided on the host.

Axes: m rows that act, L layers. States are bit patterns (bit l - 1 = layer l sits on
its fixed point); a *place* is a row's number among the m.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.fixed_point.progress import SolveResult

# Rows that pass through the network together: enough to keep the kernels busy, few
# enough to bound the memory (measured: 64 to 512 differ by a few percent).
TILE = 256

Host = NDArray[np.int64]  # numbers that decide who does what, in main memory


class Work:
    """What m rows are to do in one sweep, and what it took; on the host.

    Attributes:
        rows: Where the m rows are in the batch.
        start: Lowest layer that acts in each row, 1..L.
        target: State that each row is brought to (bit l - 1 = layer l iterated).
        again: Whether the start layer sits on its fixed point already.
        macs: Multiply-adds executed.
        steps: Iterations taken.
        status: The worst ``SolverStatus`` of a solve.
    """

    def __init__(
        self,
        rows: Host,
        start: Host,
        target: Host,
        again: NDArray[np.bool_] | None = None,
    ) -> None:
        self.rows, self.start, self.target = rows, start, target
        self.again = np.zeros(len(start), dtype=bool) if again is None else again
        self.taken = np.zeros((3, len(start)), dtype=np.int64)
        self.macs, self.steps, self.status = self.taken

    def groups(self, layer: int) -> tuple[Host, Host, Host]:
        """Places of the rows that check, refresh and solve a layer."""
        wanted = (self.target >> (layer - 1) & 1).astype(bool)
        here, above = self.start == layer, self.start < layer
        check = here & self.again
        solve = wanted & (above | here) & ~check
        return np.flatnonzero(check), np.flatnonzero(above), np.flatnonzero(solve)

    def add(self, some: Host, fixed: Any, each: int, result: SolveResult) -> None:
        """Count a solve of some rows: fixed MACs, and MACs per iteration."""
        steps = result.num_steps.cpu().numpy()
        self.steps[some] += steps
        self.macs[some] += fixed + each * steps
        status = result.status.cpu().numpy()
        self.status[some] = np.maximum(self.status[some], status)


def tiles(rows: Any) -> Iterator[Any]:
    """Rows (an array or a tensor) in runs of at most ``TILE``."""
    for start in range(0, len(rows), TILE):
        yield rows[start : start + TILE]
