"""What is iterating an encoder layer worth? Chains of references, with controls.

    python -m benchmarks.attention.chains --results benchmarks/results/attention.json

Networks of the preset `text-transformer`, one layer, are trained in several ways, and
each is then measured: right after K iterations; steps of solves and of their tokens;
how much the layer contracts; and how well the implicit gradient agrees with the
unrolled one.

Axes: n texts, T tokens.
"""

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.attention.measures import (
    ACCURACY,
    STEPS,
    accuracies,
    gradients,
    is_right,
    moduli,
    percent,
    solve_layers,
)
from benchmarks.report import table
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import training_config
from dynalay_gym.data.chains import VOCABULARY
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import MainTrainer
from dynalay_gym.storage.io import write_json

# Changes to the architecture, and the states that are trained.
ARMS: dict[str, tuple[dict[str, Any], str]] = {
    "iterated": ({}, "portions"),
    "iterated, implicit gradient": ({}, "mixed"),
    "iterated, certified": ({"certified": True}, "portions"),
    "never iterated (K = 0)": ({"max_steps": 0}, "mixed"),
    "iterated once (K = 1)": ({"max_steps": 1}, "portions"),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train networks, measure each, and print."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Ways of training."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the networks."""
    epochs: int = 8
    """Passes over the main split."""
    checkpoints: tuple[Path, ...] = ()
    """Folders of networks that are measured beside them, as arm `iterated`."""
    results: Path | None = None
    """JSON file of the figures; those that it has are kept."""


def main(args: Args) -> None:
    """Train what is missing, measure, print."""
    torch.set_num_threads(1)
    unknown = sorted(set(args.arms) - set(ARMS))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose of {[*ARMS]}")
    splits = {name: load_split("chains", name) for name in ("main", "test")}
    rows: list[dict[str, Any]] = []
    if args.results is not None and args.results.exists():
        rows = json.loads(args.results.read_text("utf-8"))
    units: list[tuple[str, Any]] = [("iterated", path) for path in args.checkpoints]
    for arm, unit in [*units, *product(args.arms, args.seeds)]:
        key = {"arm": arm, "network": str(unit), "epochs": args.epochs}
        if any(row.items() >= key.items() for row in rows):
            continue
        if isinstance(unit, Path):
            network, minutes = load_main_network(unit)[0], 0.0
        else:
            network, minutes = trained(arm, splits["main"], args.epochs, unit)
        rows.append(key | {"minutes": minutes} | measure(network, splits["test"]))
        if args.results is not None:
            write_json(args.results, rows)
        print(rows[-1], flush=True)
    for columns in (ACCURACY, SOLVES, GRADIENTS):
        print(table({"arm": ("arm", ""), "network": ("network", "")} | columns, rows))


def trained(arm: str, data: Split, epochs: int, seed: int) -> tuple[MainNetwork, float]:
    """Return a trained network, and the processor's minutes that it took."""
    changes, paths = ARMS[arm]
    torch.manual_seed(seed)
    config = make_config("text-transformer", (7,), 5)
    network = MainNetwork(replace(config, vocabulary=data.vocabulary, **changes))
    own: Any = {"epochs": epochs, "seed": seed, "paths": paths} | OPTIONS
    options: Any = training_config(network.config, "chains", **own)
    return network, train_to_end(MainTrainer(network, data, options))


def measure(network: MainNetwork, split: Split) -> dict[str, float]:
    """Return all figures of a network, by name."""
    network.eval()
    found = accuracies(network, split)
    for needs, steps in product((1, 2, 3), STEPS):
        right = is_right(network, split, steps)[split.difficulty == needs]
        found[f"K = {steps}, needs {needs}"] = percent(right)
    return found | solves(network, split) | gradients(network, split)


@torch.no_grad()
def solves(network: MainNetwork, split: Split) -> dict[str, float]:
    """Return how long texts and tokens iterate, and how much the layer contracts."""
    solver = replace(network.solvers[0], max_steps=30)
    [(layer, x, result)] = solve_layers(network, split.inputs, solver)
    taken, chain = result.token_steps.double(), on_chain(split.inputs)
    found = {
        "steps": float(result.num_steps.double().mean()),
        "converged": percent(result.status == 0),
        "within its steps": percent(result.num_steps <= network.solvers[0].max_steps),
        "question": float(taken[:, -1].mean()),
        "on the chain": float(taken[:, :-1][chain].mean()),
        "off the chain": float(taken[:, :-1][~chain].mean()),
    }
    for needs in (1, 2, 3, 4):
        rows = split.difficulty == needs
        found[f"steps, needs {needs}"] = float(taken[rows].amax(1).mean())
        found[f"question, needs {needs}"] = float(taken[rows, -1].mean())
    once = layer.recurrence.check(x, result.value, solver)
    found["residual, all tokens"] = float(once.residual.double().quantile(0.95))
    return found | moduli(layer, x)


def on_chain(tokens: Tensor) -> Tensor:
    """Return which statements lead from a text's question to its answer, [n, T - 1]."""
    found = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
    for row, text in enumerate(VOCABULARY.decode(tokens)):
        *statements, question = text.split()
        says = dict(statement.split("=") for statement in statements)
        name = question[0]
        while name in says:
            found[row, [*says].index(name)] = True
            name = says[name]
    return found


OPTIONS = {"batch_size": 256, "learning_rate": 3e-3, "weight_decay": 1e-3}
SOLVES = {
    "steps": ("steps", ".2f"),
    "converged in 30, %": ("converged", ".1f"),
    "in 8, %": ("within its steps", ".1f"),
    "question": ("question", ".2f"),
    "on the chain": ("on the chain", ".2f"),
    "off the chain": ("off the chain", ".2f"),
    "residual, all tokens": ("residual, all tokens", ".3f"),
}
GRADIENTS = {
    "have a solution, %": ("have a solution", ".1f"),
    "cosine": ("cosine", ".6f"),
    "modulus": ("modulus, median", ".2f"),
    "95 %": ("modulus, 95 %", ".2f"),
    "random": ("modulus, random", ".2f"),
    "bound": ("bound", ".0f"),
    "minutes": ("minutes", ".1f"),
}

if __name__ == "__main__":
    main(tyro.cli(Args))
