"""Sudokus, generated: which digit belongs into the cell that is asked for?

Every blank cell of a puzzle follows from its givens, round by round: in a round each
cell becomes known whose row, column and box leave it one digit. (All puzzles of side 4
with one solution are of this kind; of side 9 the easier ones.) In how many rounds the
cell that is asked for becomes known is a sample's difficulty, as much thinking in
parallel as the answer takes.

A sample is a text of one word per cell in reading order: a digit, ``.`` for a blank
cell, ``?`` for the one that is asked for.

Axes: n samples, C = s^2 cells.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from dynalay_gym.data.registry import SPLITS
from dynalay_gym.data.splits import Split
from dynalay_gym.data.sudoku.grids import (
    Digits,
    Mask,
    class_keys,
    minimal_puzzles,
    random_grids,
    random_symmetries,
    rounds,
    shuffled,
    uniform,
)
from dynalay_gym.data.sudoku.rules import BOXES
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import ConfigError, DataError, brief

# Changing it changes every split, and with them every published number.
_SUDOKU_SEED = 2605
_CHUNK, _PUZZLES = 2_000, 250  # samples made at once, and puzzles that they come from
_SHARES = (10, 14, 15, 17)  # of 17: where the splits' shares of side 4 end


@cache
def sudoku_vocabulary(side: int) -> Vocabulary:
    """Return the words of puzzles of a side: blank, asked for, and the digits."""
    return Vocabulary(words=("", ".", "?", *(str(digit + 1) for digit in range(side))))


def make_sudoku_split(
    num_samples: int,
    side: int = 4,
    seed: int = 0,
    *,
    part: str | None = None,
    name: str = "own",
) -> Split:
    """Generate puzzles; the same arguments give the same puzzles on every machine.

    Args:
        num_samples: Samples n, at least 1. More of them begin with the same ones.
        side: Side s: 4, 6 or 9.
        seed: Seed, at least 0. The splits of the registry have those below 16.
        part: One of `SPLITS`, for side 4: only its puzzles. No puzzle is symmetric to
            one of another part. None takes all.
        name: Name of the split.

    Returns:
        Split with inputs int64 [n, C], tokens of `sudoku_vocabulary`; labels 0..s-1,
        the asked digit minus one; the rounds until it is known as difficulty; and as
        groups samples of one puzzle (side 4: up to symmetry).

    Raises:
        ConfigError: An argument is out of range.
    """
    if num_samples < 1 or seed < 0 or side not in BOXES:
        raise ConfigError(
            f"give num_samples >= 1, side 4, 6 or 9 and seed >= 0, not {num_samples}, "
            f"{side} and {seed}"
        )
    if part is not None and (part not in SPLITS or side != 4):
        raise ConfigError(
            f"part {brief(part)}: give one of {', '.join(SPLITS)}, with side 4; of the "
            "other sides another seed has other puzzles, but for a few in a thousand"
        )
    bits, found = np.random.PCG64([_SUDOKU_SEED, side, seed]), 0
    parts = list[tuple[NDArray[np.int64], ...]]()
    while found < num_samples:
        chunk = _make_chunk(bits, side, part)
        parts.append((*chunk[:-1], chunk[-1] + (len(parts) * _PUZZLES) * (side > 4)))
        found += len(chunk[0])
    tokens, labels, difficulty, origins = (
        np.concatenate(arrays)[:num_samples] for arrays in zip(*parts, strict=True)
    )
    return Split(
        inputs=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        groups=torch.from_numpy(np.unique(origins, return_inverse=True)[1]),
        difficulty=torch.from_numpy(difficulty),
        name=name,
        vocabulary=sudoku_vocabulary(side),
    )


def question(puzzle: str) -> str:
    """Return a puzzle as the text that `Vocabulary.encode` takes.

    That it has one solution is not checked; `solver.solutions` tells.

    Args:
        puzzle: Cells in reading order: digits, a dot for a blank one, one question
            mark. White space is ignored.

    Raises:
        DataError: This is no puzzle.
    """
    cells = "".join(puzzle.split())
    side = round(len(cells) ** 0.5)
    if side not in BOXES or side**2 != len(cells):
        raise DataError(f"a puzzle has 16, 36 or 81 cells, not {len(cells)}")
    wrong = set(cells).difference(sudoku_vocabulary(side).words)
    if wrong or cells.count("?") != 1:
        raise DataError(
            f"cells are digits up to {side}, dots and one question mark, not "
            f"{brief(puzzle)}"
        )
    return " ".join(cells)


def _make_chunk(
    bits: np.random.PCG64, side: int, part: str | None
) -> tuple[NDArray[np.int64], ...]:
    """Return tokens [m, C], labels, difficulty and origins [m] of m samples."""
    grids = random_grids(bits, _PUZZLES, side)
    is_given = minimal_puzzles(bits, grids)
    origin = np.arange(_CHUNK) % _PUZZLES
    grids, is_given = _vary(bits, grids[origin], is_given[origin])
    if side == 4:
        origin = class_keys(grids, is_given)
    found = rounds(grids, is_given)
    asked = _choose(bits, found)
    rows = np.arange(_CHUNK)
    tokens, labels = _write(grids, is_given, asked), grids[rows, asked]
    kept = _of_part(origin, part) & (found[rows, asked] > 0)
    samples = tokens, labels, found[rows, asked], origin
    return tuple(each[kept] for each in samples)


def _vary(bits: np.random.PCG64, grids: Digits, is_given: Mask) -> tuple[Digits, Mask]:
    """Return symmetric puzzles; half of them with up to half of their blanks given."""
    num, cells = grids.shape
    side = int(cells**0.5)
    share = (uniform(bits, num, 1) - 0.5).clip(0)
    is_given = is_given | (uniform(bits, num, cells) < share)
    source = random_symmetries(bits, num, side)
    grids = np.take_along_axis(grids, source, 1)
    renamed = np.take_along_axis(shuffled(bits, num, side), grids, 1)
    return renamed, np.take_along_axis(is_given, source, 1)


def _choose(bits: np.random.PCG64, found: Digits) -> Digits:
    """Return the cell that is asked for in each puzzle, [m].

    First a round, every one in which a cell is found being as likely; then a cell.
    """
    num, cells = found.shape
    offered = np.zeros((num, cells + 1), dtype=bool)
    offered[np.arange(num)[:, None], found] = True
    offered[:, 0] = False
    number = np.where(offered, uniform(bits, num, cells + 1), -1).argmax(1)
    fits = found == number[:, None]
    chosen: Digits = np.where(fits, uniform(bits, num, cells), -1).argmax(1)
    return chosen


def _write(grids: Digits, is_given: Mask, asked: Digits) -> Digits:
    """Return tokens [m, C]."""
    tokens = np.where(is_given, grids + 3, 1)
    tokens[np.arange(len(asked)), asked] = 2
    return tokens


def _of_part(keys: Digits, part: str | None) -> Mask:
    """Return which puzzles are of a part, bool [m]; a class is in one part only."""
    if part is None:
        return np.ones(len(keys), dtype=bool)
    # A multiplication spreads the keys; its upper bits are as good as random.
    spread = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    place = np.searchsorted(_SHARES, (spread % np.uint64(17)).astype(int), side="right")
    chosen: Mask = place == SPLITS.index(part)
    return chosen
