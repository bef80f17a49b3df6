"""DynaLay's figure 5: reward in training (a), and what the penalty changes (b)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import unit_run
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    mean_and_range,
    of_arm,
)
from benchmarks.report import Columns, Row, Table

SCALES = {f"{scale:g}": scale for scale in (0.25, 0.5, 1.0, 2.0, 4.0)}


class Fig5(Experiment):
    """Reward in training, and penalties; see `Experiment`."""

    name = "fig5"
    title = "Reward in training, and what the penalty changes"
    arms = tuple(SCALES)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train an agent at a multiple of the break-even penalty."""
        found = unit_run(setting, seed, folder, SCALES[arm])
        validation = found["validation"]
        return {
            "returns": found["training"]["returns"],
            "names": validation["names"],
            "shares": validation["shares"],
            "accuracy": validation["accuracy"],
            "compute": validation["compute"],
            "penalty": found["penalty"],
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return whether the reward settles, and shares by penalty."""
        arms = arms_of(rows)
        settling = [_settling(arm, of_arm(rows, arm)) for arm in arms]
        by_penalty = [_by_penalty(arm, of_arm(rows, arm)) for arm in arms]
        names = {f"{name}, %": (name, ".1f") for name in rows[0]["names"]}
        seeds = "means over seeds, lowest and highest in brackets"
        return [
            Table(
                "Reward in training (a)",
                "Mean return of an episode in the first and the last twentieth of the "
                f"training, and its rise over the last quarter; {seeds}.",
                _SETTLING,
                settling,
            ),
            Table(
                "Choices by penalty (b)",
                "Penalty in break-evens; validation split, shares of all decisions; "
                f"{seeds}.",
                {**_PENALTY, **names},
                by_penalty,
            ),
        ]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return returns by training, one line per seed; and shares by penalty."""
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for k, arm in enumerate(arms_of(rows)):
            for row in of_arm(rows, arm):
                at = 100 * (np.arange(len(row["returns"])) + 0.5) / len(row["returns"])
                label = f"penalty {arm}" if row is of_arm(rows, arm)[0] else None
                left.plot(at, row["returns"], color=f"C{k}", alpha=0.7, label=label)
        left.set_xlabel("training, %")
        left.set_ylabel("mean return")
        left.legend()
        arms, names = arms_of(rows), rows[0]["names"]
        for k, name in enumerate(names):
            own = [np.mean([row["shares"][k] for row in of_arm(rows, a)]) for a in arms]
            right.plot(range(len(arms)), 100 * np.array(own), "o-", label=name)
        right.set_xticks(range(len(arms)), arms)
        right.set_xlabel("penalty, in break-evens")
        right.set_ylabel("share of decisions, %")
        right.legend(loc="upper left", bbox_to_anchor=(1.15, 1))  # beside both scales
        other = right.twinx()
        means = [np.mean([row["accuracy"] for row in of_arm(rows, a)]) for a in arms]
        other.plot(range(len(arms)), means, "k--")
        other.set_ylabel("validation accuracy, % (dashed)")
        return figure


def _settling(arm: str, own: Sequence[Row]) -> dict[str, Any]:
    """Return first and last returns, and the rise over the last quarter."""
    return {
        "penalty": arm,
        "first": mean_and_range([row["returns"][0] for row in own]),
        "last": mean_and_range([row["returns"][-1] for row in own]),
        "rise": mean_and_range([last_rise(row["returns"]) for row in own]),
    }


def last_rise(returns: Sequence[float]) -> float:
    """Return the rise of the line that fits the last quarter of a training best."""
    last = np.array(returns[-(len(returns) // 4) :])
    return float(np.polyfit(np.arange(len(last)), last, 1)[0] * len(last))


def _by_penalty(arm: str, own: Sequence[Row]) -> dict[str, Any]:
    """Return accuracy, compute and shares of choices."""
    found: dict[str, Any] = {"penalty": arm}
    for key in ("accuracy", "compute"):
        found[key] = mean_and_range([row[key] for row in own])
    for k, name in enumerate(own[0]["names"]):
        found[name] = float(np.mean([100 * row["shares"][k] for row in own]))
    return found


_SETTLING: Columns = {
    "penalty": ("penalty", ""),
    "first": ("first", ".4f"),
    "last": ("last", ".4f"),
    "rise in the last quarter": ("rise", "+.4f"),
}
_PENALTY: Columns = {
    "penalty": ("penalty", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "compute": ("compute", ".2f"),
}
