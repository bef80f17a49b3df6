"""DynaLay's figure 2: loss on training and test samples, epoch by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.paper.experiment import Experiment, Setting, mean_and_range
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import trained
from benchmarks.report import Columns, Row, Table
from dynalay_gym.data.splits import Split
from dynalay_gym.networks.main_network import MainNetwork

_SAMPLES = 2_000  # of the main split, unchanged, on which the training loss is taken
STATES = {"plain pass": 0, "all layers": None}


class Fig2(Experiment):
    """Loss by epoch; see `Experiment`."""

    name = "fig2"
    title = "Loss on training and test samples"
    arms = ("main network",)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network for all states; measure two of them after each epoch."""
        splits = setting.splits()
        main, test = splits["main"], splits["test"]
        step = max(1, len(main) // _SAMPLES)
        seen = Split(
            main.inputs[::step], main.labels[::step], vocabulary=main.vocabulary
        )
        parts = {"train": seen, "test": test}
        found = trained(
            setting, main, None, seed, folder / "network", lambda n: losses(n, parts)
        )
        return {"epochs": found.epochs, "minutes": found.minutes}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the losses after the last epoch, and where the test loss is least."""
        found = []
        for state in STATES:
            row: dict[str, Any] = {"state": state}
            for part in ("train", "test"):
                last = [unit["epochs"][-1][part][state] for unit in rows]
                row[part] = mean_and_range([each["loss"] for each in last])
                row[f"{part} accuracy"] = mean_and_range(
                    [each["accuracy"] for each in last]
                )
            curves = np.array(
                [[e["test"][state]["loss"] for e in unit["epochs"]] for unit in rows]
            )
            row["best"] = int(curves.mean(0).argmin()) + 1
            found.append(row)
        notes = (
            "After the last epoch; means over seeds, lowest and highest in brackets."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return the curves: means over seeds, and bands of one standard deviation."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(1, len(STATES), sharey=True)
        for axes, state in zip(panels, STATES, strict=True):
            for part in ("train", "test"):
                curves = np.array(
                    [[e[part][state]["loss"] for e in unit["epochs"]] for unit in rows]
                )
                epochs, mean, std = (
                    np.arange(curves.shape[1]) + 1,
                    curves.mean(0),
                    curves.std(0),
                )
                (line,) = axes.plot(epochs, mean, label=part)
                axes.fill_between(
                    epochs, mean - std, mean + std, alpha=0.25, color=line.get_color()
                )
            axes.set_xlabel("epoch")
            axes.set_ylabel("loss, nats")
            axes.set_title(state)
            axes.legend()
        return figure


@torch.no_grad()
def losses(network: MainNetwork, parts: dict[str, Split]) -> dict[str, Any]:
    """Return `answers` of the plain pass and with all layers iterated, by split."""
    full = 2**network.num_layers - 1
    found: dict[str, Any] = {}
    for part, split in parts.items():
        ids = {name: full if state is None else state for name, state in STATES.items()}
        found[part] = {
            name: answers(network, split, state)[0] for name, state in ids.items()
        }
    return found


_COLUMNS: Columns = {
    "state": ("state", ""),
    "training loss": ("train", ".3f"),
    "test loss": ("test", ".3f"),
    "training accuracy, %": ("train accuracy", ".1f"),
    "test accuracy, %": ("test accuracy", ".1f"),
    "epoch of the least test loss": ("best", "d"),
}
