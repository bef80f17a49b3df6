"""DynaLay's figure 7: three stacked LSTM layers, and which of them is iterated.

    python -m benchmarks.paper.fig7 --folder fig7 --data-dir DATA

Trains and measures a network for every variant and seed, unless the folder has it: one
without iteration, one for each layer that alone is iterated, and one for all three.
Then it prints the table. Several processes may share a folder, each with its own seeds.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from benchmarks.paper.text_measures import measure
from benchmarks.report import Columns, table
from dynalay_gym.cotraining.new_training import load_splits, training_config
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_network, save_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import mixed_states
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.saved_folder import is_saved

# State of each variant, by its bits: layer 1 first.
Variant = Literal["no FPI", "layer 1", "layer 2", "layer 3", "all"]
VARIANTS: dict[Variant, int] = {
    "no FPI": 0,
    "layer 1": 1,
    "layer 2": 2,
    "layer 3": 4,
    "all": 7,
}
# What the networks of a data set are judged by, and its unit.
METRICS = {"imdb": ("accuracy", ", %"), "wikitext2": ("perplexity", "")}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train what is missing, and print the table."""

    folder: Path
    """Folder of the networks, each VARIANT-SEED; those that are there are kept."""
    dataset: str = "imdb"
    """imdb or wikitext2."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the networks."""
    variants: tuple[Variant, ...] = ("no FPI", "layer 1", "layer 2", "layer 3", "all")
    """Which layers are iterated: no FPI, layer 1, layer 2, layer 3 or all."""
    start_from: Path | None = None
    """Folder of an earlier run: a network goes on from its no FPI of the same seed."""
    every: int = 1
    """Train on every so manieth sample of the main split."""
    epochs: int | None = None
    """Passes over the samples; as many as train_main.py takes if not given."""
    learning_rate: float | None = None
    """Peak of the learning rate; that of train_main.py if not given."""
    data_dir: Path | None = None
    """Folder of the data files."""
    results: Path | None = None
    """JSON file of the figures."""
    figure: Path | None = None
    """Picture to draw."""


class VariantTrainer(MainTrainer):
    """Trains the plain pass and what leads to one state, and nothing else."""

    def __init__(
        self, network: MainNetwork, data: Split, config: TrainingConfig, state: int
    ) -> None:
        super().__init__(network, data, config)
        self.state = state

    def weights(self) -> dict[int, float]:
        """Return the states that a step trains; see `MainTrainer.weights`."""
        if self.state == 2**self.network.num_layers - 1:
            return mixed_states(self.state + 1, self.generator)
        return dict.fromkeys((0, self.state), 1.0)


def main(args: Args) -> None:
    """Train, measure, print."""
    torch.set_num_threads(1)
    splits = load_splits(args.dataset, "cpu", data_dir=args.data_dir)
    rows = []
    for seed, variant in product(args.seeds, args.variants):
        folder = args.folder / folder_name(variant, seed)
        if not is_saved(folder):
            minutes = train(args, splits["main"], VARIANTS[variant], seed, folder)
            print(f"{variant}, seed {seed}: {minutes:.1f} minutes", flush=True)
        measured = folder.with_suffix(".json")
        if not measured.exists():
            network, facts = load_network(folder)
            row = {"dataset": args.dataset, "variant": variant, "seed": seed}
            row["minutes"] = facts.about["minutes"]
            found = measure(network.freeze(), splits["test"], VARIANTS[variant])
            write_json(measured, row | found)
        rows.append(json.loads(measured.read_text("utf-8")))
        if rows[-1]["dataset"] != args.dataset:
            raise ConfigError(f"{measured} is of another data set; give another folder")
    summaries = [summary(rows, variant) for variant in args.variants]
    print(table(columns(args.dataset), summaries))
    print(table(CONTRACTION, contractions(rows)))
    if args.results is not None:
        write_json(args.results, {"dataset": args.dataset, "networks": rows})
    if args.figure is not None:
        draw(rows).savefig(args.figure, dpi=110)


def train(args: Args, data: Split, state: int, seed: int, folder: Path) -> float:
    """Train and save the network of a variant; return the processor's minutes."""
    network, start = new_network(args, data, seed), time.process_time()
    options = {"epochs": args.epochs, "learning_rate": args.learning_rate, "seed": seed}
    config: Any = training_config(network.config, args.dataset, **options)
    part = slice(None, None, args.every)
    data = replace(data, inputs=data.inputs[part], labels=data.labels[part])
    trainer = VariantTrainer(network, data, config, state)
    for _ in range(config.epochs):
        trainer.train_epoch(lambda step, loss: None)
    minutes = (time.process_time() - start) / 60
    facts = {"training": asdict(config), "minutes": minutes}
    save_network(folder, trainer.network.eval(), facts)
    return minutes


def new_network(args: Args, data: Split, seed: int) -> MainNetwork:
    """Return a network as it is before its training."""
    torch.manual_seed(seed)
    if args.start_from is not None:
        network = load_network(args.start_from / folder_name("no FPI", seed))[0]
        return cast(MainNetwork, network)
    spec = dataset_spec(args.dataset)
    architecture = make_config(spec.preset, spec.in_shape, spec.num_classes)
    return MainNetwork(replace(architecture, vocabulary=data.vocabulary))


def folder_name(variant: str, seed: int) -> str:
    """Return the name of the folder of a network."""
    return f"{variant.replace(' ', '-')}-{seed}"


def columns(dataset: str) -> Columns:
    """Return what the table of a data set shows."""
    name, unit = METRICS[dataset]
    form = ".2f" if unit else ".1f"
    return {
        "iterated": ("variant", ""),
        f"plain pass, {name}": ("plain", form),
        **{f"K = {k}{unit}": (f"K = {k}", form) for k in range(4)},
        "loss": ("loss", ".3f"),
        "gain, nats": ("gain", ".4f"),
        "compute": ("compute", ".2f"),
        "iterations": ("steps", ".2f"),
        "converged, %": ("converged", ".1f"),
        "minutes": ("minutes", ".1f"),
    }


CONTRACTION = {
    "iterated": ("variant", ""),
    "layer": ("layer", "d"),
    "median": ("median", ".3f"),
    "largest": ("largest", ".3f"),
}


def summary(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[str, Any]:
    """Return means over the seeds of a variant; of what it is judged by, the range."""
    own = [row for row in rows if row["variant"] == variant]
    metric, last = METRICS[own[0]["dataset"]][0], last_level(own[0])
    means: dict[str, Any] = {"variant": variant}
    for name in ("plain", *(name for name in own[0] if name.startswith("K = "))):
        means[name] = spread([row[name][metric] for row in own])
    for name in ("loss", "compute", "steps", "converged"):
        means[name] = float(np.mean([row[last][name] for row in own]))
    means["gain"] = spread([row["gain"]["mean"] for row in own])
    return means | {"minutes": float(np.mean([row["minutes"] for row in own]))}


def last_level(row: Mapping[str, Any]) -> str:
    """Return the name of the most iterations that were measured."""
    return [name for name in row if name.startswith("K = ")][-1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, lowest and highest value."""
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def contractions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the contraction of every layer that is iterated; of medians the mean."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        for each in row["contraction"]:
            found.setdefault((row["variant"], each["layer"]), []).append(each)
    return [
        {
            "variant": variant,
            "layer": layer,
            "median": float(np.mean([each["median"] for each in own])),
            "largest": max(each["largest"] for each in own),
        }
        for (variant, layer), own in found.items()
    ]


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return accuracy and loss of every network, in its state, beside its variant."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("accuracy", "loss"),
        ("accuracy, %", "loss, nats"),
        strict=True,
    ):
        for place, variant in enumerate(variants):
            own = [row for row in rows if row["variant"] == variant]
            values = [row[last_level(row)][name] for row in own]
            axes.plot([place] * len(values), values, "o", color="C0", alpha=0.6)
            axes.plot(place, np.mean(values), "_", color="C1", markersize=24)
        axes.set_xticks(range(len(variants)), variants)
        axes.set_ylabel(f"test {label}")
        axes.set_xlabel("iterated (dots: seeds, bars: their means)")
    return figure


if __name__ == "__main__":
    main(tyro.cli(Args))
