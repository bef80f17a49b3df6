"""DynaLay's table 1: time of the backward passes, and accuracy, against peers.

All arms have the same stem, widths, data and epochs. ``3-layer CNN`` is the plain pass;
``all layers`` iterates every layer for every sample; ``DynaLay`` is trained for all
states, and an agent chooses among them when it is tested. The DEQs iterate everything,
too, by the solvers of torchdeq and implicit gradients.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import agent_run
from benchmarks.paper.deq import solve_by
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    of_arm,
    shared_folder,
    spread,
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

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network, timed; measure it on the test set, DynaLay by its agent."""
        states, solver = _ARMS[arm]
        splits, shared = setting.splits(), shared_folder(setting, folder)
        own = (
            shared / f"network-{seed}/network" if states is None else folder / "network"
        )
        how: Any = {}
        if solver is not None:
            how["prepare"] = partial(solve_by, method=solver)
        if states is None:
            test = agent_run(setting, seed, 1.0, shared)["test"]["ppo"]
        found = trained(setting, splits["main"], states, seed, own, **how)
        if states is not None:
            most = max(found.network.config.layer_steps)
            test = answers(found.network, splits["test"], states[0], most)[0]
        return {
            "accuracy": test["accuracy"],
            "compute": test["compute"],
            "parameters": sum(part.numel() for part in found.network.parameters()),
            "minutes": found.minutes / len(found.epochs),
            "backward minutes": found.backward / len(found.epochs),
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the means of each arm."""
        found = []
        for arm in arms_of(rows):
            own = of_arm(rows, arm)
            row: dict[str, Any] = {"arm": arm, "parameters": own[0]["parameters"]}
            for key in ("accuracy", "compute"):
                row[key] = spread([each[key] for each in own])
            for key in ("minutes", "backward minutes"):
                row[key] = spread([60 * each[key] for each in own])
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
        arms = arms_of(rows)
        panels = {"backward minutes": "seconds of backward passes, per epoch"}
        panels["accuracy"] = "test accuracy, %"
        for axes, (key, label) in zip(
            figure.subplots(1, 2), panels.items(), strict=True
        ):
            scale = 60 if key == "backward minutes" else 1
            for place, arm in enumerate(arms):
                values = [scale * row[key] for row in of_arm(rows, arm)]
                axes.plot([place] * len(values), values, "o", color="C0", alpha=0.6)
                axes.plot(place, np.mean(values), "_", color="C1", markersize=24)
            axes.set_xticks(range(len(arms)), arms, fontsize=8)
            axes.set_ylabel(label)
        return figure


_COLUMNS: Columns = {
    "arm": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "compute": ("compute", ".2f"),
    "backward, s per epoch": ("backward minutes", ".1f"),
    "epoch, s": ("minutes", ".1f"),
    "parameters": ("parameters", ",d"),
}
