"""DynaLay's figure 7: three stacked LSTM layers, and which of them is iterated.

One arm has no iteration, one for each layer iterates it alone, and one iterates all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    dots,
    mean_and_range,
    of_arm,
)
from benchmarks.paper.measures import measure
from benchmarks.paper.networks import PLAIN, trained
from benchmarks.report import Columns, Row, Table
from dynalay_gym.data.registry import dataset_spec

# State of each arm, by its bits: layer 1 first.
STATES = {PLAIN: 0, "layer 1": 1, "layer 2": 2, "layer 3": 4, "all": 7}
_STEPS = range(4)  # K


class Fig7(Experiment):
    """Which of three layers is iterated; see `Experiment`."""

    name = "fig7"
    title = "Which of three LSTM layers is iterated"
    arms = tuple(STATES)
    layers = 3

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network and measure its state at every number of iterations."""
        splits = setting.splits()
        state = STATES[arm]
        states = None if arm == "all" else sorted({0, state})
        found = trained(setting, splits["main"], states, seed, folder / "network")
        answers = measure(found.network.freeze(), splits["test"], state)
        return answers | {"minutes": found.minutes}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return what each arm answers, and by how much an iteration contracts."""
        judged = _judged(setting)
        return [
            Table(
                self.title,
                "Means over seeds, lowest and highest in brackets; K is the most "
                "iterations of a solve, compute is in plain passes.",
                _columns(*judged),
                [_summary(of_arm(rows, arm), judged[0]) for arm in arms_of(rows)],
            ),
            Table(
                "Contraction",
                "By how much an iteration shrinks the step of the one before; the mean "
                "over seeds of the median over samples, and the largest value of all.",
                _CONTRACTION,
                _contractions(rows),
            ),
        ]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return what every network is judged by, and its loss, beside its arm."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        name, unit = _judged(setting)
        panels = (name, f"{name}{unit}"), ("loss", "loss, nats")
        for axes, (key, label) in zip(figure.subplots(1, 2), panels, strict=True):
            dots(axes, rows, lambda row, key=key: row[most_iterations(row)][key])  # type: ignore[misc]
            axes.set_ylabel(f"test {label}")
            axes.set_xlabel("iterated (dots: seeds, bars: their means)")
        return figure


def _judged(setting: Setting) -> tuple[str, str]:
    """Return what the networks of a data set are judged by, and its unit."""
    is_language = dataset_spec(setting.dataset).reward == "log-score"
    return ("perplexity", "") if is_language else ("accuracy", ", %")


def _columns(name: str, unit: str) -> Columns:
    form = ".2f" if unit else ".1f"
    return {
        "iterated": ("arm", ""),
        f"plain pass, {name}{unit}": ("plain", form),
        **{f"K = {k}{unit}": (f"K = {k}", form) for k in _STEPS},
        "loss": ("loss", ".3f"),
        "gain, nats": ("gain", ".4f"),
        "compute": ("compute", ".2f"),
        "iterations": ("steps", ".2f"),
        "converged, %": ("converged", ".1f"),
        "minutes": ("minutes", ".1f"),
    }


_CONTRACTION: Columns = {
    "iterated": ("arm", ""),
    "layer": ("layer", "d"),
    "median": ("median", ".3f"),
    "largest": ("largest", ".3f"),
}


def _summary(own: Sequence[Row], judged: str) -> dict[str, Any]:
    """Return means over the seeds of an arm; of what it is judged by, the range."""
    last = most_iterations(own[0])
    means: dict[str, Any] = {"arm": own[0]["arm"]}
    for name in ("plain", *(name for name in own[0] if name.startswith("K = "))):
        means[name] = mean_and_range([row[name][judged] for row in own])
    for name in ("loss", "compute", "steps", "converged"):
        means[name] = float(np.mean([row[last][name] for row in own]))
    means["gain"] = mean_and_range([row["gain"]["mean"] for row in own])
    return means | {"minutes": float(np.mean([row["minutes"] for row in own]))}


def most_iterations(row: Row) -> str:
    """Return the key of the most iterations that were measured of an arm."""
    return [name for name in row if name.startswith("K = ")][-1]


def _contractions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the contraction of every layer that is iterated; of medians the mean."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        for each in row["contraction"]:
            found.setdefault((row["arm"], each["layer"]), []).append(each)
    return [
        {
            "arm": arm,
            "layer": layer,
            "median": float(np.mean([each["median"] for each in own])),
            "largest": max(each["largest"] for each in own),
        }
        for (arm, layer), own in found.items()
    ]
