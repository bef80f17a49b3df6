"""Sudokus: rules, exact solver, rounds, splits that share no puzzle, bad input."""

from itertools import product

import numpy as np
import pytest
import torch

from dynalay_gym.data.registry import SPLITS, dataset_spec
from dynalay_gym.data.splits import load_split
from dynalay_gym.data.sudoku.grids import (
    NEVER,
    class_keys,
    minimal_puzzles,
    random_grids,
    random_symmetries,
    rounds,
)
from dynalay_gym.data.sudoku.puzzles import (
    make_sudoku_split,
    question,
    sudoku_vocabulary,
)
from dynalay_gym.data.sudoku.rules import BOXES, peers
from dynalay_gym.data.sudoku.solver import BLANK, solutions
from dynalay_gym.errors import ConfigError, DataError

SIDES = pytest.mark.parametrize("side", BOXES)


def is_full(grid: np.ndarray) -> bool:
    """Whether every row, column and box holds every digit, counted unit by unit."""
    side = round(len(grid) ** 0.5)
    height, width = BOXES[side]
    square = np.asarray(grid).reshape(side, side)
    boxes = [
        square[y : y + height, x : x + width].ravel()
        for y, x in product(range(0, side, height), range(0, side, width))
    ]
    return all(
        sorted(unit) == list(range(side)) for unit in [*square, *square.T, *boxes]
    )


def puzzles(num: int, side: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    bits = np.random.PCG64(seed)
    grids = random_grids(bits, num, side)
    return grids, minimal_puzzles(bits, grids)


def cells_of(text: str) -> tuple[list[int], int]:
    """Return a text's cells, and which one is asked for."""
    words = text.split()
    digits = [int(word) - 1 if word.isdigit() else BLANK for word in words]
    return digits, words.index("?")


def by_hand(cells: list[int], asked: int) -> tuple[int, int]:
    """Return digit and round of the asked cell, cell by cell."""
    side = round(len(cells) ** 0.5)
    known, number = dict(enumerate(cells)), 0
    while known[asked] == BLANK:
        number += 1
        new = {}
        for cell, digit in known.items():
            near = {known[other] for other in np.flatnonzero(peers(side)[cell])}
            left = set(range(side)) - near
            if digit == BLANK and len(left) == 1:
                new[cell] = left.pop()
        known |= new
    return known[asked], number


@SIDES
def test_every_cell_has_its_peers(side: int) -> None:
    near = peers(side)
    height, width = BOXES[side]
    assert (near == near.T).all() and not near.diagonal().any()
    assert (near.sum(1) == 2 * (side - 1) + (height - 1) * (width - 1)).all()


@SIDES
def test_random_grids_are_full_and_differ(side: int) -> None:
    grids = random_grids(np.random.PCG64(3), 40, side)
    assert all(is_full(grid) for grid in grids)
    assert len(np.unique(grids, axis=0)) > 30


def pure_stacks(grid: np.ndarray) -> int:
    """Count the stacks of boxes whose columns share their digits box by box.

    A regular grid has no others, and exchanging two digits in a part of their cells, or
    any symmetry, leaves their number as it is.
    """
    side = round(len(grid) ** 0.5)
    height, width = BOXES[side]
    parts = grid.reshape(side // height, height, side // width, width)
    stacks = parts.transpose(2, 0, 3, 1).reshape(side // width, -1, height)
    kinds = [{frozenset(part.tolist()) for part in stack} for stack in stacks]
    return sum(len(each) == width for each in kinds)


@pytest.mark.parametrize("side", [6, 9])
def test_large_grids_are_not_all_of_the_regular_kind(side: int) -> None:
    line = np.arange(side)
    height, width = BOXES[side]
    shift = width * (line % height) + line // height
    regular = ((shift[:, None] + line) % side).ravel()
    assert is_full(regular) and pure_stacks(regular) == side // width
    pure = [pure_stacks(grid) for grid in random_grids(np.random.PCG64(3), 60, side)]
    assert pure.count(0) > 20


def test_both_kinds_of_small_grids_come_up() -> None:
    # Of the 288 grids of side 4, 96 are symmetric to one grid and 192 to another.
    grids = random_grids(np.random.PCG64(1), 6_000, 4)
    found, count = np.unique(grids, axis=0, return_counts=True)
    assert len(found) == 288
    kind = class_keys(found, np.ones(found.shape, dtype=bool))
    assert sorted(np.unique(kind, return_counts=True)[1]) == [96, 192]
    assert count.max() < 3 * count.mean()


@SIDES
def test_givens_are_minimal_and_have_one_solution(side: int) -> None:
    grids, is_given = puzzles(6, side)
    for grid, given in zip(grids, is_given, strict=True):
        assert solutions(np.where(given, grid, BLANK).tolist()) == [grid.tolist()]
        for cell in np.flatnonzero(given):
            fewer = given.copy()
            fewer[cell] = False
            assert (rounds(grid[None], fewer[None]) == NEVER).any()


@SIDES
def test_symmetric_grids_are_full_too(side: int) -> None:
    grid = random_grids(np.random.PCG64(5), 1, side)[0]
    source = random_symmetries(np.random.PCG64(6), 50, side)
    assert all(sorted(cells) == list(range(side * side)) for cells in source)
    assert all(is_full(grid[cells]) for cells in source)


def test_symmetric_puzzles_share_a_class_and_others_do_not() -> None:
    grids, is_given = puzzles(40, 4)
    source = random_symmetries(np.random.PCG64(6), 40, 4)
    renamed = np.random.default_rng(0).permuted(np.tile(np.arange(4), (40, 1)), axis=1)
    moved, given = (np.take_along_axis(each, source, 1) for each in (grids, is_given))
    moved = np.take_along_axis(renamed, moved, 1)
    assert (class_keys(moved, given) == class_keys(grids, is_given)).all()
    more = is_given.copy()
    more[np.arange(40), (~is_given).argmax(1)] = True
    assert (class_keys(grids, more) != class_keys(grids, is_given)).all()


def all_solutions(cells: list[int]) -> list[list[int]]:
    """Try every filling of the blanks."""
    side, blanks = round(len(cells) ** 0.5), [i for i, x in enumerate(cells) if x < 0]
    found = []
    for digits in product(range(side), repeat=len(blanks)):
        grid = np.array(cells)
        grid[blanks] = digits
        if is_full(grid):
            found.append(grid.tolist())
    return found


def test_the_solver_finds_what_trying_everything_finds() -> None:
    draw = np.random.default_rng(2)
    grids = random_grids(np.random.PCG64(2), 12, 4)
    for grid, num_blanks in zip(grids, [*range(1, 6)] + [5] * 7, strict=True):
        cells = grid.copy()
        cells[draw.permutation(16)[:num_blanks]] = BLANK
        assert sorted(solutions(cells.tolist(), 99)) == sorted(all_solutions(cells))
        cells[draw.integers(16)] = draw.integers(4)  # often a contradiction
        assert sorted(solutions(cells.tolist(), 99)) == sorted(all_solutions(cells))


def test_the_solver_counts_all_small_grids_and_stops_at_its_limit() -> None:
    assert len(solutions([BLANK] * 16, 1_000)) == 288
    assert len(solutions([BLANK] * 81, 5)) == 5


def test_small_puzzles_with_one_solution_follow_round_by_round() -> None:
    draw = np.random.default_rng(4)
    grids = random_grids(np.random.PCG64(4), 300, 4)
    is_given = draw.random(grids.shape) < draw.uniform(0.2, 0.6, (300, 1))
    follows = (rounds(grids, is_given) < NEVER).all(1)
    puzzle = np.where(is_given, grids, BLANK)
    assert [len(solutions(cells.tolist())) == 1 for cells in puzzle] == follows.tolist()
    assert 50 < follows.sum() < 250


@SIDES
def test_labels_and_difficulty_are_those_of_a_solver_by_hand(side: int) -> None:
    split = make_sudoku_split(12, side, seed=99)
    assert split.difficulty is not None and split.vocabulary is not None
    samples = zip(
        split.vocabulary.decode(split.inputs),
        split.labels.tolist(),
        split.difficulty.tolist(),
        strict=True,
    )
    for text, label, difficulty in samples:
        cells, asked = cells_of(text)
        assert by_hand(cells, asked) == (label, difficulty)
        (solution,) = solutions(cells)
        assert solution[asked] == label


@pytest.mark.parametrize(("side", "hardest"), [(4, 4), (6, 9), (9, 16)])
def test_larger_puzzles_take_more_rounds(side: int, hardest: int) -> None:
    split = make_sudoku_split(600, side, seed=99)
    assert split.difficulty is not None
    assert split.difficulty.min() == 1 and split.difficulty.max() >= hardest
    assert split.inputs.shape == (600, side**2)
    shares = split.labels.bincount(minlength=side) / 600
    torch.testing.assert_close(shares, torch.full((side,), 1 / side), atol=0.06, rtol=0)


@pytest.mark.parametrize("side", [4, 6])
def test_each_round_is_asked_for_as_often_as_it_is_offered(side: int) -> None:
    split = make_sudoku_split(2_000, side, seed=99)
    expected = np.zeros(20)
    assert split.difficulty is not None and split.vocabulary is not None
    for text in split.vocabulary.decode(split.inputs):
        cells, _ = cells_of(text)
        grid = np.array(solutions(cells))
        offered = np.unique(rounds(grid, np.array([cells]) != BLANK))
        offered = offered[offered > 0]
        expected[offered] += 1 / len(offered)
    found = split.difficulty.bincount(minlength=20).numpy()
    np.testing.assert_allclose(found, expected, atol=4 * (2_000 * 0.25) ** 0.5)


def test_half_of_the_puzzles_have_no_given_to_spare() -> None:
    split = make_sudoku_split(400, 6, seed=99)
    assert split.vocabulary is not None
    tight = []
    for text in split.vocabulary.decode(split.inputs):
        cells, _ = cells_of(text)
        given = np.array([cells]) != BLANK
        fewer = np.repeat(given, given.sum(), 0)
        fewer[np.arange(len(fewer)), np.flatnonzero(given)] = False
        grids = np.repeat(solutions(cells), len(fewer), 0)
        tight.append(bool((rounds(grids, fewer) == NEVER).any(1).all()))
    assert 0.4 < np.mean(tight) < 0.65  # of the others some have no blank filled either


def test_samples_of_a_puzzle_are_symmetric_and_not_the_same() -> None:
    split = make_sudoku_split(2_000, 6, seed=3)
    assert split.vocabulary is not None
    texts = split.vocabulary.decode(split.inputs[split.groups == 0])
    full = {tuple(solutions(cells_of(text)[0])[0]) for text in texts}
    assert len(full) == len(texts) == 8


def test_more_puzzles_begin_with_the_same_ones() -> None:
    few, many = (make_sudoku_split(num, seed=7) for num in (10, 3_000))
    assert torch.equal(few.inputs, many.inputs[:10])
    assert not torch.equal(few.inputs, make_sudoku_split(10, seed=8).inputs)


def test_no_puzzle_of_a_split_is_symmetric_to_one_of_another() -> None:
    keys = {}
    for number, part in enumerate(SPLITS):
        split = make_sudoku_split(400, 4, number, part=part)
        assert split.vocabulary is not None
        texts = split.vocabulary.decode(split.inputs)
        cells = np.array([cells_of(text)[0] for text in texts])
        solved = np.array([solutions(row.tolist())[0] for row in cells])
        keys[part] = set(class_keys(solved, cells != BLANK).tolist())
        assert len(keys[part]) == len(split.groups.unique())
    assert sum(len(each) for each in keys.values()) == len(set().union(*keys.values()))


def test_samples_of_one_large_puzzle_are_a_group() -> None:
    split = make_sudoku_split(4_000, 6, seed=3)
    assert split.groups.bincount().tolist() == [8] * 500


def test_words_and_tokens_are_inverse() -> None:
    split, words = make_sudoku_split(50, seed=99), sudoku_vocabulary(4)
    assert torch.equal(words.encode(words.decode(split.inputs), 16), split.inputs)


@SIDES
def test_the_registry_knows_the_words(side: int) -> None:
    spec = dataset_spec("sudoku" if side == 4 else f"sudoku{side}")
    assert len(sudoku_vocabulary(side)) == spec.vocabulary == side + 3
    assert (spec.num_classes, spec.in_shape) == (side, (side**2,))


def test_a_puzzle_becomes_a_question() -> None:
    text = question("1... ..3? .... .2.4")
    assert text == "1 . . . . . 3 ? . . . . . 2 . 4"
    assert sudoku_vocabulary(4).encode([text], 16).shape == (1, 16)


@pytest.mark.parametrize(
    ("puzzle", "message"),
    [
        ("", "16, 36 or 81 cells, not 0"),
        ("1?.", "16, 36 or 81 cells, not 3"),
        ("5?" + "." * 14, "digits up to 4"),
        ("x?" + "." * 14, "digits up to 4"),
        ("1." + "." * 14, "one question mark"),
        ("??" + "." * 14, "one question mark"),
    ],
)
def test_other_questions_are_refused(puzzle: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        question(puzzle)


@pytest.mark.parametrize("cells", [[], [0] * 15, [BLANK] * 15 + [4], [-2] * 16])
def test_the_solver_refuses_what_is_no_grid(cells: list[int]) -> None:
    with pytest.raises(DataError, match=r"16, 36 or 81 cells|digits lie in 0\.\.3"):
        solutions(cells)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"side": 5}, "side 4, 6 or 9"),
        ({"part": "train"}, "give one of main, agent, validation, test"),
        ({"side": 6, "part": "main"}, "with side 4"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sudoku_split(**{"num_samples": 1} | options)


def test_splits_are_parts_of_one_generator() -> None:
    test = load_split("sudoku", "test")
    made = make_sudoku_split(len(test), 4, 3, part="test")
    assert torch.equal(test.inputs, made.inputs)
