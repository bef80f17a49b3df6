"""Which cells of a Sudoku exclude each other.

A grid of side s has C = s^2 cells in reading order, and digits 0..s-1.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box, by side


@cache
def peers(side: int) -> NDArray[np.float32]:
    """Return 1 where two different cells share a row, a column or a box, [C, C]."""
    height, width = BOXES[side]
    row, column = np.divmod(np.arange(side * side), side)
    box = row // height * side + column // width
    shared = sum(part[:, None] == part for part in (row, column, box))
    return (np.asarray(shared) > 0).astype(np.float32) - np.eye(side * side, dtype="f4")
