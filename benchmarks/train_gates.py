"""Train gates of several forms, targets and seeds on one backbone, and save them.

    python -m benchmarks.train_gates --backbone runs/cifar10/main/0/best --out gates

Each is what ``train_main.py --start-from BACKBONE --gates FORM --target T --seed S``
trains, without its reports; ``benchmarks.gates`` compares what this writes.
"""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import (
    load_splits,
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.storage.saved_folder import is_saved

FORMS: dict[str, dict[str, Any]] = {
    "LC": {},
    "L": {"channels": False},
    "C": {"layers": False},
    "LC-binary": {"kind": "binary"},
    "L-binary": {"kind": "binary", "channels": False},
    "C-binary": {"kind": "binary", "layers": False},
    "LC-hybrid": {"kind": "binary"},
    "L-hybrid": {"kind": "binary", "channels": False},
    "C-hybrid": {"kind": "binary", "layers": False},
    "C-slices": {"layers": False, "slices": True},
    "LC-static": {"per_input": False},
    "L-static": {"per_input": False, "channels": False},
    "C-static": {"per_input": False, "layers": False},
}

OPTIONS = ("epochs", "precision", "learning_rate", "gate_learning_rate")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train gates of several forms, targets and seeds."""

    backbone: Path
    """Folder of a trained residual network."""
    out: Path
    """Folder of the networks, each FORM-TARGET-SEED; those that are there are kept."""
    forms: tuple[str, ...] = ("LC", "LC-static")
    """Forms of gates, of LC, L, C, and those with -binary, -hybrid (binary, trained by
    the policy gradient), -slices or -static."""
    targets: tuple[float, ...] = (0.5, 0.3)
    """Mean shares of the backbone's multiply-adds."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    epochs: int = 4
    """Passes over the main split."""
    learning_rate: float | None = None
    """Peak of the schedule; the training's own if not given."""
    gate_learning_rate: float | None = None
    """The same for gates."""
    dataset: str = "cifar10"
    """Data set."""
    data_dir: Path | None = None
    """Folder of the data files."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast."""
    device: str = "cpu"
    """cpu or cuda."""


def main(args: Args) -> None:
    """Train what is not there yet; one line per network."""
    torch.set_num_threads(1)
    splits = load_splits(args.dataset, args.device, data_dir=args.data_dir)
    for seed, target, form in product(args.seeds, args.targets, args.forms):
        folder = args.out / f"{form}-{target}-{seed}"
        if is_saved(folder):
            continue
        gates = GateConfig(**FORMS[form])
        architecture = network_config(
            args.dataset, start_from=args.backbone, gates=gates
        )
        options: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS}
        if form.endswith("-hybrid"):
            options["gate_gradient"] = "policy-gradient"
        config = training_config(
            architecture, args.dataset, target=target, seed=seed, **options
        )
        trainer = new_trainer(architecture, config, splits["main"], args.backbone)
        minutes = train_to_end(trainer)
        about = {"training": asdict(config), "minutes": minutes}
        save_network(folder, trainer.network, about)
        print(f"{folder}: {minutes:.1f} processor's minutes", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
