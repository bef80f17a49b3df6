"""DynaLay's figure 3: how often each choice is made, in training and when tested."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import unit_run
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    mean_and_range,
)
from benchmarks.report import Columns, Row, Table


class Fig3(Experiment):
    """How often each choice is made; see `Experiment`."""

    name = "fig3"
    title = "How often each choice is made"
    arms = ("ppo",)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train an agent at the break-even penalty."""
        found = unit_run(setting, seed, folder)
        return {
            "names": found["test"][arm]["names"],
            "training": found["training"]["shares"],
            "test": found["test"][arm]["shares"],
            "penalty": found["penalty"],
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the shares of all choices."""
        found = [
            {
                "choice": name,
                "training": mean_and_range(
                    [100 * np.mean(row["training"], 0)[k] for row in rows]
                ),
                "end": mean_and_range([100 * row["training"][-1][k] for row in rows]),
                "test": mean_and_range([100 * row["test"][k] for row in rows]),
            }
            for k, name in enumerate(rows[0]["names"])
        ]
        notes = (
            "Shares of all decisions, % (at least one per input: the last one stops); "
            "means over seeds, lowest and highest in brackets."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return bars for the test set, and lines over the training."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        bars, lines = figure.subplots(1, 2)
        names = rows[0]["names"]
        test = 100 * np.array([row["test"] for row in rows])
        bars.bar(range(len(names)), test.mean(0), yerr=test.std(0), capsize=4)
        bars.set_xticks(range(len(names)), names)
        bars.set_ylabel("share of decisions on the test set, %")
        training = 100 * np.array([row["training"] for row in rows]).mean(0)
        at = 100 * (np.arange(len(training)) + 0.5) / len(training)
        for k, name in enumerate(names):
            lines.plot(at, training[:, k], label=name)
        lines.set_xlabel("training, %")
        lines.set_ylabel("share of decisions, %")
        lines.legend()
        return figure


_COLUMNS: Columns = {
    "choice": ("choice", ""),
    "in training": ("training", ".1f"),
    "in its last twentieth": ("end", ".1f"),
    "on the test set": ("test", ".1f"),
}
