"""Train the ResNet-18 that is wrapped, or go on with one and leave blocks out.

    python -m benchmarks.wrapped.train --out resnet18 --epochs 8
    python -m benchmarks.wrapped.train --out skipping --start-from resnet18 --epochs 2

With ``--start-from``, blocks are left out at random.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.trainings import train_to_end
from benchmarks.wrapped.network import load, save, wrapped_resnet18
from dynalay_gym.cotraining.new_training import load_splits
from dynalay_gym.data.splits import Split
from dynalay_gym.networks.residual.training import ResidualTrainingConfig
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.networks.wrapped.training import WrappedTrainer

_FROM_SCRATCH = {"learning_rate": 0.2, "skip_rate": 0.0, "distillation": 0.0}
_GO_ON = {"learning_rate": 0.05, "skip_rate": 0.7, "distillation": 0.5}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a network, or go on with one."""

    out: Path
    """Folder of the weights."""
    start_from: Path | None = None
    """Folder of the network to go on with."""
    epochs: int = 10
    """Passes over the main split."""
    learning_rate: float | None = None
    """Peak of the schedule; 0.05 with start_from, else 0.2."""
    skip_rate: float | None = None
    """Largest chance that a block is left out; 0.7 with start_from, else 0."""
    distillation: float | None = None
    """Share of the loss that compares with the network at the start; the same, 0.5."""
    seed: int = 0
    """Seed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast."""
    data_dir: Path | None = None
    """Folder of the data files."""
    threads: int = 1
    """Threads of PyTorch."""


def main(args: Args) -> None:
    """Train, with the accuracy of the whole network after each epoch."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    splits = load_splits("cifar10", "cpu", data_dir=args.data_dir)
    config = _options(args)
    network = load(args.start_from) if args.start_from else wrapped_resnet18()
    trainer = WrappedTrainer(network, splits["main"], config)

    def report() -> None:
        share = whole_accuracy(network, splits["validation"])
        print(f"epoch {trainer.epoch}: validation {share:.2%}", flush=True)

    minutes = train_to_end(trainer, report)
    print(f"test {whole_accuracy(network, splits['test']):.2%}, {minutes:.1f} minutes")
    save(args.out, network, {"training": asdict(config), "minutes": minutes})


def _options(args: Args) -> ResidualTrainingConfig:
    """Return the training's options."""
    defaults = _GO_ON if args.start_from else _FROM_SCRATCH
    own = {name: getattr(args, name) for name in defaults}
    given = {name: value for name, value in own.items() if value is not None}
    return ResidualTrainingConfig(
        augment=True,
        epochs=args.epochs,
        seed=args.seed,
        precision=args.precision,
        **(defaults | given),
    )


@torch.no_grad()
def whole_accuracy(network: WrappedNetwork, split: Split) -> float:
    """Return the share of a split that the network answers rightly when all runs."""
    network.eval()
    right = 0
    for rows in torch.arange(len(split)).split(256):
        right += int(
            (network(split.inputs[rows]).argmax(1) == split.labels[rows]).sum()
        )
    return right / len(split)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
