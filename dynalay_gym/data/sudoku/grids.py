"""Sudoku's rules, for many grids at once: full grids, deduction, symmetries.

In a full grid each row, column and box holds every digit once. Which cells are given is
a mask.

Axes: n grids, C cells, s digits, M symmetries.
"""

from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.data.sudoku.rules import BOXES, peers
from dynalay_gym.data.sudoku.solver import BLANK, solutions

Digits = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEVER = 10_000  # the round in which nothing more is found


def random_grids(bits: np.random.PCG64, num: int, side: int) -> Digits:
    """Return full grids, [n, C], each found by trying digits in an order of its own."""
    cells = side * side
    orders = shuffled(bits, num * cells, side).reshape(num, cells, side).tolist()
    empty = [BLANK] * cells
    return np.array([solutions(empty, 1, orders=each)[0] for each in orders])


def rounds(grids: Digits, is_given: Mask) -> Digits:
    """Return the round in which each cell is known, [n, C]; 0 if it is given.

    In a round every cell that has a single digit left, those of known cells in its
    row, column and box aside, becomes known; `NEVER` is what never does. Whoever knows
    all cells has proved that there is no other solution.
    """
    side = int(grids.shape[1] ** 0.5)
    is_digit = grids[:, :, None] == np.arange(side)
    found, known = np.where(is_given, 0, NEVER), is_given
    for number in range(1, grids.shape[1] + 1):
        placed = (known[:, :, None] & is_digit).astype(np.float32)
        num_left = (peers(side) @ placed == 0).sum(2)
        new = (num_left == 1) & ~known
        if not new.any():
            break
        found[new], known = number, known | new
    return found


def minimal_puzzles(bits: np.random.PCG64, grids: Digits) -> Mask:
    """Return givens from which every cell follows round by round, none to spare.

    Cells are left out in a random order, each if all others still follow.
    """
    num, cells = grids.shape
    is_given, rows = np.ones(grids.shape, dtype=bool), np.arange(num)
    for cell in shuffled(bits, num, cells).T:
        fewer = is_given.copy()
        fewer[rows, cell] = False
        follows = (rounds(grids, fewer) < NEVER).all(1)
        is_given[follows] = fewer[follows]
    return is_given


def random_symmetries(bits: np.random.PCG64, num: int, side: int) -> Digits:
    """Return from which cell each cell of a symmetric grid comes, [n, C].

    Rows change places within a band of boxes, and bands as a whole; likewise columns;
    rows become columns if boxes are square.
    """
    height, width = BOXES[side]
    row, column = (_lines(bits, num, side, of_box) for of_box in (height, width))
    cell = row[:, :, None] * side + column[:, None]
    is_turned = (uniform(bits, num, 1, 1) < 0.5) & (height == width)
    return np.where(is_turned, cell.swapaxes(1, 2), cell).reshape(num, -1)


def _lines(bits: np.random.PCG64, num: int, side: int, of_box: int) -> Digits:
    """Return random orders of rows, or columns, that keep boxes together, [n, s]."""
    bands = shuffled(bits, num, side // of_box)
    inside = shuffled(bits, num * (side // of_box), of_box)
    inside = inside.reshape(num, -1, of_box)
    return (bands[:, :, None] * of_box + inside).reshape(num, side)


@cache
def _small_symmetries() -> Digits:
    """Return all symmetries of the cells of a grid of side 4, [M, C]."""
    lines = [p for p in permutations(range(4)) if {p[0], p[1]} in ({0, 1}, {2, 3})]
    cells = np.arange(16).reshape(4, 4)
    turned = [cells[np.ix_(*both)] for both in product(lines, lines)]
    return np.array([view.ravel() for each in turned for view in (each, each.T)])


def class_keys(grids: Digits, is_given: Mask) -> Digits:
    """Return a number of each puzzle of side 4 that its symmetric ones share, [n].

    The smallest number that a symmetric puzzle is written as, digits renamed.
    """
    views = _small_symmetries()
    known, place = np.unique(_renamed(grids), axis=0, return_inverse=True)
    number = _renamed(known[:, views]) @ 4 ** np.arange(16)  # [few, M]
    givens = is_given @ (2 ** views.argsort(1)).T  # [n, M]
    keys: Digits = (2**16 * number[place] + givens).min(1)
    return keys


def _renamed(grids: Digits) -> Digits:
    """Return grids of side 4 [..., C] whose first row is 0 1 2 3."""
    return np.take_along_axis(grids[..., :4].argsort(-1), grids, -1)


def shuffled(bits: np.random.PCG64, num: int, size: int) -> Digits:
    """Return random orders of 0..size-1, [n, size]."""
    return np.argsort(uniform(bits, num, size), axis=1, kind="stable")


def uniform(bits: np.random.PCG64, *shape: int) -> NDArray[np.float64]:
    """Draw numbers of [0, 1) from raw bits, the stream that NumPy never changes."""
    raw = bits.random_raw(int(np.prod(shape))).reshape(shape)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
