"""Does what the papers claim hold in what was measured?

    python -m benchmarks.paper.verdicts --folder paper --dataset digits

Of each claim's numbers per seed (see `benchmarks.paper.relation_values`) the mean gets
a 95 % interval by Student's t. The claim holds if all of it is above 0, and does not
hold if all of it is below. Otherwise there is not enough evidence, nor is there where
all seeds agree to the last digit, as whole numbers do.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import t as student

from benchmarks.paper.experiment import arms_of
from benchmarks.paper.relations import RELATIONS
from benchmarks.report import Columns, Row, table
from dynalay_gym.errors import ConfigError


def verdicts(experiment: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield what becomes of each relation whose arms an experiment has been run with.

    Args:
        experiment: Name of the experiment.
        rows: Its units.
    """
    for relation in RELATIONS:
        is_there = {*relation.arms} <= {*arms_of(rows)}
        if relation.experiment != experiment or not is_there:
            continue
        values = relation.values(rows)
        if not values:
            continue
        interval = t_interval(values)
        low, high = interval["low"], interval["high"]
        verdict = "not enough evidence"
        if low < high and (low > 0 or high < 0):
            verdict = "holds" if low > 0 else "does not hold"
        yield {
            "experiment": experiment,
            "claim": relation.claim,
            "source": "control" if relation.is_control else "paper",
            "value": interval,
            "unit": relation.unit,
            "seeds": len(values),
            "verdict": verdict,
        }


def t_interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and its 95 % interval; -inf to inf for a single value."""
    mean, low, high = float(np.mean(values)), -np.inf, np.inf
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        half = float(student.ppf(0.975, len(values) - 1)) * error
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print a verdict on every claim that the experiments of a folder measure."""

    folder: Path
    """Folder of the experiments' results."""
    dataset: str
    """Name of the data set."""


def main(args: Args) -> None:
    """Read, judge, print."""
    names = dict.fromkeys(relation.experiment for relation in RELATIONS)
    paths = {name: args.folder / f"{name}-{args.dataset}.json" for name in names}
    found = [
        row
        for name, path in paths.items()
        if path.exists()
        for row in verdicts(name, json.loads(path.read_text("utf-8"))["units"])
    ]
    if not found:
        raise ConfigError(
            f"{args.folder} has no results on {args.dataset} to judge; run python -m "
            "benchmarks.paper with this --folder and --dataset"
        )
    print(table(_COLUMNS, found))


_COLUMNS: Columns = {
    "experiment": ("experiment", ""),
    "claim": ("claim", ""),
    "of": ("source", ""),
    "by how much": ("value", "+.3g"),
    "unit": ("unit", ""),
    "seeds": ("seeds", "d"),
    "verdict": ("verdict", ""),
}


if __name__ == "__main__":
    main(tyro.cli(Args))
