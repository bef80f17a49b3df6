"""DynaLay's section 2.2: what is chosen costs less than everything; for whom?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import unit_run
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    mean_and_range,
)
from benchmarks.report import Columns, Row, Table
from dynalay_gym.utils.ranks import rank_correlation

_MEASURES = ("difficulty", "entropy", "loss")


class Cost(Experiment):
    """Compute of what is chosen, and accuracy at it; see `Experiment`."""

    name = "cost"
    title = "Compute of what is chosen"
    arms = ("ppo",)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train an agent at the break-even penalty, and evaluate all policies."""
        return {"test": unit_run(setting, seed, folder)["test"]}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return accuracy and compute of every policy."""
        found = []
        for policy in rows[0]["test"]:
            own = [row["test"][policy] for row in rows if policy in row["test"]]
            row: dict[str, Any] = {"policy": policy}
            for key in ("accuracy", "compute", "return"):
                row[key] = mean_and_range([each[key] for each in own])
            row["extra"] = mean_and_range([100 * each["extra"]["mean"] for each in own])
            row["high"] = 100 * max(each["extra"]["high"] for each in own)
            found.append(row)
        notes = (
            "Test set; means over seeds, lowest and highest in brackets. Extra compute "
            "is that beyond the plain pass, as a share of iterating everything; last, "
            "the highest upper end of its 95 % intervals over samples."
        )
        return [Table(self.title, notes, _COST, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return accuracy against compute."""
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](range(20)))
        for policy in rows[0]["test"]:
            own = [row["test"][policy] for row in rows if policy in row["test"]]
            x, y = (np.mean([e[key] for e in own]) for key in ("compute", "accuracy"))
            axes.plot(x, y, "o", label=policy)
        figure.legend(loc="outside right upper", fontsize="small")
        axes.set_xlabel("compute, plain passes")
        axes.set_ylabel("test accuracy, %")
        return figure


class Difficulty(Experiment):
    """Whether harder inputs get more compute; see `Experiment`."""

    name = "difficulty"
    title = "Compute by difficulty"
    arms = ("ppo",)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train an agent at the break-even penalty, and look at every sample."""
        samples = unit_run(setting, seed, folder)["samples"]
        return {
            name: {
                "correlation": rank_correlation(np.array(samples["extra"]), values),
                "curve": _by_tenths(np.array(samples["extra"]), values),
            }
            for name in _MEASURES
            if name in samples and np.ptp(values := np.array(samples[name])) > 0
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return rank correlations."""
        found = []
        for name in _shown(rows):
            curves = np.array([row[name]["curve"] for row in rows]).mean(0)
            values = [_number(row[name]["correlation"]) for row in rows]
            low, high = float(curves[0]), float(curves[-1])
            row = {"measure": name, "correlation": mean_and_range(values)}
            found.append(row | {"easiest": low, "hardest": high})
        notes = (
            "Spearman's rank correlation of an input's extra compute with measures of "
            "how hard it is for the plain pass, and extra compute of the easiest and "
            "the hardest tenth, in plain passes; test set, means over seeds."
        )
        return [Table(self.title, notes, _DIFFICULTY, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return extra compute by tenths of the samples."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name in _shown(rows):
            curves = np.array([row[name]["curve"] for row in rows])
            axes.plot(np.arange(10) + 1, curves.mean(0), "o-", label=name)
        axes.set_xlabel("tenth of the test samples, easiest first")
        axes.set_ylabel("extra compute, plain passes")
        axes.legend()
        return figure


def _by_tenths(extra: Any, values: Any) -> list[float]:
    """Return mean extra compute of the samples' tenths, those of least value first."""
    order = np.argsort(values, kind="stable")
    return [float(part.mean()) for part in np.array_split(extra[order], 10)]


def _shown(rows: Sequence[Row]) -> list[str]:
    return [name for name in _MEASURES if name in rows[0]]


def _number(value: float | None) -> float:
    """Return a correlation; 0 where all inputs get the same compute."""
    return 0.0 if value is None else value


_COST: Columns = {
    "policy": ("policy", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "compute": ("compute", ".2f"),
    "return": ("return", ".4f"),
    "extra, % of everything": ("extra", ".1f"),
    "at most, %": ("high", ".1f"),
}
_DIFFICULTY: Columns = {
    "measure": ("measure", ""),
    "correlation": ("correlation", ".3f"),
    "easiest tenth": ("easiest", ".3f"),
    "hardest tenth": ("hardest", ".3f"),
}
