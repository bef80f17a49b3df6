"""DynaLay's figure 6: the more layers are iterated, the better?

Model 0 iterates no layer, model 1 the first, model 2 the first two, model 3 all three.
Each is a network that is trained in its own state alone, with the same options.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    differences,
    mean_and_range,
    of_arm,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import trained
from benchmarks.report import Columns, Row, Table
from dynalay_gym.data.splits import Split
from dynalay_gym.networks.main_network import MainNetwork

STATES = {"Model 0": 0, "Model 1": 1, "Model 2": 3, "Model 3": 7}
_FEW = 100  # samples of the paper's figure


class Fig6(Experiment):
    """How many of three layers are iterated; see `Experiment`."""

    name = "fig6"
    title = "How many of three layers are iterated"
    arms = tuple(STATES)
    layers = 3

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a model, and measure it on all test samples and on a few."""
        splits = setting.splits()
        state, data = STATES[arm], splits["main"]
        found = trained(setting, data, (state,), seed, folder / "network")
        answers = on_both(found.network.freeze(), splits["test"], state)
        return answers | {"minutes": found.minutes}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return what each model answers, and how it differs from model 0."""
        notes = (
            f"Means over seeds, lowest and highest in brackets. The {_FEW} samples are "
            "the same for all networks; compute is in plain passes."
        )
        summaries = [_summary(rows, arm) for arm in arms_of(rows)]
        return [Table(self.title, notes, _COLUMNS, summaries)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return box plots over seeds: accuracy and loss, on few samples and on all."""
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots(2, 2)
        for down, (part, label) in enumerate((("few", _FEW), ("all", "all"))):
            for across, key in enumerate(("accuracy", "loss")):
                arms = arms_of(rows)
                own = [[row[part][key] for row in of_arm(rows, arm)] for arm in arms]
                axes[down, across].boxplot(own, tick_labels=arms)
                unit = "%" if key == "accuracy" else "nats"
                axes[down, across].set_ylabel(f"{key}, {unit} ({label} test samples)")
        return figure


def on_both(network: MainNetwork, split: Split, state: int) -> dict[str, Any]:
    """Return `answers` of a state on all samples of a split, and on a few of them."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    rows = chosen[:_FEW]
    few = Split(split.inputs[rows], split.labels[rows], vocabulary=split.vocabulary)
    parts = {"all": split, "few": few}
    return {name: answers(network, part, state)[0] for name, part in parts.items()}


def _summary(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """Return means over the seeds of a model; differences are from the same seeds."""
    own = of_arm(rows, arm)
    found: dict[str, Any] = {"arm": arm}
    for part in ("all", "few"):
        for key in ("accuracy", "loss"):
            found[f"{part} {key}"] = mean_and_range([row[part][key] for row in own])
    if arm != "Model 0":
        more = differences(rows, arm, "Model 0", lambda row: row["all"]["accuracy"])
        if more:
            found["more"] = mean_and_range(more)
    for key in ("compute", "converged"):
        found[key] = float(np.mean([row["all"][key] for row in own]))
    return found | {"minutes": float(np.mean([row["minutes"] for row in own]))}


_COLUMNS: Columns = {
    "model": ("arm", ""),
    "accuracy, %": ("all accuracy", ".2f"),
    "more than Model 0": ("more", "+.2f"),
    "loss": ("all loss", ".3f"),
    f"{_FEW} samples, %": ("few accuracy", ".1f"),
    f"{_FEW} samples, loss": ("few loss", ".3f"),
    "compute": ("compute", ".2f"),
    "converged, %": ("converged", ".1f"),
    "minutes": ("minutes", ".1f"),
}
