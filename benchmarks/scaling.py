"""Steps of a training by one process and by several, in turn, on the same machine.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.scaling --out found.json

In every round the first process takes some steps alone while the others wait, then all
take as many together, on the same batches. Medians over rounds. Where the machine does
other work as well, several processes get more of it than one does: the processor's
time, summed over them, says what sharing a step costs, however busy it is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.report import table
from dynalay_gym.cotraining.new_training import (
    AnyTrainer,
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata
from dynalay_gym.utils.processes import Processes, join
from dynalay_gym.utils.ranges import Count, check_fields

# Data set, whose shapes random images have, and preset.
NETWORKS = (("digits", "digits"), ("cifar10", "small"), ("cifar10", "fast"))
COLUMNS = {
    "network": ("network", ""),
    "weights": ("weights", ",d"),
    "one": ("one_ms", ".0f"),
    "together": ("together_ms", ".0f"),
    "averaging": ("averaging_ms", ".1f"),
    "one, CPU": ("one_cpu_ms", ".0f"),
    "together, CPU": ("together_cpu_ms", ".0f"),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time steps of one process against steps of all; start it by torchrun."""

    out: Path | None = None
    """JSON file for the results."""
    rounds: Count = 7
    """Turns of each."""
    steps: Count = 4
    """Steps of a turn."""


def main(args: Args) -> None:
    """Measure all networks; the first process prints a table and writes the JSON."""
    check_fields(args, "")
    torch.set_num_threads(1)
    with join() as those:
        rows = [measure(args, those, *names) for names in NETWORKS]
    if not those.is_first:
        return
    print(f"{those.size} processes\n\n{table(COLUMNS, rows)}")
    if args.out is not None:
        about = {"rounds": args.rounds, "steps": args.steps}
        facts = {"args": about, "environment": run_metadata()}
        write_json(args.out, facts | {"processes": those.size, "rows": rows})


def measure(args: Args, those: Processes, dataset: str, preset: str) -> dict[str, Any]:
    """Return milliseconds of a step of one network, by who takes it."""
    alone, together = (make_trainer(args, dataset, preset) for _ in range(2))
    together.join(those)
    together.agree()
    num_weights = sum(weight.numel() for weight in alone.network.parameters())
    message = torch.zeros(num_weights)
    turns: dict[str, Callable[[], object]] = {
        "one": lambda: take_epoch(alone) if those.is_first else None,
        "together": lambda: take_epoch(together),
        "averaging": lambda: average(those, message, args.steps),
    }
    times = [
        [take_turn(those, each) for each in turns.values()]
        for _ in range(args.rounds + 1)
    ]
    medians = 1000 * np.median(times[1:], axis=0) / args.steps  # the first one warms up
    found = {"network": f"{dataset}, {preset}", "weights": num_weights}
    for name, (wall, processor) in zip(turns, medians.tolist(), strict=True):
        found |= {f"{name}_ms": wall, f"{name}_cpu_ms": processor}
    return found


def make_trainer(args: Args, dataset: str, preset: str) -> AnyTrainer:
    """Return the training of a preset on random images."""
    spec = dataset_spec(dataset)
    architecture = network_config(dataset, preset)
    config = training_config(architecture, dataset, epochs=args.rounds + 1)
    num = args.steps * config.batch_size
    source = torch.Generator().manual_seed(0)
    images = torch.randn(num, *spec.in_shape, generator=source)
    labels = torch.randint(spec.num_classes, (num,), generator=source)
    return new_trainer(
        architecture, config, Split(inputs=images, labels=labels, name="main")
    )


def take_epoch(trainer: AnyTrainer) -> None:
    """Take the steps of a turn."""
    trainer.train_epoch(lambda step, loss: None)


def average(those: Processes, message: Tensor, times: int) -> None:
    """Average as many numbers as a step does, without the step."""
    for _ in range(times):
        those.average([message])


def take_turn(those: Processes, work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds that some work took, and those of all processors for it."""
    those.largest(0)  # begins when all are there
    wall, processor = time.perf_counter(), time.process_time()
    work()
    those.largest(0)
    wall = time.perf_counter() - wall
    total = torch.tensor([time.process_time() - processor], dtype=torch.float64)
    those.average([total])
    return wall, those.size * float(total)


if __name__ == "__main__":
    main(tyro.cli(Args))
