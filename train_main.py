"""Train a network: data, network, optimiser steps, checkpoint, TensorBoard."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.residual.config import Depths, Widths
from dynalay_gym.storage import run_folder
from dynalay_gym.storage.io import make_run_dir
from dynalay_gym.storage.metrics import MetricWriter, run_metadata
from dynalay_gym.utils.flags import short_errors
from dynalay_gym.utils.ranges import (
    BatchSize,
    Count,
    Iterations,
    LearningRate,
    NotNegative,
    Seed,
    Share,
    Threads,
    Tolerance,
    check_fields,
)
from dynalay_gym.utils.scripts import run_script

if TYPE_CHECKING:  # what loads torch is imported when it is needed
    from dynalay_gym.cotraining.new_training import AnyTrainer, Splits
    from dynalay_gym.networks.lcnet.config import GateConfig


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a network whose layers can be iterated, or whose blocks can be skipped."""

    dataset: str = "digits"
    """digits, fashion-mnist, cifar10, cifar100, maze, maze-hopeless, chains, sudoku,
    sudoku6, sudoku9, imdb or wikitext2."""
    preset: str | None = None
    """digits, small, paper, maze, chains, sudoku, transformer, text-transformer,
    reviews or language; residual networks: fast, resnet20, resnet32 or resnet18; the
    data set's own if not given."""
    start_from: Path | None = None
    """Folder of a network to go on with, in place of a preset and random weights."""
    gates: Literal["layers", "channels", "both"] | None = None
    """Put gates on the blocks of the residual network of --start-from, on channels
    inside them, or on both, and train them."""
    gate_kind: Literal["scale", "binary"] | None = None
    """Gates. scale: what is open is multiplied by a number up to 1; binary: they are 0
    or 1; scale if not given."""
    gate_gradient: Literal["straight-through", "policy-gradient"] | None = None
    """How binary gates learn. straight-through: from the loss, as if they were
    sigmoids; policy-gradient: they are drawn, and learn by REINFORCE; straight-through
    if not given."""
    static_gates: bool = False
    """Gates: the same ones for every input, which is what gates have to beat."""
    target: Share | None = None
    """Gates: mean share of the open network's multiply-adds; 0.5 if not given."""
    epochs: Count | None = None
    """Passes over the main split; 16 for digits and chains, 8 for mazes and residual
    networks, 7 for WikiText-2, 4 for Sudokus, gates and IMDB, 20 elsewhere, if not
    given."""
    batch_size: BatchSize | None = None
    """Samples of a batch; 256 for residual networks and gates, 32 for WikiText-2, else
    128, if not given."""
    learning_rate: LearningRate | None = None
    """Peak of the schedule; 0.3 for residual networks, 0.1 for gates (SGD), 3e-3 for
    Sudokus, IMDB and WikiText-2, else 5e-3 (AdamW), if not given."""
    weight_decay: NotNegative | None = None
    """Weight decay; 5e-4 for residual networks and gates, 0.3 for IMDB, 0.1 for
    WikiText-2, else 5e-3, if not given."""
    dropped_words: Share | None = None
    """Texts: share of the words that are made unknown; 0.1 for WikiText-2, 0.5 for
    IMDB, if not given."""
    skip_rate: Share | None = None
    """Residual networks: largest chance that a block is left out for a sample; 0 if not
    given."""
    distillation: Share | None = None
    """Residual networks and gates: share of the loss that compares with the answers of
    the network of --start-from; 0, and 0.5 for gates, if not given."""
    iterated: tuple[Count, ...] | None = None
    """Residual networks: numbers of the blocks, from 1, that can be iterated to a fixed
    point."""
    paths: Literal["all", "mixed", "portions"] | None = None
    """States trained in every step: all, mixed (plain, full and one random) or portions
    (mixed, with solves of random length); all for digits, portions for mazes, chains
    and networks that attend, mixed elsewhere, if not given."""
    rtol: Tolerance | None = None
    """Relative tolerance of a solve; the preset's if not given."""
    max_steps: Iterations | None = None
    """Most iterations of a solve; the preset's if not given."""
    widths: Widths | None = None
    """Residual networks: channels of each stage; the preset's if not given."""
    depths: Depths | None = None
    """Residual networks: blocks of each stage; the preset's if not given."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast."""
    seed: Seed = 0
    """Seed of weights, order of samples, augmentation and states; not of the splits."""
    device: str = "auto"
    """auto, cpu or cuda. auto: a GPU if there is one, but for digits, mazes, chains and
    Sudokus, whose networks are so small that a GPU is slower, the CPU."""
    num_threads: Threads | None = None
    """CPU threads; 1 for digits, mazes, chains and Sudokus (small work: more are
    slower), else PyTorch's own number."""
    data_dir: Path | None = None
    """Folder of the data files."""
    download: Annotated[bool, tyro.conf.arg(help="Download missing data.")] = True
    log_dir: Path = Path("runs")
    """Where the run's folder is made."""
    resume: Path | None = None
    """Run folder to continue; give the same other options."""


def parse() -> Args:
    """Read the command line."""
    with short_errors():
        return tyro.cli(Args)


# Options that may differ when a run is resumed: where things are, and what runs them.
_FREE = ("device", "num_threads", "data_dir", "download", "log_dir", "resume")


def main(args: Args) -> None:
    """Check, build, train, export; beside other processes if torchrun started them."""
    check_fields(args, "")
    settings = {name: each for name, each in asdict(args).items() if name not in _FREE}
    if args.resume is not None:
        run_folder.check_same(args.resume, settings)
    from dynalay_gym.cotraining import main_training
    from dynalay_gym.utils import processes

    with processes.join() as those:
        trainer, splits = build(args)
        trainer.join(those)
        if those.is_first:
            lead(args, settings, trainer, splits)
        else:
            main_training.follow(trainer, args.resume)


def lead(
    args: Args, settings: dict[str, Any], trainer: "AnyTrainer", splits: "Splits"
) -> None:
    """Train in a folder that is new, or that of the run to be resumed."""
    folder = args.resume or make_run_dir(args.log_dir, args.dataset, "main")
    with run_folder.lock(folder), run_folder.resumable(folder):
        sizes: dict[str, int] | None = None
        if args.resume is None:
            run_folder.write_settings(folder, settings)
        elif run_folder.begins_again(folder, results=("best",)):
            sizes = {}
        else:
            sizes = trainer.load(folder / run_folder.STATE)
        run(args, trainer, splits, folder, sizes)


def run(
    args: Args,
    trainer: "AnyTrainer",
    splits: "Splits",
    folder: Path,
    sizes: dict[str, int] | None,
) -> None:
    """Train and export in a folder; see `MetricWriter` for the sizes."""
    from dynalay_gym.cotraining import main_training

    print(f"run folder: {folder}")
    print(f"parameters: {sum(p.numel() for p in trainer.network.parameters()):,}")
    about = {
        "dataset": args.dataset,
        "command": "python train_main.py " + " ".join(sys.argv[1:]),
        "training": asdict(trainer.config),
        "environment": run_metadata(),
    }
    with MetricWriter(folder, sizes) as writer:
        main_training.train(trainer, splits["validation"], folder, writer)
        main_training.report(trainer, splits, folder, about, writer)


def build(args: Args) -> "tuple[AnyTrainer, Splits]":
    """Check every option, load the data and build the network; writes nothing."""
    import torch

    from dynalay_gym.cotraining import new_training

    is_small = dataset_spec(args.dataset).embedded
    names = "iterated rtol max_steps widths depths"
    start, own = args.start_from, pick(args, names)
    architecture = new_training.network_config(
        args.dataset, args.preset, start, gates(args), **own
    )
    names = "epochs batch_size learning_rate weight_decay dropped_words paths"
    of_blocks = "skip_rate target distillation gate_gradient"
    options = pick(args, f"{names} {of_blocks} precision seed")
    config = new_training.training_config(architecture, args.dataset, **options)
    if args.num_threads or is_small:
        torch.set_num_threads(args.num_threads or 1)
    splits = new_training.load_splits(
        args.dataset, args.device, data_dir=args.data_dir, download=args.download
    )
    main = splits.pop("main")
    return new_training.new_trainer(architecture, config, main, start), splits


def pick(args: Args, names: str) -> dict[str, Any]:
    """Return some options by name."""
    return {name: getattr(args, name) for name in names.split()}


def gates(args: Args) -> "GateConfig | None":
    """Return the gates that are asked for."""
    from dynalay_gym.networks.lcnet.config import GateConfig

    if args.gates is None:
        if args.gate_kind is not None or args.static_gates:
            raise ConfigError(
                "--gate-kind and --static-gates are of --gates; give that, or leave "
                "them out"
            )
        return None
    layers, channels = (args.gates in (part, "both") for part in ("layers", "channels"))
    kind = args.gate_kind or "scale"
    return GateConfig(
        layers=layers, channels=channels, kind=kind, per_input=not args.static_gates
    )


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse())))
