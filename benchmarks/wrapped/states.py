"""Accuracy of a wrapped network when one block is skipped, and what iterating one does.

python -m benchmarks.wrapped.states --network resnet18 --out states.json
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.wrapped.network import load
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.networks.wrapped.contraction import measure_contraction
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

_ROWS = 250
_MODES = ("run", "skip", "iterate")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the states of a network."""

    network: Path
    """Folder of the weights."""
    out: Path
    """JSON file for the results."""
    data_dir: Path | None = None
    """Folder of the data files."""
    num_iterated: int = 1000
    """Test images on which blocks are iterated."""


def main(args: Args) -> None:
    """Measure, print a row per state and write the JSON."""
    torch.set_num_threads(1)
    split = load_split("cifar10", "test", data_dir=args.data_dir)
    network, rows = load(args.network, modes=_MODES), list[dict[str, Any]]()
    blocks = range(len(network.names))
    chosen: list[tuple[str, Sequence[int]]] = [("nothing skipped", ())]
    chosen += [(f"{network.names[level]} skipped", (level,)) for level in blocks]
    chosen.append(("all skipped", blocks))
    for name, skipped in chosen:
        right = answers(network, split, skipped)
        low, high = bootstrap_interval(right)
        accuracy, macs = float(right.mean()), macs_without(network, skipped)
        row = {"state": name, "accuracy": accuracy, "low": low, "high": high}
        rows.append(row | {"macs": macs})
        print(f"{name}: {accuracy:.2%} ({low:.2%} to {high:.2%}), {macs:,} MACs")
    iterated: list[dict[str, Any]] = iterate_each(
        network, split.inputs[: args.num_iterated]
    )
    labels = split.labels[: args.num_iterated].numpy()
    contraction = measure_contraction(network, split.inputs[: args.num_iterated])
    for entry, measured in zip(iterated, contraction, strict=True):
        answered = entry.pop("logits").argmax(1).numpy()
        entry["accuracy"] = float((answered == labels).mean())
        entry |= asdict(measured)
        print(entry, flush=True)
    about = {"network": args.network.name, "environment": run_metadata()}
    write_json(args.out, about | {"states": rows, "iterated": iterated})


@torch.no_grad()
def answers(network: WrappedNetwork, split: Split, skipped: Sequence[int]) -> Any:
    """Return whether each sample is answered rightly, float [n]."""
    network.eval()
    right = list[Tensor]()
    for rows in torch.arange(len(split)).split(_ROWS):
        values = network.start(split.inputs[rows])
        for level in range(len(network.names)):
            act = network.skip if level in skipped else network.run
            values = network.advance(level, act(level, values), values)
        right.append(network.answer(values).argmax(1) == split.labels[rows])
    return torch.cat(right).double().numpy()


def macs_without(network: WrappedNetwork, skipped: Sequence[int]) -> int:
    """Return the multiply-adds of one image when some blocks are skipped."""
    pairs = enumerate(zip(network.block_macs, network.shortcut_macs, strict=True))
    parts = [left if level in skipped else block for level, (block, left) in pairs]
    return sum(network.piece_macs) + sum(parts)


@torch.no_grad()
def iterate_each(network: WrappedNetwork, inputs: Tensor) -> list[dict[str, Any]]:
    """Return the logits when one block is iterated and the others run, for each."""
    found = list[dict[str, Any]]()
    for chosen, modes in enumerate(network.choices):
        if "iterate" not in modes:
            continue
        parts = list[Tensor]()
        for rows in inputs.split(_ROWS):
            values = network.start(rows)
            for level in range(len(network.names)):
                if level == chosen:
                    output, _ = network.iterate(level, values)
                else:
                    output = network.run(level, values)
                values = network.advance(level, output, values)
            parts.append(network.answer(values))
        found.append({"iterated": network.names[chosen], "logits": torch.cat(parts)})
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
