"""The main network that a co-training starts from, and what it leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.data.registry import SPLITS, dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED, EnvConfig, resolve_device
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import (
    MainTrainer,
    TrainingConfig,
    export,
    state_name,
)
from dynalay_gym.sessions.calibration import accuracies, state_table
from dynalay_gym.sessions.protocol import LayerSession

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The splits of one data set on one device.

    Attributes:
        dataset: Its name.
        splits: By name, all of ``SPLITS``.
        augmented: Whether the main network trains on shifted and mirrored images.
    """

    dataset: str
    splits: dict[str, Split]
    augmented: bool

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.splits["main"].inputs.device

    @classmethod
    def load(
        cls, dataset: str, device: str, data_dir: Path | None, download: bool
    ) -> "Data":
        """Load all splits; missing files and devices show here."""
        spec, where = dataset_spec(dataset), resolve_device(device)
        splits = {
            name: load_split(
                dataset, name, data_dir=data_dir, download=download, device=where
            )
            for name in SPLITS
        }
        return cls(dataset=dataset, splits=splits, augmented=not spec.embedded)

    def network_folder(self, checkpoint: Path | None) -> Path:
        """Folder of a given network, or of the one that ships with the package."""
        return SHIPPED / self.dataset if checkpoint is None else checkpoint

    def load_network(self, folder: Path) -> MainNetwork:
        """Main network on this device."""
        return load_network(folder, self.device)[0]

    @staticmethod
    def state_names(num_layers: int) -> list[str]:
        """Names of all states: bits, layer 1 first."""
        return [state_name(path, num_layers) for path in range(2**num_layers)]


def check_environment(**options: Any) -> None:
    """Raise what an environment with these options would raise before any file."""
    EnvConfig.from_kwargs(options)


def warm_up(
    data: Data,
    epochs: int,
    *,
    seed: int,
    precision: str,
    folder: Path,
    on_step: OnStep,
) -> None:
    """Train a fresh main network and write it with its calibration.

    An interrupted warm-up goes on after its last whole epoch.

    Args:
        data: The data set; its preset is the architecture.
        epochs: Passes over the main split; 0 leaves the network untrained.
        seed: Of initial weights, order and augmentation.
        precision: ``fp32``, or ``bf16`` autocast.
        folder: Gets ``main``, and ``training`` while it is under way.
        on_step: Called after every step with its number, all steps, and the loss.
    """
    spec, main = dataset_spec(data.dataset), data.splits["main"]
    torch.manual_seed(seed)
    model = MainNetwork(make_config(spec.preset, spec.in_shape, spec.num_classes))
    model.to(main.inputs.device)
    if epochs:
        options = TrainingConfig(
            epochs=epochs,
            paths="all" if spec.embedded else "mixed",
            augment=data.augmented,
            precision=precision,
            seed=seed,
        )
        trainer = MainTrainer(model, main, options)
        place = folder / "training"
        if place.is_dir():
            trainer.load(place)
        total = epochs * trainer.steps_per_epoch
        while trainer.epoch < epochs:
            trainer.train_epoch(lambda step, loss: on_step(step, total, loss))
            trainer.save(place)
    facts = {"dataset": data.dataset, "warm_up_epochs": epochs}
    export(folder / "main", model.eval(), data.splits, facts)


def measure_again(folder: Path, data: Data, facts: dict[str, Any]) -> dict[str, Any]:
    """Measure a saved network's cost unit, break-even and states anew, beside it.

    During a run they stay what they were at its start, so that a return means the same
    from the first decision to the last; whoever uses the network afterwards is better
    served by its own.
    """
    model, _ = load_network(folder, data.device)
    return export(folder, model, data.splits, facts)


def accuracy_of_states(session: LayerSession, split: Split) -> dict[str, float]:
    """Accuracy in every state; keys are bits, layer 1 first (``"100"``)."""
    values = accuracies(state_table(session, split))
    return {state_name(i, session.num_layers): v for i, v in enumerate(values)}
