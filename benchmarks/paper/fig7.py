"""DynaLay's figure 7: three stacked LSTM layers, and which of them is iterated.

    python -m benchmarks.paper.fig7 --folder fig7 --data-dir DATA

Trains and measures a network for every variant and seed, unless the folder has it: one
without iteration, one for each layer that alone is iterated, and one for all three.
Then it prints the table. Several processes may share a folder, each with its own seeds.

Axes: n texts.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.report import table
from dynalay_gym.cotraining.new_training import load_splits, training_config
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.checkpoint import load_network, save_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import mixed_states
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.sessions.calibration import BATCH
from dynalay_gym.sessions.protocol import begin_macs
from dynalay_gym.sessions.torch_session import TorchSession
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
_TEXTS = 1_000  # from all over the split, on which the contraction is measured


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
    epochs: int | None = None
    """Passes over the main split; as many as train_main.py takes if not given."""
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
        folder = args.folder / f"{variant.replace(' ', '-')}-{seed}"
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
    print(table(COLUMNS, [summary(rows, variant) for variant in args.variants]))
    print(table(CONTRACTION, contractions(rows)))
    if args.results is not None:
        write_json(args.results, {"dataset": args.dataset, "networks": rows})
    if args.figure is not None:
        draw(rows).savefig(args.figure, dpi=110)


def train(args: Args, data: Split, state: int, seed: int, folder: Path) -> float:
    """Train and save the network of a variant; return the processor's minutes."""
    spec = dataset_spec(args.dataset)
    architecture = replace(
        make_config(spec.preset, spec.in_shape, spec.num_classes),
        vocabulary=data.vocabulary,
    )
    options = {"epochs": args.epochs, "seed": seed}
    config: Any = training_config(architecture, args.dataset, **options)
    torch.manual_seed(seed)
    start = time.process_time()
    trainer = VariantTrainer(MainNetwork(architecture), data, config, state)
    for _ in range(config.epochs):
        trainer.train_epoch(lambda step, loss: None)
    minutes = (time.process_time() - start) / 60
    facts = {"training": asdict(config), "minutes": minutes}
    save_network(folder, trainer.network.eval(), facts)
    return minutes


@torch.no_grad()
def measure(network: MainNetwork, split: Split, state_id: int) -> dict[str, Any]:
    """Return what a network answers in its state, at each number of iterations.

    Returns:
        Accuracy in %, cross-entropy in nats, mean compute in plain passes and mean
        iterations by the most iterations K of a solve, and the plain pass's accuracy.
    """
    most = max(network.config.layer_steps)
    found: dict[str, Any] = {"plain": answers(network, split, 0, 0)["accuracy"]}
    numbers = range(most + 1) if state_id else (0,)
    for steps in numbers:
        found[f"K = {steps}"] = answers(network, split, state_id, steps)
    found["contraction"] = [
        contraction(network, split.inputs[:: max(1, len(split) // _TEXTS)], level)
        for level in range(network.num_layers)
        if state_id >> level & 1
    ]
    return found


def answers(
    network: MainNetwork, split: Split, state_id: int, steps: int
) -> dict[str, float]:
    """Return means over a split in one state, with solves of at most some steps."""
    session = TorchSession(network, max_steps=steps)
    totals, plain = torch.zeros(5, dtype=torch.float64), 0
    for start in range(0, len(split), BATCH):
        batch = slice(start, start + BATCH)
        inputs, labels = split.inputs[batch], split.labels[batch]
        state, rows = session.begin(inputs), torch.arange(len(inputs))
        cost = session.reach(state, rows, torch.full_like(rows, state_id))
        logits = session.logits(state, rows)
        ended = (cost.status == SolverStatus.CONVERGED).sum()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(1) == labels).sum()
        sums = right, loss, cost.macs.sum(), cost.solver_steps.sum(), ended
        totals += torch.tensor([float(each) for each in sums], dtype=torch.float64)
        plain += int(begin_macs(session, inputs).sum())
    right, loss, macs, taken, ended = (totals / len(split)).tolist()
    return {
        "accuracy": 100 * right,
        "loss": loss,
        "compute": 1 + macs * len(split) / plain,
        "steps": taken,
        "converged": 100 * ended,
    }


def contraction(network: MainNetwork, inputs: Tensor, level: int) -> dict[str, Any]:
    """Return by how much each iteration shrinks the step of the one before.

    Returns:
        The layer's number, and of ``||z_3 - z_2|| / ||z_2 - z_1||``, z_0 being the
        plain pass, the median and the largest value over the inputs.
    """
    below = network.stem(inputs)
    for layer in network.main_layers[:level]:
        below = layer.plain(below, 0)
    layer = network.main_layers[level]
    solver = replace(network.solvers[level], max_steps=1, rtol=1e-9)
    state, iterates = layer.plain(below, 0), []
    for _ in range(3):
        state, _ = layer.iterate(below, state, 0, solver)
        iterates.append(state.z.flatten(1))
    first, second = (
        (after - before).norm(dim=1) for before, after in pairwise(iterates)
    )
    ratios = (second / first.clamp(min=1e-12)).sort().values
    middle, largest = float(ratios[len(ratios) // 2]), float(ratios[-1])
    return {"layer": level + 1, "median": middle, "largest": largest}


COLUMNS = {
    "iterated": ("variant", ""),
    "plain pass, %": ("plain", ".2f"),
    **{f"K = {k}, %": (f"K = {k}", ".2f") for k in range(4)},
    "loss": ("loss", ".3f"),
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
    """Return means over the seeds of a variant, accuracies with their range."""
    own = [row for row in rows if row["variant"] == variant]
    last = last_level(own[0])
    means: dict[str, Any] = {"variant": variant, "plain": spread(own, "plain")}
    for name in (name for name in own[0] if name.startswith("K = ")):
        means[name] = spread([row[name] for row in own], "accuracy")
    for name in ("loss", "compute", "steps", "converged"):
        means[name] = float(np.mean([row[last][name] for row in own]))
    return means | {"minutes": float(np.mean([row["minutes"] for row in own]))}


def last_level(row: Mapping[str, Any]) -> str:
    """Return the name of the most iterations that were measured."""
    return [name for name in row if name.startswith("K = ")][-1]


def spread(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return mean, lowest and highest value."""
    values = [row[name] for row in rows]
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
