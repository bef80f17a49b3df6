"""DynaLay's table 1: time of the backward passes, and accuracy, against peers.

All arms have the same stem, widths, data and epochs. ``3-layer CNN`` is the plain pass;
``all layers`` iterates every layer for every sample; ``DynaLay`` is trained for all
states, in each step the plain, the full and a random one, and an agent chooses among
them when it is tested; its own training is not in the times. The DEQs iterate
everything, too, trained by the solvers of torchdeq and implicit gradients, and tested
by plain iteration.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import unit_run
from benchmarks.paper.deq import check_solvable, solve_by
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    dots,
    mean_and_range,
    of_arm,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import trained
from benchmarks.report import Columns, Row, Table

# States that each arm trains, None for all of them; and the solver of a DEQ.
_ARMS: dict[str, tuple[tuple[int, ...] | None, str | None]] = {
    "3-layer CNN": ((0,), None),
    "all layers": ((7,), None),
    "DynaLay": (None, None),
    "DEQ Anderson": ((7,), "anderson"),
    "DEQ Broyden": ((7,), "broyden"),
}


class Table1(Experiment):
    """Backward passes and accuracy; see `Experiment`."""

    name = "table1"
    title = "Backward passes and accuracy"
    arms = tuple(_ARMS)
    layers = 3

    def check(self, setting: Setting) -> None:
        """Raise ConfigError for texts, and without torchdeq."""
        super().check(setting)
        check_solvable(setting)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network, timed; measure it on the test set, DynaLay by its agent."""
        states, solver = _ARMS[arm]
        splits, how = setting.splits(), dict[str, Any]()
        if solver is not None:
            how["prepare"] = partial(solve_by, method=solver)
        own = folder / "network"
        found = trained(setting, splits["main"], states, seed, own, **how)
        if states is None:  # the agent's network is the same one
            test = unit_run(setting, seed, folder)["test"]["ppo"]
        else:
            test = answers(found.network, splits["test"], states[0])[0]
        return {
            "accuracy": test["accuracy"],
            "compute": test["compute"],
            "minutes": found.minutes / len(found.epochs),
            "backward minutes": found.backward / len(found.epochs),
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the means of each arm."""
        found = []
        for arm in arms_of(rows):
            own = of_arm(rows, arm)
            row: dict[str, Any] = {"arm": arm}
            for key in ("accuracy", "compute"):
                row[key] = mean_and_range([each[key] for each in own])
            for key in ("minutes", "backward minutes"):
                row[key] = mean_and_range([60 * each[key] for each in own])
            found.append(row)
        notes = (
            "Test accuracy, compute in plain passes; the processor's seconds of an "
            "epoch and of its backward passes; means over seeds, lowest and highest in "
            "brackets."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return backward seconds and accuracy, a dot per network."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        times, accuracies = figure.subplots(1, 2)
        dots(times, rows, lambda row: 60 * row["backward minutes"])
        times.set_ylabel("backward passes, s per epoch")
        dots(accuracies, rows, lambda row: row["accuracy"])
        accuracies.set_ylabel("test accuracy, %")
        return figure


_COLUMNS: Columns = {
    "arm": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "compute": ("compute", ".2f"),
    "backward, s per epoch": ("backward minutes", ".1f"),
    "epoch, s": ("minutes", ".1f"),
}
