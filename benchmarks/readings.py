"""How right a text network is after k more readings, by how many a text needs.

    python -m benchmarks.readings --checkpoint dynalay_gym/checkpoints/chains

Each layer is iterated from the plain pass, and the upper one also after the lower; the
same weights answer at every number of readings. The last lines show how many readings
a solve takes, by how many the text needs, and whether it converges.

Axes: n texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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
from dynalay_gym.sessions.checks import check_fit
from dynalay_gym.sessions.torch_session import TorchSession

STEPS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure accuracy by readings and by what a text needs."""

    checkpoint: Path = Path("dynalay_gym/checkpoints/chains")
    """Folder of a network of two layers."""
    dataset: str = "chains"
    """Data set with difficulties."""
    split: str = "test"
    """Split of the data set."""


@torch.no_grad()
def main(args: Args) -> None:
    """Print a table of accuracies, and of solves."""
    network, _ = load_main_network(args.checkpoint)
    if network.config.form != "text" or network.num_layers != 2:
        raise ConfigError("give the folder of a text network of two layers")
    network.freeze()
    split = load_split(args.dataset, args.split)
    check_fit(TorchSession(network), split)
    rows = [
        {"layers": name, "steps": steps} | by_difficulty(right, split)
        for name, steps, right in levels(network, split)
    ]
    columns = {"read again by layer": ("layers", ""), "times": ("steps", "d")}
    needs = [name for name in rows[0] if name not in ("layers", "steps")]
    print(table(columns | {name: (name, ".1f") for name in needs}, rows))
    print(table({"solve of": ("layer", "")} | SOLVE_COLUMNS, solves(network, split)))


SOLVE_COLUMNS = {
    "readings needed": ("needs", "d"),
    "mean steps": ("steps", ".2f"),
    "converged, %": ("converged", ".1f"),
}


def levels(network: MainNetwork, split: Split) -> Iterator[tuple[str, int, Tensor]]:
    """Yield layers, readings beside the first, and the percentages of right [n]."""
    lower, upper = network.main_layers
    stem = network.stem(split.inputs)
    first = lower.plain(stem, 0)

    def right(top: Any, pattern: int) -> Tensor:
        answers = network.classify(top, pattern).argmax(1)
        return 100 * (answers == split.labels).double()

    yield "none", 0, right(upper.plain(first, 0), 0)
    below = first
    for steps, below in iterated(network, 0, stem, first, 0, STEPS):
        yield "1", steps, right(upper.plain(below, 1), 1)
    for name, source, pattern in (("2", first, 0), ("1 (8 times), 2", below, 1)):
        start = upper.plain(source, pattern)
        for steps, state in iterated(network, 1, source, start, pattern, STEPS):
            yield name, steps, right(state, pattern + 2)


def by_difficulty(values: Tensor, split: Split) -> dict[str, float]:
    """Return the mean of values [n] over all texts, and by the readings they need."""
    assert split.difficulty is not None
    means = {"all": float(values.mean())}
    for needs in split.difficulty.unique().tolist():
        means[f"needs {needs}"] = float(values[split.difficulty == needs].mean())
    return means


def solves(network: MainNetwork, split: Split) -> list[dict[str, Any]]:
    """Return steps and status of each layer's solve from the plain pass."""
    assert split.difficulty is not None
    rows, below = list[dict[str, Any]](), network.stem(split.inputs)
    layers = zip(network.main_layers, network.solvers, strict=True)
    for number, (layer, solver) in enumerate(layers, start=1):
        plain = layer.plain(below, 0)
        _, result = layer.iterate(below, plain, 0, solver)
        ended = result.status == SolverStatus.CONVERGED
        for needs in split.difficulty.unique().tolist():
            some = split.difficulty == needs
            steps = float(result.num_steps[some].double().mean())
            converged = 100 * float(ended[some].double().mean())
            row = {"needs": needs, "steps": steps, "converged": converged}
            rows.append({"layer": f"layer {number}"} | row)
        below = plain
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
