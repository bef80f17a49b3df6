"""What is iterating encoder layers worth on images that are cut into patches?

    python -m benchmarks.attention.patches --checkpoints runs/cifar10/main/0/best \
        --results benchmarks/results/attention-patches.json

Trained networks of the preset `transformer` are measured: right in every state, and
after K iterations of both layers; which patches settle first; how much the layers
contract; and how well the implicit gradient agrees with the unrolled one.

Axes: n images, T patches.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from benchmarks.attention.measures import (
    ACCURACY,
    accuracies,
    gradients,
    is_right,
    moduli,
    percent,
    solve_layers,
)
from benchmarks.report import table
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

_SHADES = 4  # groups of patches, from flat to full of contrast


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure trained networks."""

    checkpoints: tuple[Path, ...]
    """Folders of networks."""
    dataset: str = "cifar10"
    """A data set of images."""
    data_dir: Path | None = None
    """Folder of the data files."""
    num_solved: int = 1000
    """Test images whose solves are looked into."""
    num_gradients: int = 40
    """Test images whose gradients are compared."""
    results: Path | None = None
    """JSON file of the figures."""


def main(args: Args) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    split = load_split(args.dataset, "test", data_dir=args.data_dir)
    rows = list[dict[str, Any]]()
    for folder in args.checkpoints:
        network, _ = load_main_network(folder)
        if network.config.form != "attention" or network.config.reads_texts:
            raise ConfigError(f"{folder} has no network of the preset transformer")
        found = measure(network.eval(), split, args.num_solved, args.num_gradients)
        rows.append({"network": str(folder)} | found)
        print(rows[-1], flush=True)
        if args.results is not None:
            write_json(args.results, {"environment": run_metadata(), "rows": rows})
    print(table({"network": ("network", "")} | ACCURACY, rows))


def measure(
    network: MainNetwork, split: Split, num_solved: int, num_gradients: int
) -> dict[str, Any]:
    """Return all figures of a network, by name."""
    right = is_right(network, split, None)
    found: dict[str, Any] = accuracies(network, split)
    found["interval"] = [
        100 * end for end in bootstrap_interval(right.double().numpy())
    ]
    found["layers"] = solves(network, split, right, num_solved)
    return found | gradients(network, split, num_gradients)


@torch.no_grad()
def solves(
    network: MainNetwork, split: Split, right: Tensor, num: int
) -> list[dict[str, Any]]:
    """Return how long patches of the first images iterate in each layer, bottom up.

    Args:
        network: A network of encoder layers over patches.
        split: Images.
        right: Which images are answered rightly with all layers iterated, bool [n].
        num: Images that are looked into.
    """
    solver, images = replace(network.solvers[0], max_steps=30), split.inputs[:num]
    shade = by_contrast(images, network.config.stem_stride)
    return [
        {
            "steps": float(result.num_steps.double().mean()),
            "converged": percent(result.status == 0),
            "within its steps": percent(result.num_steps <= most),
            "steps of a patch": float(result.token_steps.double().mean()),
            "by position": by_position(result.token_steps, network),
            "by contrast": [
                float(result.token_steps[shade == group].double().mean())
                for group in range(_SHADES)
            ],
            "answer right": float(result.token_steps[right[:num]].double().mean()),
            "answer wrong": float(result.token_steps[~right[:num]].double().mean()),
        }
        | moduli(layer, x)
        for (layer, x, result), most in zip(
            solve_layers(network, images, solver),
            network.config.layer_steps,
            strict=True,
        )
    ]


def by_position(steps: Tensor, network: MainNetwork) -> list[list[float]]:
    """Return the mean steps [n, T] of a patch over images, by row and column."""
    sides = network.encoder_stem.sides
    means: list[list[float]] = steps.double().mean(0).view(sides).tolist()
    return means


def by_contrast(images: Tensor, side: int) -> Tensor:
    """Return the quarter of all patches that each belongs to, int64 [n, T].

    Ordered by the standard deviation over a patch's pixels and channels, the flattest
    first.
    """
    patches = F.pixel_unshuffle(images, side).flatten(2).std(1)
    rank = patches.flatten().argsort().argsort()
    return (rank * _SHADES // rank.numel()).view(patches.shape)


if __name__ == "__main__":
    main(tyro.cli(Args))
