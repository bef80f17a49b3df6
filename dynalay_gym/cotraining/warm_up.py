"""The main network that a co-training starts from, and what it leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.data.registry import SPLITS, DatasetSpec, dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import resolve_device
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import (
    MainTrainer,
    TrainingConfig,
    export,
    state_name,
)
from dynalay_gym.sessions.calibration import state_accuracies
from dynalay_gym.sessions.protocol import FiniteSession


@dataclass(frozen=True, kw_only=True)
class SplitSet:
    """A data set on one device.

    Attributes:
        spec: What it is.
        splits: Its splits by name, all of `SPLITS`.
        device: Where they are.
    """

    spec: DatasetSpec
    splits: dict[str, Split]
    device: torch.device

    @classmethod
    def load(
        cls, dataset: str, device: str, data_dir: Path | None, download: bool
    ) -> "SplitSet":
        """Load all splits; see `load_split` and `resolve_device`."""
        where, spec = resolve_device(device), dataset_spec(dataset)
        files: dict[str, Any] = {"data_dir": data_dir, "download": download}
        splits = {
            name: load_split(dataset, name, device=where, **files) for name in SPLITS
        }
        return cls(spec=spec, splits=splits, device=where)

    def warm_up(
        self,
        folder: Path,
        epochs: int,
        *,
        seed: int,
        precision: str,
        on_step: Callable[[int, int, float], None],
    ) -> None:
        """Train a fresh main network and write it with its calibration.

        An interrupted warm-up continues after its last whole epoch.

        Args:
            folder: Gets ``main``, and ``training`` while it is under way.
            epochs: Passes over the main split; 0 leaves the network untrained.
            seed: Of initial weights, order and augmentation.
            precision: ``fp32``, or ``bf16`` autocast.
            on_step: Called after every step with its number, all steps, and the loss.
        """
        spec = self.spec
        torch.manual_seed(seed)
        network = MainNetwork(make_config(spec.preset, spec.in_shape, spec.num_classes))
        network.to(self.device)
        if epochs > 0:
            config = TrainingConfig(
                epochs=epochs,
                paths="all" if spec.embedded else "mixed",
                augment=not spec.embedded,
                precision=precision,
                seed=seed,
            )
            trainer = MainTrainer(network, self.splits["main"], config)
            if (folder / "training").is_dir():
                trainer.load(folder / "training")
            total = epochs * trainer.steps_per_epoch
            while trainer.epoch < epochs:
                trainer.train_epoch(lambda step, loss: on_step(step, total, loss))
                trainer.save(folder / "training")
        about = {"dataset": spec.name, "warm_up_epochs": epochs}
        export(folder / "main", network.eval(), self.splits, about)

    def measure(self, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Measure a saved network's cost unit, break-even and states, and write them.

        During a run cost unit and break-even stay what they were at its start, so that
        a return means the same from the first decision to the last. Later uses of the
        network are better served by its own.

        Args:
            folder: Checkpoint of the network.
            about: JSON-able values to keep beside it.

        Returns:
            What was measured; see `export`.
        """
        network, _ = load_network(folder, self.device)
        return export(folder, network, self.splits, about)

    def state_accuracies(self, session: FiniteSession, split: str) -> dict[str, float]:
        """Return a main network's accuracy in every state, by `state_name`."""
        accuracies = state_accuracies(session, self.splits[split])
        num_layers = len(session.full_plan)
        return {state_name(i, num_layers): each for i, each in enumerate(accuracies)}
