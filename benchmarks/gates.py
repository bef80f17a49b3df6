"""Gated networks beside their backbone and beside static ones: accuracy, MACs, time.

    python -m benchmarks.gates --backbones runs/cifar10/main/0/best \
        --networks runs/cifar10/main/{1,2,3}/best --out gates.json --figure gates.png

Networks of one form, target and number of epochs are seeds of one setting. A row says
how accurate their answers are on the test split, which share of the backbone's
multiply-adds runs, whether that depends on the input, and how long it takes beside the
backbone. With several backbones, a network of seed s is compared with the s-th.

Axes: n samples, S seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import table
from benchmarks.speed.common import Clock
from dynalay_gym.cotraining.new_training import load_splits
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.lcnet.diagnostics import record_gates, summarise
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

PAPER = ((0.12, 93.38), (0.17, 93.75), (0.27, 94.69), (0.32, 95.24), (0.35, 95.30))
"""GMACs and accuracy in % of LC-Net's figure, read off (arXiv 2007.15151)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure gated networks on the test split."""

    backbones: tuple[Path, ...]
    """Folder of the network without gates; or one per seed of the others, from 0."""
    networks: tuple[Path, ...]
    """Folders of gated networks on it, and of smaller residual networks."""
    out: Path
    """JSON file for the results."""
    figure: Path | None = None
    """PNG or SVG file of accuracy against multiply-adds."""
    dataset: str = "cifar10"
    """Data set of all networks."""
    data_dir: Path | None = None
    """Folder of the data files."""
    batch_sizes: tuple[int, ...] = (1, 32, 256)
    """Batches that are timed; none measures no time."""
    rounds: int = 7
    """Times that each is timed, in turn with the backbone."""
    device: str = "cpu"
    """Where they run: cpu, or cuda."""


class Found(NamedTuple):
    """What one network does on the test split.

    Attributes:
        form: Its kind of gates, or of a static network.
        target: Share of compute that it was trained for; 1 without gates.
        epochs: Of its training.
        seed: Of its training.
        correct: Whether answers are right, bool [n].
        shares: Multiply-adds in those of the backbone [n].
        figures: What its gates do; see `summarise`.
        times: Time in that of the backbone, by size of batch.
        backbone: Which backbone it is compared with.
    """

    form: str
    target: float
    epochs: int
    seed: int
    correct: NDArray[np.bool_]
    shares: Floats
    figures: dict[str, float]
    times: dict[int, float]
    backbone: int


class Backbone(NamedTuple):
    """A network without gates.

    Attributes:
        number: Which of them.
        network: The network.
        losses: Of its answers [n]: how hard each sample is.
    """

    number: int
    network: ResidualNetwork
    losses: Tensor


def main(args: Args) -> None:
    """Print a table of the settings, draw the figure and write the JSON."""
    torch.set_num_threads(1)
    test = load_splits(args.dataset, args.device, data_dir=args.data_dir)["test"]
    backbones = [
        read_backbone(args, number, test) for number in range(len(args.backbones))
    ]
    whole = [measure(args, each, backbones, test) for each in args.backbones]
    found = [measure(args, each, backbones, test) for each in args.networks]
    rows = [summary(seeds, whole) for seeds in (whole, *settings(found))]
    print(table(COLUMNS, rows))
    open_macs = backbones[0].network.macs
    about = {"environment": run_metadata(), "open_macs": open_macs}
    seeds = [facts(each, test) for each in (*whole, *found)]
    write_json(args.out, about | {"settings": rows, "networks": seeds})
    if args.figure is not None:
        draw(args.figure, rows, open_macs)


def read_backbone(args: Args, number: int, test: Split) -> Backbone:
    """Read a backbone and find out how hard the test split is for it."""
    network, _ = load_network(args.backbones[number], args.device)
    logits = logits_of(network, test)
    losses = F.cross_entropy(logits, test.labels, reduction="none")
    return Backbone(number, network, losses)


COLUMNS = {
    "network": ("form", ""),
    "target": ("target", ".2f"),
    "epochs": ("epochs", "d"),
    "seeds": ("seeds", "d"),
    "accuracy, %": ("accuracy", ".2f"),
    "minus backbone": ("lost", ".2f"),
    "share of MACs": ("share", ".3f"),
    "its std over inputs": ("compute_std", ".3f"),
    "bits about the class": ("class_bits", ".2f"),
    "rank correlation with the open loss": ("hard_first", ".2f"),
    "of right ÷ wrong": ("right_by_wrong", ".2f"),
}


@torch.no_grad()
def measure(args: Args, folder: Path, backbones: list[Backbone], test: Split) -> Found:
    """Run one network on the test split, and time it beside its backbone."""
    network, about = load_network(folder, args.device)
    training = about.about.get("training", {})
    how = training.get("epochs", 0), training.get("seed", 0)
    number, backbone, losses = backbone_of(folder, how[1], backbones)
    timed = time_beside(network, backbone, test.inputs, args)
    if not isinstance(network, GatedNetwork):
        right = (logits_of(network, test).argmax(1) == test.labels).cpu().numpy()
        shares = np.full(len(right), network.macs / backbone.macs)
        widths = "-".join(map(str, network.config.widths))
        depths = "-".join(map(str, network.config.depths))
        form = f"widths {widths}, blocks {depths}"
        return Found(form, 1.0, *how, right, shares, {}, timed, number)
    record = record_gates(network, test)
    return Found(
        form_of(network, training.get("gate_gradient")),
        training.get("target", 1.0),
        *how,
        (record.logits.argmax(1) == test.labels).cpu().numpy(),
        record.shares.cpu().numpy(),
        summarise(record, test.labels, losses),
        timed,
        number,
    )


def backbone_of(folder: Path, seed: int, backbones: list[Backbone]) -> Backbone:
    """Return the backbone that a network of a seed is compared with."""
    number = seed if len(backbones) > 1 else 0
    if number >= len(backbones):
        raise ConfigError(
            f"{folder} has seed {seed}, and there are {len(backbones)} backbones; give "
            "one for each seed from 0 on, in order"
        )
    return backbones[number]


def form_of(network: GatedNetwork, gradient: str | None = None) -> str:
    """Return the kind of gates, and how they were trained, in a few words."""
    gates = network.gate_config
    name = "L" * gates.layers + "C" * gates.channels
    hybrid = ", hybrid" * (gradient == "policy-gradient")
    static = "" if gates.per_input else ", static"
    return f"{name}, {gates.kind}{hybrid}{', slices' * gates.slices}{static}"


@torch.no_grad()
def logits_of(network: Any, split: Split) -> Tensor:
    """Return the answers of a residual network [n, K]."""
    return torch.cat([network(images) for images in split.inputs.split(256)])


def time_beside(
    network: Any, backbone: Any, images: Tensor, args: Args
) -> dict[int, float]:
    """Return how long batches take, in the time of the backbone; medians."""
    clock, found = Clock(args.device), {}
    for size in args.batch_sizes:
        ratios = []
        for turn in range(args.rounds):
            batches = images[turn * 256 :][:256].split(size)[:8]
            own, other = (
                clock.time(partial(run_all, each, batches))
                for each in (network, backbone)
            )
            ratios.append(own / other)
        found[size] = float(np.median(ratios))
    return found


def run_all(network: Any, batches: Iterable[Tensor]) -> None:
    """Answer some batches."""
    for images in batches:
        network(images.contiguous(memory_format=torch.channels_last))


def settings(found: list[Found]) -> list[list[Found]]:
    """Return the networks of each setting, the costliest first."""
    groups: dict[tuple[str, float, int], list[Found]] = {}
    for each in found:
        key = each.form, each.target, each.epochs
        groups.setdefault(key, []).append(each)
    return sorted(groups.values(), key=lambda some: -float(np.mean(some[0].shares)))


def summary(seeds: list[Found], whole: list[Found]) -> dict[str, Any]:
    """Return the figures of one setting: means over its seeds, intervals over images.

    Args:
        seeds: Its networks.
        whole: The backbones.
    """
    correct = np.mean([each.correct for each in seeds], axis=0)
    open_correct = np.mean([whole[each.backbone].correct for each in seeds], axis=0)
    shares = np.mean([each.shares for each in seeds], axis=0)
    right, wrong = (
        np.mean([each.shares[each.correct == value].mean() for each in seeds])
        for value in (True, False)
    )
    names = ("compute_std", "class_bits", "hard_first")
    figures = {
        name: float(np.mean([each.figures.get(name, 0.0) for each in seeds]))
        for name in names
    }
    return {
        "form": seeds[0].form,
        "target": seeds[0].target,
        "epochs": seeds[0].epochs,
        "seeds": len(seeds),
        "accuracy": interval(100 * correct),
        "lost": interval(100 * (correct - open_correct)),
        "share": float(shares.mean()),
        "shares": [float(each.shares.mean()) for each in seeds],
        "accuracies": [100 * float(each.correct.mean()) for each in seeds],
        "right_by_wrong": float(right / wrong),
        "times": {
            size: float(np.mean([each.times[size] for each in seeds]))
            for size in seeds[0].times
        },
        **figures,
    }


def interval(values: Floats) -> dict[str, float]:
    """Return mean and 95 % interval."""
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def facts(found: Found, test: Split) -> dict[str, Any]:
    """Return the figures of one network, JSON-able."""
    labels = test.labels.cpu().numpy()
    classes = [float(found.shares[labels == k].mean()) for k in np.unique(labels)]
    quantiles = np.quantile(found.shares, np.linspace(0, 1, 11)).tolist()
    return {
        "form": found.form,
        "target": found.target,
        "epochs": found.epochs,
        "seed": found.seed,
        "accuracy": float(found.correct.mean()),
        "share": float(found.shares.mean()),
        "share_by_class": classes,
        "share_deciles": quantiles,
        "times": found.times,
        **found.figures,
    }


def draw(path: Path, rows: list[dict[str, Any]], open_macs: int) -> None:
    """Draw accuracy against multiply-adds, beside the points of the paper's figure."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](np.arange(20)))
    for form in dict.fromkeys(row["form"] for row in rows):
        some = [row for row in rows if row["form"] == form]
        macs = [row["share"] * open_macs / 1e9 for row in some]
        middle = [row["accuracy"]["mean"] for row in some]
        ends = [
            [abs(row["accuracy"][k] - row["accuracy"]["mean"]) for row in some]
            for k in ("low", "high")
        ]
        axes.errorbar(macs, middle, yerr=ends, marker="o", capsize=2, label=form)
    axes.plot(*zip(*PAPER, strict=True), "k*", label="LC-Net, published (ResNet)")
    axes.set(xlabel="GMACs per image", ylabel="test accuracy, %", xscale="log")
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
