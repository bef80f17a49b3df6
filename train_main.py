"""Train a main network: data, network, optimiser steps, checkpoint, TensorBoard."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tqdm import tqdm

from dynalay_gym.data.registry import SPLITS, dataset_spec
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.utils.io import make_run_dir, write_json
from dynalay_gym.utils.metrics import MetricWriter, run_metadata

if TYPE_CHECKING:  # what loads torch is imported when it is needed
    from dynalay_gym.data.splits import Split
    from dynalay_gym.networks.training import MainTrainer

# Epochs and states that suit the preset of a data set; (20, "mixed") otherwise.
_DEFAULTS = {"digits": (16, "all"), "maze": (8, "portions")}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a main network whose layers can be iterated to a fixed point."""

    dataset: str = "digits"
    """digits, fashion-mnist, cifar10, cifar100, maze or maze-hopeless."""
    preset: str | None = None
    """digits, small, paper or maze; the data set's own if not given."""
    epochs: int | None = None
    """Passes over the main split; 16 for digits, 8 for mazes, 20 elsewhere, if not
    given."""
    batch_size: int = 128
    """Samples of a batch."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 5e-3
    """Weight decay of AdamW."""
    paths: str | None = None
    """States trained in every step: all, mixed (plain, full and one random) or portions
    (mixed, with solves of random length); all for digits, portions for mazes, mixed
    elsewhere, if not given."""
    rtol: float | None = None
    """Relative tolerance of a solve; the preset's if not given."""
    max_steps: int | None = None
    """Most iterations of a solve; the preset's if not given."""
    precision: str = "fp32"
    """fp32, or bf16 autocast."""
    seed: int = 0
    """Seed of weights, order of samples, augmentation and states; not of the splits."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: int | None = None
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
    trainer, splits = build(args)
    folder = run_folder(args)
    if args.resume is not None:
        trainer.load(folder / "resume")
    write_json(folder / "config.json", asdict(args))
    print(f"run folder: {folder}")
    print(f"parameters: {sum(p.numel() for p in trainer.network.parameters()):,}")
    with MetricWriter(folder) as writer:
        train(trainer, splits["validation"], folder, writer)
        report(args, trainer, splits, folder, writer)


def build(args: Args) -> "tuple[MainTrainer, dict[str, Split]]":
    """Check every option, load the data and build the network; writes nothing."""
    import torch

    from dynalay_gym.data.splits import load_split
    from dynalay_gym.envs.config import resolve_device
    from dynalay_gym.networks.main_network import MainNetwork
    from dynalay_gym.networks.presets import make_config
    from dynalay_gym.networks.training import MainTrainer, TrainingConfig

    spec = dataset_spec(args.dataset)
    epochs, paths = _DEFAULTS.get(spec.preset, (20, "mixed"))
    config = make_config(args.preset or spec.preset, spec.in_shape, spec.num_classes)
    if args.rtol is not None:
        config = replace(config, rtol=args.rtol)
    if args.max_steps is not None:
        config = replace(config, max_steps=args.max_steps)
    options = TrainingConfig(
        epochs=epochs if args.epochs is None else args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        paths=args.paths or paths,
        augment=not spec.embedded,
        precision=args.precision,
        seed=args.seed,
    )
    device = resolve_device(args.device)
    if args.num_threads is not None and args.num_threads < 1:
        raise ConfigError(f"num_threads must be at least 1, not {args.num_threads}")
    if args.num_threads or spec.embedded:
        torch.set_num_threads(args.num_threads or 1)
    where: dict[str, Any] = {"data_dir": args.data_dir, "download": args.download}
    where["device"] = device
    splits = {name: load_split(spec.name, name, **where) for name in SPLITS}
    torch.manual_seed(args.seed)
    network = MainNetwork(config).to(device)
    return MainTrainer(network, splits.pop("main"), options), splits


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


def train(
    trainer: "MainTrainer", validation: "Split", folder: Path, writer: MetricWriter
) -> None:
    """Train all epochs; validate after each, and save the last and the best network."""
    from dynalay_gym.networks.checkpoint import save_network
    from dynalay_gym.sessions.fastest import fastest_session
    from dynalay_gym.sessions.measure import state_accuracies

    best_path = folder / "best.json"
    best = json.loads(best_path.read_text())["mean"] if best_path.exists() else -1.0
    epochs, per_epoch = trainer.config.epochs, trainer.steps_per_epoch
    done, total = trainer.epoch * per_epoch, epochs * per_epoch
    # disable=None: no bar where nobody watches
    bar = tqdm(total=total, initial=done, unit="step", disable=None)

    def on_step(step: int, loss: float) -> None:
        bar.update()
        if step % 20 == 0:
            writer.scalar("main/loss", loss, step)

    while trainer.epoch < epochs:
        trainer.train_epoch(on_step)
        accuracy = state_accuracies(fastest_session(trainer.network), validation)
        step = trainer.epoch * per_epoch
        writer.scalars({f"main/accuracy/{k}": v for k, v in accuracy.items()}, step)
        rate = trainer.optimizer.param_groups[0]["lr"]
        writer.scalar("main/learning_rate", rate, step)
        plain, *_, always = accuracy.values()
        bar.set_postfix_str(f"validation: plain {plain:.3f} always {always:.3f}")
        mean = sum(accuracy.values()) / len(accuracy)
        if mean > best:
            best = mean
            save_network(folder / "best", trainer.network, {"epoch": trainer.epoch})
            write_json(best_path, {"mean": mean, "epoch": trainer.epoch})
        trainer.save(folder / "resume")
    bar.close()


def report(
    args: Args,
    trainer: "MainTrainer",
    splits: "dict[str, Split]",
    folder: Path,
    writer: MetricWriter,
) -> None:
    """Export the last and the best network and print the accuracy of their states."""
    from dynalay_gym.networks.checkpoint import load_network
    from dynalay_gym.sessions.measure import export

    facts: dict[str, Any] = {
        "dataset": args.dataset,
        "command": "python train_main.py " + " ".join(sys.argv[1:]),
        "training": asdict(trainer.config),
        "environment": run_metadata(),
    }
    portion = dataset_spec(args.dataset).iterations_per_action
    export(folder / "last", trainer.network, splits, facts, portion)
    best, _ = load_network(folder / "best", trainer.data.inputs.device)
    meta = export(folder / "best", best, splits, facts, portion)
    test = meta["state_accuracy"]["test"]
    writer.scalars({f"main/test_accuracy/{k}": v for k, v in test.items()}, 0)
    print("test accuracy by state (bits: layer 1 first, 1 = iterated):")
    print("  " + "  ".join(f"{state} {value:.3f}" for state, value in test.items()))
    print(f"plain pass: {meta['plain_macs']:,} MACs; ", end="")
    print(f"always: {meta['calibrations'][0]['always_extra_macs']:,.0f} more; ", end="")
    print(f"break-even penalty: {meta['break_even_penalty']}")
    print(f"network: {folder / 'best'} (use it as --checkpoint)")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except DynaLayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; go on with --resume and the run folder", file=sys.stderr)
        sys.exit(130)
