"""What is iterating an encoder layer worth? Chains of references, with controls.

    python -m benchmarks.attention --results benchmarks/results/attention.json

Networks of the preset `text-transformer`, one layer, are trained in several ways, and
each is then measured: right after K iterations; steps of solves and of their tokens;
how much the layer contracts; and how well the implicit gradient agrees with the
unrolled one.

Axes: n texts, T tokens.
"""

import copy
import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.report import table
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import training_config
from dynalay_gym.data.chains import VOCABULARY
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.encoder import EncoderLayer
from dynalay_gym.networks.layers.token_solve import TokenResult
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import loss_of_states
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
STEPS = (0, 1, 2, 3, 4, 8)


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
    found: dict[str, float] = {}
    for steps in STEPS:
        right = is_right(network, split, SolverConfig(rtol=1e-9, max_steps=steps))
        found[f"K = {steps}"] = percent(right)
        for needs in (1, 2, 3):
            found[f"K = {steps}, needs {needs}"] = percent(
                right[split.difficulty == needs]
            )
    found["solved"] = percent(is_right(network, split, network.solvers[0]))
    found |= solves(network, split)
    return found | gradients(network, split)


@torch.no_grad()
def is_right(network: MainNetwork, split: Split, solver: SolverConfig) -> Tensor:
    """Return which texts are answered rightly, bool [n]."""
    answers = network.forward_path(split.inputs, 1, solver).argmax(1)
    return answers == split.labels


@torch.no_grad()
def solves(network: MainNetwork, split: Split) -> dict[str, float]:
    """Return how long texts and tokens iterate, and how much the layer contracts."""
    layer = network.main_layers[0]
    assert isinstance(layer, EncoderLayer)
    stem = network.stem(split.inputs)
    state = layer.plain(stem, 0)
    solver = replace(network.solvers[0], max_steps=30)
    result = layer.iterate(stem, state, 0, solver)[1]
    assert isinstance(result, TokenResult)
    taken, chain = result.token_steps.double(), on_chain(split.inputs)
    found = {
        "steps": float(result.num_steps.double().mean()),
        "converged": percent(result.status == 0),
        "within its steps": percent(result.num_steps <= network.solvers[0].max_steps),
        "question": float(taken[:, -1].mean()),
        "on the chain": float(taken[:, :-1][chain].mean()),
        "off the chain": float(taken[:, :-1][~chain].mean()),
        "bound": float(layer.recurrence.layer.modulus_bound()),
    }
    for needs in (1, 2, 3, 4):
        rows = split.difficulty == needs
        found[f"steps, needs {needs}"] = float(taken[rows].amax(1).mean())
        found[f"question, needs {needs}"] = float(taken[rows, -1].mean())
    once = layer.recurrence.check(layer._inject(stem, state, 0), result.value, solver)
    found["residual, all tokens"] = float(once.residual.double().quantile(0.95))
    return found | moduli(layer, layer._inject(stem, state, 0))


@torch.no_grad()
def moduli(layer: EncoderLayer, x: Tensor) -> dict[str, float]:
    """Return by how much steps shrink, in the largest norm of a token.

    The seventh step over the sixth, and the largest ratio for small random changes.
    """
    inner, x = layer.recurrence.layer, x[:, :-1, :, 0].mT.contiguous()
    iterates = [x]
    for _ in range(8):
        iterates.append(inner.apply_once(iterates[-1], x))

    def size(change: Tensor) -> Tensor:
        length: Tensor = change.norm(dim=2).amax(1)
        return length

    steps = [size(b - a) for a, b in pairwise(iterates)]
    ratio = steps[6] / steps[5]
    gap = 1e-3 * torch.randn_like(x)
    moved = inner.apply_once(iterates[-1] + gap, x) - inner.apply_once(iterates[-1], x)
    return {
        "modulus, median": float(ratio.median()),
        "modulus, 95 %": float(ratio.quantile(0.95)),
        "modulus, random": float((size(moved) / size(gap)).max()),
    }


def gradients(network: MainNetwork, split: Split, num: int = 500) -> dict[str, float]:
    """Return the cosine of the implicit and the unrolled gradient of the weights.

    In double precision, of the loss of those of some texts whose solves come to a fixed
    point; and their share. Elsewhere there is no solution to differentiate.
    """
    own = copy.deepcopy(network).double()
    exact: Any = {"rtol": 1e-9, "max_steps": 400}
    layer, stem = own.main_layers[0], own.stem(split.inputs[:num])
    with torch.no_grad():
        solver = SolverConfig(**exact)
        result = layer.iterate(stem, layer.plain(stem, 0), 0, solver)[1]
    rows, found = (result.status == 0).nonzero()[:, 0], list[Tensor]()
    if len(rows) == 0:
        return {"have a solution": 0.0}
    inputs, labels = split.inputs[rows], split.labels[rows]
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        own.zero_grad()
        options = exact | {"adjoint_rtol": 1e-9, "adjoint_max_steps": 400}
        solver = SolverConfig(**options, rule=rule)
        loss_of_states(own, inputs, labels, {1: 1.0}, solver).backward()
        grads = [w.grad for w in own.parameters() if w.grad is not None]
        found.append(torch.cat([grad.flatten() for grad in grads]))
    alike = float(torch.cosine_similarity(found[0], found[1], dim=0))
    return {"cosine": alike, "have a solution": percent(result.status == 0)}


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


def percent(right: Tensor) -> float:
    """Return the share of what is true, in %."""
    return 100 * float(right.double().mean())


OPTIONS = {"batch_size": 256, "learning_rate": 3e-3, "weight_decay": 1e-3}
ACCURACY = {f"K = {steps}": (f"K = {steps}", ".1f") for steps in STEPS} | {
    "solved": ("solved", ".1f")
}
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
