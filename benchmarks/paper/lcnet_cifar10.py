"""LC-Net on CIFAR-10: accuracy and multiply-adds of L-Net, C-Net and LC-Net.

    python -m benchmarks.paper --experiment lcnet_cifar10 --dataset cifar10 \
        --preset fast --folder paper-lcnet

``whole`` is a residual network that runs whole. All other arms of a seed start from it:
L-Net gates its blocks, C-Net their inner channels, LC-Net both, each trained to a
target, the share of its multiply-adds that an image may take in the mean. Static gates
are learned, too, but are the same for every image: a pruned network, which is what
choosing per image has to beat. ``--epochs`` and ``--learning-rate`` are the whole
network's; gates have their own. Any data set of images will do.

The networks of a folder are of one architecture: give these a ``--folder`` in which no
other experiment has been run on the data set.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.gates import PAPER
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    differences,
    mean_and_range,
    of_arm,
    shared_folder,
)
from benchmarks.paper.gated import gated_network, measure, whole_network
from benchmarks.report import Columns, Row, Table
from benchmarks.train_gates import FORMS
from dynalay_gym.cotraining.new_training import network_config
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.residual.config import RESIDUAL_PRESETS, ResidualConfig

WHOLE = "whole"
# The gates of each other arm, and their target.
GATED: dict[str, tuple[GateConfig, float]] = {
    f"{form} {target}": (GateConfig(**FORMS[form]), target)
    for target, form in product(
        (0.5, 0.3), ("L", "C", "LC", "L-static", "C-static", "LC-static")
    )
}
RESNET18 = (0.555, 93.02)  # GMACs and accuracy in % of the paper's whole network


class LCNetCifar10(Experiment):
    """Gates on a residual network; see `Experiment`."""

    name = "lcnet_cifar10"
    title = "Gates on blocks and channels of a residual network"
    arms = (WHOLE, *GATED)

    def check(self, setting: Setting) -> None:
        """Raise ConfigError unless the network is residual and starts from nothing."""
        config = network_config(setting.dataset, setting.preset)
        if not isinstance(config, ResidualConfig):
            raise ConfigError(
                "gates go on a residual network, for images; give --preset fast (or "
                f"another of {sorted(RESIDUAL_PRESETS)}), with a --dataset of images"
            )
        if setting.start_from is not None:
            raise ConfigError(
                "this experiment trains its own residual network; leave --start-from "
                "out"
            )

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train the whole network if it is missing, then gates; measure the arm."""
        whole = shared_folder(setting, folder) / f"residual-{seed}" / "network"
        found, minutes = whole_network(setting, seed, whole)
        if arm in GATED:
            own = folder / "network"
            found, minutes = gated_network(setting, seed, own, whole, *GATED[arm])
        return measure(found, setting.splits()["test"]) | {"minutes": minutes}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the means of each arm; for CIFAR-10 the paper's points, too."""
        notes = (
            "Test accuracy; multiply-adds of an image, in millions and in those of "
            "the whole network, and the standard deviation of that share over images; "
            "the processor's minutes of the training, for gates of theirs alone. "
            "Those are further epochs for the network, too. Means over seeds, lowest "
            "and highest in brackets."
        )
        summaries = [_summary(rows, arm) for arm in arms_of(rows)]
        found = [Table(self.title, notes, _COLUMNS, summaries)]
        return found + [_published()] * (setting.dataset == "cifar10")

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return accuracy against the share of multiply-adds, a dot per unit."""
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](range(20)))
        for arm in arms_of(rows):
            own = of_arm(rows, arm)
            shares, accuracies = ([each[k] for each in own] for k in _AXES)
            axes.plot(shares, accuracies, "o", label=arm)
        if setting.dataset == "cifar10":
            shares, accuracies = ([row[k] for row in _published().rows] for k in _AXES)
            axes.plot(shares, accuracies, "k*", label="published")
        axes.set(xlabel="share of multiply-adds", ylabel="test accuracy, %")
        figure.legend(loc="outside right upper", fontsize="small")
        return figure


def _summary(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """Return means over the seeds of an arm; differences are from the same seeds."""
    own, found = of_arm(rows, arm), dict[str, Any](arm=arm)
    for key in ("accuracy", "share", "deviation", "minutes"):
        found[key] = mean_and_range([each[key] for each in own])
    found["millions"] = mean_and_range([each["macs"] / 1e6 for each in own])
    more = differences(rows, arm, WHOLE, lambda row: row["accuracy"])
    if arm != WHOLE and more:
        found["more"] = mean_and_range(more)
    return found


def _published() -> Table:
    """Return the points of the paper's figure."""
    points = [("ResNet-18", RESNET18), *(("LC-Net", point) for point in PAPER)]
    rows = [
        {"arm": name, "accuracy": right, "millions": 1e3 * g, "share": g / RESNET18[0]}
        for name, (g, right) in points
    ]
    notes = (
        "Source: CIFAR-10 figure of Xia et al., Fully Dynamic Inference with Deep "
        "Neural Networks (arXiv 2007.15151), read off to about 10 million MACs and "
        "0.03 points; the MACs of ResNet-18 are counted. That it is LC-Net's whole "
        "network is inferred, and its recipe is not known. L-Net and C-Net have no "
        "points there."
    )
    return Table("As published", notes, _COLUMNS, rows)


_AXES = ("share", "accuracy")
_COLUMNS: Columns = {
    "arm": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "more than whole": ("more", "+.2f"),
    "million MACs": ("millions", ".2f"),
    "share of MACs": ("share", ".3f"),
    "its std over images": ("deviation", ".3f"),
    "minutes": ("minutes", ".1f"),
}
