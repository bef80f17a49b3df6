"""Mazes against a search written by hand: labels, lengths, splits, hidden parts."""

from collections import deque

import numpy as np
import pytest
import torch

from dynalay_gym.data.maze import DIRECTIONS, is_hopeless, make_maze_split
from dynalay_gym.data.registry import SPLITS
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError


def distances_by_search(free: np.ndarray, goal: tuple[int, int]) -> dict:
    """Steps from every reachable pixel to the goal, by breadth-first search."""
    found, queue = {goal: 0}, deque([goal])
    while queue:
        row, column = queue.popleft()
        for dy, dx in DIRECTIONS:
            step = row + dy, column + dx
            if free[step] and step not in found:
                found[step] = found[row, column] + 1
                queue.append(step)
    return found


def position(plane: np.ndarray) -> tuple[int, int]:
    (place,) = np.argwhere(plane)
    return int(place[0]), int(place[1])


@pytest.mark.parametrize("size", [5, 19, 33])
def test_label_is_the_only_first_step_of_a_shortest_path(size: int) -> None:
    split = make_maze_split(60, size)
    assert split.inputs.shape == (60, 3, size, size)
    assert split.inputs.dtype == torch.float32
    assert split.difficulty is not None
    samples = zip(split.inputs.numpy(), split.labels, split.difficulty, strict=True)
    for (free, goal, start), label, length in samples:
        assert set(np.unique(free)) <= {0.0, 1.0}
        found = distances_by_search(free, position(goal))
        assert len(found) == free.sum()  # every free pixel is reached
        row, column = position(start)
        assert found[row, column] == length
        steps = [(row + dy, column + dx) for dy, dx in DIRECTIONS]
        ways = [found.get(step, np.inf) for step in steps]
        assert sum(np.isfinite(ways)) >= 2
        assert [i for i, way in enumerate(ways) if way == length - 1] == [int(label)]


def test_cells_are_joined_by_a_tree_and_few_more_openings() -> None:
    free = make_maze_split(500, 19).inputs[:, 0].flatten(1).sum(1)
    cells, tree = 81, 80
    more = free - cells - tree
    assert float(more.min()) >= 0
    assert float(more.mean()) == pytest.approx(0.08 * (144 - tree), rel=0.1)


def test_short_and_long_paths_are_about_as_frequent() -> None:
    split = make_maze_split(4000, 19)
    assert split.difficulty is not None
    count = torch.bincount(split.difficulty)
    assert (count[1::2] == 0).all()  # from cell to cell a path has two steps
    assert int(count[2:22:2].min()) > 0.8 * int(count[2:22:2].max())
    assert int(split.difficulty.max()) > 40
    share = torch.bincount(split.labels, minlength=4) / len(split)
    assert ((share - 0.25).abs() < 0.03).all()


def test_splits_have_their_sizes_and_share_no_maze() -> None:
    splits = [load_split("maze", name) for name in SPLITS]
    assert [len(split) for split in splits] == [20_000, 8_000, 2_000, 4_000]
    assert [split.name for split in splits] == list(SPLITS)
    walls = torch.cat([split.inputs[:, 0] for split in splits]).flatten(1)
    packed = np.packbits(walls.numpy().astype(np.uint8), axis=1)
    assert len(np.unique(packed, axis=0)) == 34_000


def test_the_splits_never_change() -> None:
    # The published numbers rest on these mazes. If this fails, bring the old ones back.
    split = load_split("maze", "validation")
    assert split.difficulty is not None
    assert split.labels[:12].tolist() == [1, 1, 0, 0, 3, 2, 0, 2, 2, 2, 1, 3]
    assert split.difficulty[:12].tolist() == [
        28,
        12,
        12,
        4,
        10,
        28,
        16,
        8,
        20,
        14,
        16,
        6,
    ]
    assert int(split.inputs[:, 0].sum()) == 332_031


def test_more_mazes_begin_with_the_same_ones() -> None:
    few, many = (make_maze_split(num, 9, seed=3) for num in (30, 2100))
    assert torch.equal(few.inputs, many.inputs[:30])
    other = make_maze_split(30, 9, seed=4)
    assert not torch.equal(few.inputs, other.inputs)


def test_a_hopeless_maze_hides_the_ways_out_of_its_start_and_nothing_else() -> None:
    whole = make_maze_split(400, 19)
    hidden = make_maze_split(400, 19, hidden_share=0.3, hidden_radius=2)
    chosen = is_hopeless(hidden.inputs)
    assert not is_hopeless(whole.inputs).any()
    assert 0.22 < float(chosen.float().mean()) < 0.38
    assert torch.equal(whole.inputs[:, 1:], hidden.inputs[:, 1:])
    assert torch.equal(whole.labels, hidden.labels)
    assert torch.equal(whole.inputs[~chosen], hidden.inputs[~chosen])
    for maze in chosen.nonzero()[:, 0].tolist():
        row, column = position(hidden.inputs[maze, 2].numpy())
        near = torch.zeros(19, 19, dtype=torch.bool)
        near[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        before, after = whole.inputs[maze, 0], hidden.inputs[maze, 0]
        assert torch.equal(after, before * ~near)


def test_the_hopeless_data_set_is_the_other_one_with_hidden_parts() -> None:
    whole, hidden = (load_split(f"maze{x}", "validation") for x in ("", "-hopeless"))
    assert torch.equal(whole.labels, hidden.labels)
    share = float(is_hopeless(hidden.inputs).float().mean())
    assert share == pytest.approx(0.3, abs=0.03)


def test_difficulty_moves_with_its_split_and_is_checked() -> None:
    split = make_maze_split(3, 5)
    assert split.difficulty is not None
    moved = split.to("meta")
    assert isinstance(moved, Split)
    assert moved.difficulty is not None
    assert moved.difficulty.device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_mazes": 0}, "num_mazes >= 1"),
        ({"size": 18}, "odd size >= 5, not 1, 18"),
        ({"size": 3}, "odd size"),
        ({"hidden_share": 1.1}, "hidden_share"),
        ({"hidden_radius": 0}, "hidden_radius"),
    ],
)
def test_impossible_mazes_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_maze_split(**{"num_mazes": 1} | arguments)
