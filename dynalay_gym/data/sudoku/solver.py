"""An exact solver: how many solutions has a Sudoku?

Depth-first, the cell with the fewest digits left first. It knows nothing of rounds, so
that it can check what they say.
"""

from collections.abc import Sequence

import numpy as np

from dynalay_gym.data.sudoku.rules import BOXES, peers
from dynalay_gym.errors import DataError

BLANK = -1


def solutions(
    cells: Sequence[int],
    limit: int = 2,
    *,
    orders: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Return solutions of a puzzle, up to a limit; a proper puzzle has one.

    Args:
        cells: Digits 0..s-1 in reading order, `BLANK` where none is given; s is 4, 6
            or 9.
        limit: Most solutions to look for, at least 1.
        orders: Digits of each cell in the order in which they are tried; ascending if
            None.

    Returns:
        Full grids, in the order in which they are found; none if the givens contradict
        each other.

    Raises:
        DataError: This is no grid.
    """
    side = round(len(cells) ** 0.5)
    if side not in BOXES or side**2 != len(cells):
        raise DataError(f"a puzzle has 16, 36 or 81 cells, not {len(cells)}")
    if not all(BLANK <= digit < side for digit in cells):
        raise DataError(f"digits lie in 0..{side - 1}; write {BLANK} for a blank cell")
    near = [np.flatnonzero(row).tolist() for row in peers(side)]
    grid, left = [BLANK] * len(cells), [2**side - 1] * len(cells)
    for cell, digit in enumerate(cells):
        if digit != BLANK:
            if not left[cell] >> digit & 1:
                return []
            grid[cell], left = digit, _without(left, near[cell], digit)
    found: list[list[int]] = []
    _search(grid, left, near, orders or [range(side)] * len(cells), found, limit)
    return found


def _search(
    grid: list[int],
    left: list[int],
    near: list[list[int]],
    orders: Sequence[Sequence[int]],
    found: list[list[int]],
    limit: int,
) -> None:
    """Add the solutions of a grid whose blanks have the digits `left`, as bits."""
    blanks = [cell for cell, digit in enumerate(grid) if digit == BLANK]
    if not blanks:
        found.append(grid.copy())
        return
    cell = min(blanks, key=lambda blank: left[blank].bit_count())
    for digit in orders[cell]:
        if left[cell] >> digit & 1 and len(found) < limit:
            grid[cell] = digit
            fewer = _without(left, near[cell], digit)
            _search(grid, fewer, near, orders, found, limit)
    grid[cell] = BLANK


def _without(left: list[int], cells: list[int], digit: int) -> list[int]:
    """Return the digits left when some cells lose one."""
    fewer = left.copy()
    for cell in cells:
        fewer[cell] &= ~(1 << digit)
    return fewer
