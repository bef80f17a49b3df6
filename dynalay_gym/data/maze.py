"""Mazes, generated: which first step of the shortest path leads to the goal?

A maze of odd side S has ((S - 1) / 2)^2 cells at odd coordinates. A random spanning
tree joins them, and further walls open with a small probability. The start has at least
two ways out, and only one of them begins a shortest path to the goal: its direction is
the label. How far the goal is decides how long a network has to think.

Axes: n mazes, c x c cells, E pairs of neighbouring cells, S x S pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError

# Classes, in this order: (row, column) of the first step.
DIRECTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))
PLANES = ("free", "goal", "start")
# Share of the walls between neighbouring cells that open beside the spanning tree.
OPENING = 0.08

# Changing it changes every split, and with them every published number.
_MAZE_SEED = 1602
_CHUNK = 2_000  # mazes made at once; part of what a seed means
_FAR = 2**14  # farther than any cell


class Mazes(NamedTuple):
    """Mazes as arrays.

    Attributes:
        planes: Free pixels, goal and start, 0 or 1, uint8 [n, 3, S, S].
        labels: Index into `DIRECTIONS` of the first step, int64 [n].
        lengths: Steps of the shortest path in pixels, int64 [n].
    """

    planes: NDArray[np.uint8]
    labels: NDArray[np.int64]
    lengths: NDArray[np.int64]


def make_maze_split(
    num_mazes: int,
    size: int = 19,
    seed: int = 0,
    *,
    hidden_share: float = 0.0,
    hidden_radius: int = 6,
    name: str = "own",
) -> Split:
    """Generate mazes; the same arguments give the same mazes on every machine.

    Args:
        num_mazes: Mazes n, at least 1. More of them begin with the same ones.
        size: Side S in pixels, odd, at least 5.
        seed: Seed, at least 0. The splits of the registry have those below 16.
        hidden_share: Probability, in [0, 1], that a maze is hopeless: the free pixels
            within `hidden_radius` of the start are hidden, so that nothing that is
            computed from the rest can tell how the path begins. The label stays what
            it is; `is_hopeless` recognises such a maze.
        hidden_radius: Chebyshev distance in pixels, at least 1.
        name: Name of the split.

    Returns:
        Split with inputs float32 [n, 3, S, S], the `PLANES` as 0 and 1; labels 0..3,
        indices into `DIRECTIONS`; and the length of the path in steps as difficulty.

    Raises:
        ConfigError: An argument is out of range.
    """
    if num_mazes < 1 or size < 5 or size % 2 == 0:
        raise ConfigError(
            f"mazes need num_mazes >= 1 and an odd size >= 5, not {num_mazes}, {size}"
        )
    if not 0 <= hidden_share <= 1 or hidden_radius < 1:
        raise ConfigError("hidden_share must lie in [0, 1], hidden_radius be >= 1")
    bits = np.random.PCG64([_MAZE_SEED, size, seed])
    parts, found = [], 0
    while found < num_mazes:
        part = _make_chunk(bits, size)
        _hide(part, _uniform(bits, _CHUNK) < hidden_share, hidden_radius)
        parts.append(part)
        found += len(part.labels)
    planes, labels, lengths = (
        torch.from_numpy(np.concatenate(arrays)[:num_mazes])
        for arrays in zip(*parts, strict=True)
    )
    return Split(inputs=planes.float(), labels=labels, difficulty=lengths, name=name)


def is_hopeless(inputs: Tensor) -> Tensor:
    """Return which mazes [n, 3, S, S] hide the way out of their start, bool [n]."""
    free, _, start = inputs.unbind(1)
    return (free * start).flatten(1).amax(1) == 0


def _make_chunk(bits: np.random.PCG64, size: int) -> Mazes:
    """Make `_CHUNK` mazes and keep those that have a start and a goal."""
    right, down = _open_walls(bits, size // 2)
    goals = np.minimum(_uniform(bits, _CHUNK) * (size // 2) ** 2, (size // 2) ** 2 - 1)
    distances = _distances(right, down, goals.astype(np.int64))
    ways = _ways(distances, right, down)
    is_best = ways < distances[:, None]
    is_start = ((ways < _FAR).sum(1) > 1) & (is_best.sum(1) == 1)
    starts = _choose_starts(bits, distances, is_start)
    rows = np.flatnonzero(is_start.any((1, 2)))
    row, column = np.divmod(starts[rows], size // 2)
    planes = _draw(right, down, goals.astype(np.int64), starts)[rows]
    labels = is_best[rows, :, row, column].argmax(1)
    lengths = 2 * distances[rows, row, column].astype(np.int64)
    return Mazes(planes, labels, lengths)


def _open_walls(
    bits: np.random.PCG64, num: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which walls are open: to the right [n, c, c - 1], down [n, c - 1, c].

    Kruskal's algorithm with random weights, in all mazes at once: a wall opens if its
    cells are not joined yet, and their parts become one.
    """
    cells = np.arange(num * num).reshape(num, num)
    first = np.concatenate([cells[:, :-1].ravel(), cells[:-1].ravel()])
    second = np.concatenate([cells[:, 1:].ravel(), cells[1:].ravel()])
    order = np.argsort(_uniform(bits, _CHUNK, len(first)), axis=1, kind="stable")
    is_open = _uniform(bits, _CHUNK, len(first)) < OPENING
    part_of = np.tile(cells.ravel().astype(np.int16), (_CHUNK, 1))
    rows = np.arange(_CHUNK)
    for wall in order.T:
        one, other = part_of[rows, first[wall]], part_of[rows, second[wall]]
        is_open[rows, wall] |= one != other
        np.copyto(part_of, one[:, None], where=part_of == other[:, None])
    right, down = np.split(is_open, 2, axis=1)
    return right.reshape(-1, num, num - 1), down.reshape(-1, num - 1, num)


def _distances(
    right: NDArray[np.bool_], down: NDArray[np.bool_], goals: NDArray[np.int64]
) -> NDArray[np.int16]:
    """Return the steps from every cell to the goal, [n, c, c]."""
    n, num, _ = right.shape
    distances = np.full((n, num, num), _FAR, dtype=np.int16)
    distances.reshape(n, -1)[np.arange(n), goals] = 0
    while True:
        nearer = _ways(distances, right, down).min(1) + np.int16(1)
        if not (nearer < distances).any():
            return distances
        np.minimum(distances, nearer, out=distances)


def _ways(
    distances: NDArray[np.int16], right: NDArray[np.bool_], down: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """Return the distance of each cell's neighbours, [n, 4, c, c]; `_FAR` if walled."""
    n, num, _ = distances.shape
    ways = np.full((n, len(DIRECTIONS), num, num), _FAR, dtype=np.int16)
    ways[:, 0, 1:] = np.where(down, distances[:, :-1], _FAR)
    ways[:, 1, :, :-1] = np.where(right, distances[:, :, 1:], _FAR)
    ways[:, 2, :-1] = np.where(down, distances[:, 1:], _FAR)
    ways[:, 3, :, 1:] = np.where(right, distances[:, :, :-1], _FAR)
    return ways


def _choose_starts(
    bits: np.random.PCG64, distances: NDArray[np.int16], is_start: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Choose a possible start of each maze, int64 [n].

    First a length, every one that the maze offers being as likely, so that long and
    short paths are about as frequent; then a start at that distance.
    """
    n, num, _ = distances.shape
    lengths = np.where(is_start, distances, 0).reshape(n, -1).astype(np.int64)
    offered = np.zeros((n, num * num), dtype=bool)
    offered[np.arange(n)[:, None], lengths] = True
    offered[:, 0] = False
    length = np.where(offered, _uniform(bits, n, num * num), -1).argmax(1)
    fits = is_start.reshape(n, -1) & (lengths == length[:, None])
    starts: NDArray[np.int64] = np.where(fits, _uniform(bits, *fits.shape), -1).argmax(
        1
    )
    return starts


def _draw(
    right: NDArray[np.bool_],
    down: NDArray[np.bool_],
    goals: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return the planes, [n, 3, S, S]."""
    n, num, _ = right.shape
    planes = np.zeros((n, len(PLANES), 2 * num + 1, 2 * num + 1), dtype=np.uint8)
    planes[:, 0, 1::2, 1::2] = 1
    planes[:, 0, 1::2, 2:-1:2] = right
    planes[:, 0, 2:-1:2, 1::2] = down
    for plane, cells in ((1, goals), (2, starts)):
        row, column = np.divmod(cells, num)
        planes[np.arange(n), plane, 2 * row + 1, 2 * column + 1] = 1
    return planes


def _hide(mazes: Mazes, chosen: NDArray[np.bool_], radius: int) -> None:
    """Hide the free pixels about the start of the chosen mazes, bool [n or more]."""
    for maze in np.flatnonzero(chosen[: len(mazes.labels)]):
        row, column = np.argwhere(mazes.planes[maze, 2])[0]
        rows, columns = (
            slice(max(x - radius, 0), x + radius + 1) for x in (row, column)
        )
        mazes.planes[maze, 0, rows, columns] = 0


def _uniform(bits: np.random.PCG64, *shape: int) -> NDArray[np.float64]:
    """Draw numbers of [0, 1) from raw bits, the stream that NumPy never changes."""
    raw = bits.random_raw(int(np.prod(shape))).reshape(shape)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
