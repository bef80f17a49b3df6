"""How right a network is on Sudokus after k iterations, by the rounds a cell takes.

    python -m benchmarks.sudoku_rounds --checkpoint dynalay_gym/checkpoints/sudoku

The first table has the accuracy after every number of iterations, by the rounds of
deduction until the asked cell is known, and by blank cells. In the second, solves end
by themselves, at several tolerances: a token that waits for news from others may hardly
move, and leaves too soon where the tolerance is wide.

Axes: n samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.maze_levels import iterated
from benchmarks.report import table
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
BLANK = 1  # token


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure accuracy by iterations, rounds, blanks and tolerance."""

    checkpoint: Path = Path("dynalay_gym/checkpoints/sudoku")
    """Folder of a network of one layer."""
    dataset: str = "sudoku"
    """sudoku, sudoku6 or sudoku9."""
    split: str = "test"
    """Split of the data set."""


@torch.no_grad()
def main(args: Args) -> None:
    """Print the two tables."""
    network, _ = load_main_network(args.checkpoint)
    split = load_split(args.dataset, args.split)
    if network.num_layers != 1 or network.config.in_shape != split.inputs.shape[1:]:
        raise ConfigError(
            f"give the folder of a network of one layer that was trained on "
            f"{args.dataset}, as --checkpoint"
        )
    network.freeze()
    rows = [
        {"steps": steps} | by_group(right, split)
        for steps, right in levels(network, split)
    ]
    groups = {name: (name, ".1f") for name in rows[0] if name != "steps"}
    print(table({"iterations": ("steps", "d")} | groups, rows))
    print(table(SOLVE_COLUMNS, [solve(network, split, rtol) for rtol in TOLERANCES]))


SOLVE_COLUMNS = {
    "tolerance": ("rtol", "g"),
    "accuracy": ("accuracy", ".2f"),
    "mean iterations": ("steps", ".2f"),
    "of these computed, %": ("computed", ".1f"),
    "converged, %": ("converged", ".2f"),
}


def levels(network: MainNetwork, split: Split) -> Iterator[tuple[int, Tensor]]:
    """Yield iterations, and the percentages of right answers [n] after them."""
    stem = network.stem(split.inputs)
    plain = network.main_layers[0].plain(stem, 0)
    yield 0, right(network.classify(plain, 0), split)
    for steps, state in iterated(network, 0, stem, plain, 0, STEPS):
        yield steps, right(network.classify(state, 1), split)


def right(logits: Tensor, split: Split) -> Tensor:
    """Return 100 where an answer is right, else 0, double [n]."""
    return 100 * (logits.argmax(1) == split.labels).double()


def by_group(values: Tensor, split: Split) -> dict[str, float]:
    """Return the mean of values [n] over all samples, by rounds and by blanks."""
    assert split.difficulty is not None
    rounds, means = split.difficulty, {"all": float(values.mean())}
    for low, high in ranges(int(rounds.max())):
        chosen = (rounds >= low) & (rounds <= high)
        name = f"round {low}" if low == high else f"{low} to {high}"
        means[name] = float(values[chosen].mean())
    blanks = (split.inputs == BLANK).sum(1) + 1  # and the one that is asked for
    middle = int(blanks.median())
    means[f"up to {middle} blanks"] = float(values[blanks <= middle].mean())
    means["more"] = float(values[blanks > middle].mean())
    return means


def ranges(most: int) -> list[tuple[int, int]]:
    """Return the ranges of rounds that have a column, both ends included."""
    if most <= 5:
        return [(number, number) for number in range(1, most + 1)]
    starts = [*range(1, 5), *range(5, most + 1, 3)]
    ends = [start - 1 for start in starts[1:]]
    return list(zip(starts, [*ends, most], strict=True))


def solve(network: MainNetwork, split: Split, rtol: float) -> dict[str, Any]:
    """Return how right solves to a tolerance are, and what they take."""
    layer, stem = network.main_layers[0], network.stem(split.inputs)
    solver = replace(network.solvers[0], rtol=rtol, max_steps=100)
    state, result = layer.iterate(stem, layer.plain(stem, 0), 0, solver)
    whole = result.num_steps.sum() * layer.macs().iteration
    saved = 0 if result.saved is None else result.saved.sum()
    return {
        "rtol": rtol,
        "accuracy": float(right(network.classify(state, 1), split).mean()),
        "steps": float(result.num_steps.double().mean()),
        "computed": 100 * float(1 - saved / whole),
        "converged": 100
        * float((result.status == SolverStatus.CONVERGED).double().mean()),
    }


if __name__ == "__main__":
    main(tyro.cli(Args))
