"""How right a planner is after k iterations, by the length of the path.

    python -m benchmarks.maze_levels --checkpoint dynalay_gym/checkpoints/maze

Each layer is iterated from the plain pass, the whole map also after the near field; the
same weights answer at every number of iterations. The last rows show how far from its
fixed point the map is after three times the longest path, and the certified modulus of
the contraction.

Axes: n samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.report import table
from dynalay_gym.data.maze import is_hopeless, make_maze_split
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.base import LayerState
from dynalay_gym.networks.main_network import MainNetwork

LENGTHS = ((2, 8), (10, 16), (18, 24), (26, 34), (36, 400))  # of paths, both included
STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
Level = tuple[str, int, Tensor, LayerState]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure accuracy by iterations and path length."""

    checkpoint: Path = Path("dynalay_gym/checkpoints/maze")
    """Folder of a planner."""
    dataset: str = "maze"
    """maze or maze-hopeless."""
    split: str = "test"
    """Split of the data set."""
    size: int | None = None
    """Side of other mazes, 4,000 with seed 99, in place of the split."""
    scale: int = 1
    """Factor on all numbers of iterations, for larger mazes."""
    figure: Path | None = None
    """Picture to draw: accuracy by iterations on the map."""


@torch.no_grad()
def main(args: Args) -> None:
    """Print a table of accuracies, and the convergence."""
    network, _ = load_main_network(args.checkpoint)
    split = load_split(args.dataset, args.split)
    if args.size is not None:
        split = make_maze_split(4000, args.size, seed=99)
        network = resized(network, args.size)
    network.freeze()
    rows = [
        {"layers": name, "steps": steps} | accuracies(logits, split)
        for name, steps, logits, _ in levels(network, split.inputs, args.scale)
    ]
    columns = {"iterated": ("layers", ""), "iterations": ("steps", "d")}
    shares = [name for name in rows[0] if name not in ("layers", "steps")]
    print(table(columns | {name: (name, ".1f") for name in shares}, rows))
    print(convergence(network, split))
    if args.figure is not None:
        draw(rows, len(split)).savefig(args.figure, dpi=110)


def resized(network: MainNetwork, size: int) -> MainNetwork:
    """Return the same weights for mazes of another side."""
    other = MainNetwork(replace(network.config, in_shape=(3, size, size)))
    other.load_state_dict(network.state_dict())
    return other


def levels(network: MainNetwork, images: Tensor, scale: int) -> Iterator[Level]:
    """Yield name, iterations, logits and state of every level that is shown."""
    near, full = network.main_layers
    stem = network.stem(images)
    first = near.plain(stem, 0)
    plain = full.plain(first, 0)
    yield "none", 0, network.classify(plain, 0), plain
    below, most = first, network.config.layer_steps[0]
    near_steps = [steps for steps in STEPS if steps <= most]
    for steps, below in iterated(network, 0, stem, first, 0, near_steps):
        state = full.plain(below, 1)
        yield "near", steps, network.classify(state, 1), state
    map_steps = [scale * steps for steps in STEPS]
    for name, source, pattern in (("map", first, 0), ("near, map", below, 1)):
        start = full.plain(source, pattern)
        for steps, state in iterated(network, 1, source, start, pattern, map_steps):
            yield name, steps, network.classify(state, pattern + 2), state


def iterated(
    network: MainNetwork,
    level: int,
    below: LayerState,
    state: LayerState,
    pattern: int,
    numbers: Sequence[int],
) -> Iterator[tuple[int, LayerState]]:
    """Yield a layer after each of the numbers of iterations."""
    layer, done = network.main_layers[level], 0
    for steps in numbers:
        solver = replace(network.solvers[level], rtol=1e-30, max_steps=steps - done)
        state, _ = layer.iterate(below, state, pattern, solver)
        done = steps
        yield steps, state


def accuracies(logits: Tensor, split: Split) -> dict[str, Any]:
    """Return the accuracy in percent over all samples, by length, and where hidden."""
    assert split.difficulty is not None
    right = (logits.argmax(1) == split.labels).double()
    found = {"all": 100 * float(right.mean())}
    for low, high in LENGTHS:
        chosen = (split.difficulty >= low) & (split.difficulty <= high)
        found[f"{low} to {high}"] = 100 * float(right[chosen].mean())
    hidden = is_hopeless(split.inputs)
    if bool(hidden.any()):
        found["whole"] = 100 * float(right[~hidden].mean())
        found["hidden"] = 100 * float(right[hidden].mean())
    return found


def draw(rows: Sequence[dict[str, Any]], num: int) -> Figure:
    """Return accuracy by iterations on the map, a line for each range of lengths."""
    shown = [row for row in rows if row["layers"] in ("none", "map")]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        title=f"First step of the shortest path, {num:,} mazes",
        xlabel="iterations on the whole map",
        ylabel="accuracy, %",
    )
    for low, high in LENGTHS:
        name = f"{low} to {high}"
        heights = [row[name] for row in shown]
        axes.plot(range(len(shown)), heights, ".-", label=f"{name} steps")
    axes.set_xticks(range(len(shown)), [str(row["steps"]) for row in shown])
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def convergence(network: MainNetwork, split: Split) -> str:
    """Return the residual after three times the longest path, and the modulus."""
    assert split.difficulty is not None
    longest, full = int(split.difficulty.max()), network.main_layers[1]
    below = network.main_layers[0].plain(network.stem(split.inputs), 0)
    solver = replace(network.solvers[1], rtol=1e-30, max_steps=3 * longest)
    state, _ = full.iterate(below, full.plain(below, 0), 0, solver)
    residual = full.check(state, solver).residual
    assert state.x is not None
    modulus = full.recurrence.modulus(state.x)  # type: ignore[attr-defined]
    return (
        f"longest path {longest}; largest residual after {3 * longest} iterations "
        f"{float(residual.max()):.1e}; largest modulus {float(modulus.max()):.4f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
