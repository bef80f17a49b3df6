"""Train a main network: data, network, optimiser steps, checkpoint, TensorBoard."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.utils.flags import short_errors
from dynalay_gym.utils.io import make_run_dir, write_json
from dynalay_gym.utils.metrics import MetricWriter, run_metadata
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    Iterations,
    LearningRate,
    NotNegative,
    Seed,
    Threads,
    Tolerance,
    check_fields,
)

if TYPE_CHECKING:  # what loads torch is imported when it is needed
    from dynalay_gym.cotraining.main_training import Splits
    from dynalay_gym.networks.training import MainTrainer


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a main network whose layers can be iterated to a fixed point."""

    dataset: str = "digits"
    """digits, fashion-mnist, cifar10, cifar100, maze or maze-hopeless."""
    preset: str | None = None
    """digits, small, paper or maze; the data set's own if not given."""
    epochs: Count | None = None
    """Passes over the main split; 16 for digits, 8 for mazes, 20 elsewhere, if not
    given."""
    batch_size: BatchSize = 128
    """Samples of a batch."""
    learning_rate: LearningRate = 5e-3
    """Peak of the one-cycle schedule."""
    weight_decay: NotNegative = 5e-3
    """Weight decay of AdamW."""
    paths: Literal["all", "mixed", "portions"] | None = None
    """States trained in every step: all, mixed (plain, full and one random) or portions
    (mixed, with solves of random length); all for digits, portions for mazes, mixed
    elsewhere, if not given."""
    rtol: Tolerance | None = None
    """Relative tolerance of a solve; the preset's if not given."""
    max_steps: Iterations | None = None
    """Most iterations of a solve; the preset's if not given."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast."""
    seed: Seed = 0
    """Seed of weights, order of samples, augmentation and states; not of the splits."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: Threads | None = None
    """CPU threads; 1 for digits and mazes (small work: more are slower), else all."""
    data_dir: Path | None = None
    """Folder of the data files."""
    download: Annotated[bool, tyro.conf.arg(help="Download missing data.")] = True
    log_dir: Path = Path("runs")
    """Where the run's folder is made."""
    resume: Path | None = None
    """Run folder to continue; give the same other options."""


def main(args: Args) -> None:
    """Check, build, train, export."""
    check_fields(args, "")
    from dynalay_gym.cotraining import main_training

    trainer, splits = build(args)
    folder = run_folder(args)
    if args.resume is not None:
        trainer.load(folder / "resume")
    write_json(folder / "config.json", asdict(args))
    print(f"run folder: {folder}")
    print(f"parameters: {sum(p.numel() for p in trainer.network.parameters()):,}")
    about = {
        "dataset": args.dataset,
        "command": "python train_main.py " + " ".join(sys.argv[1:]),
        "training": asdict(trainer.config),
        "environment": run_metadata(),
    }
    with MetricWriter(folder) as writer:
        main_training.train(trainer, splits["validation"], folder, writer)
        main_training.report(trainer, splits, folder, about, writer)


def build(args: Args) -> "tuple[MainTrainer, Splits]":
    """Check every option, load the data and build the network; writes nothing."""
    import torch

    from dynalay_gym.cotraining import main_training

    is_small = dataset_spec(args.dataset).embedded
    solver = {"rtol": args.rtol, "max_steps": args.max_steps}
    architecture = main_training.network_config(args.dataset, args.preset, **solver)
    names = "batch_size learning_rate weight_decay paths precision seed"
    options = main_training.training_config(
        args.dataset,
        epochs=args.epochs,
        **{name: getattr(args, name) for name in names.split()},
    )
    if args.num_threads or is_small:
        torch.set_num_threads(args.num_threads or 1)
    splits = main_training.load_splits(
        args.dataset, args.device, data_dir=args.data_dir, download=args.download
    )
    main = splits.pop("main")
    return main_training.fresh_trainer(architecture, options, main), splits


def run_folder(args: Args) -> Path:
    """Return the folder to resume, or a new one."""
    if args.resume is None:
        return make_run_dir(args.log_dir, args.dataset, "main")
    if not (args.resume / "resume").is_dir():
        raise ConfigError(
            f"nothing to resume in {args.resume}; give the run folder that "
            "train_main.py printed"
        )
    return args.resume


if __name__ == "__main__":
    try:
        with short_errors():
            args = tyro.cli(Args)
        main(args)
    except DynaLayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; go on with --resume and the run folder", file=sys.stderr)
        sys.exit(130)
