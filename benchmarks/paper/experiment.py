"""What each of the papers' experiments is made of: arms, tables and a picture."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.report import Row, Table
from dynalay_gym.cotraining.new_training import (
    load_splits,
    network_config,
    training_config,
)
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.storage.io import locked, plain, write_json

_LETTERS = 40  # of the names of arms that stand side by side


@dataclass(frozen=True, kw_only=True)
class Setting:
    """On what an experiment is run, and how long its networks are trained."""

    dataset: str = "digits"
    """Name of the data set."""
    preset: str | None = None
    """Preset of the main network; the data set's own if not given."""
    epochs: int | None = None
    """Passes over the main split; as many as train_main.py takes if not given."""
    learning_rate: float | None = None
    """Peak of the learning rate; that of train_main.py if not given."""
    every: int = 1
    """Train on every n-th sample of the main split."""
    decisions: int | None = None
    """Decisions of an agent's training; the algorithm's own number if not given."""
    start_from: Path | None = None
    """Folder of the units of an earlier run: networks go on from its plain ones."""
    data_dir: Path | None = None
    """Folder of the data files."""

    def splits(self) -> dict[str, Split]:
        """Return all splits by name; of the main split the part to train on."""
        found = load_splits(self.dataset, "cpu", data_dir=self.data_dir)
        rows = torch.arange(0, len(found["main"]), self.every)
        found["main"] = part_of(found["main"], rows)
        return found

    def facts(self) -> dict[str, Any]:
        """Return what the figures depend on, JSON-able, defaults filled in."""
        architecture: Any = network_config(self.dataset, self.preset)
        options = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        training = asdict(training_config(architecture, self.dataset, **options))
        start = None if self.start_from is None else str(self.start_from.resolve())
        facts: dict[str, Any] = plain(
            {
                "dataset": self.dataset,
                "network": architecture.to_dict(),
                "training": training,
                "every": self.every,
                "decisions": self.decisions,
                "start_from": start,
            }
        )
        return facts

    def check_same(self, facts: Mapping[str, Any], path: Path) -> None:
        """Raise ConfigError if what a file says was found in another setting."""
        own = self.facts()
        names = sorted(name for name in own if facts.get(name) != own[name])
        if names:
            raise ConfigError(
                f"{path} was made in another setting ({', '.join(names)}); give "
                "another --folder, or the same options"
            )

    def check_main_network(self, layers: int | None = None) -> None:
        """Raise ConfigError if the network has no states, or too few layers.

        Args:
            layers: Layers that it must have; None takes any number.
        """
        config = network_config(self.dataset, self.preset)
        if not isinstance(config, MainNetworkConfig):
            raise ConfigError(
                f"preset {self.preset!r} is no main network; leave --preset out, or "
                "choose digits, small, paper, ..."
            )
        if layers is not None and len(config.channels) != layers:
            raise ConfigError(
                f"this experiment needs a network of {layers} layers, that of "
                f"{self.dataset} has {len(config.channels)}; choose another --dataset"
            )


class Experiment(ABC):
    """One table or figure: units of an arm and a seed, and what is shown of them.

    Attributes:
        name: Its name on the command line.
        title: What it is about.
        arms: What is compared.
        layers: Layers of the network; None takes any number.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    arms: ClassVar[tuple[str, ...]]
    layers: ClassVar[int | None] = None

    def check(self, setting: Setting) -> None:
        """Raise ConfigError if the experiment cannot be run in a setting."""
        setting.check_main_network(self.layers)

    @abstractmethod
    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Return what one unit found, JSON-able; times under keys with ``minutes``.

        Args:
            arm: One of `arms`.
            seed: Seed of all that is drawn.
            setting: Data and training.
            folder: Of the unit, for networks.
        """

    @abstractmethod
    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the tables of all units; a row has its arm, seed and minutes."""

    @abstractmethod
    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return the picture of all units."""


def part_of(split: Split, rows: Tensor) -> Split:
    """Return some samples of a split, by their places, int64 [m]."""
    hardness = split.difficulty
    return replace(
        split,
        inputs=split.inputs[rows],
        labels=split.labels[rows],
        groups=split.groups[rows],
        difficulty=None if hardness is None else hardness[rows],
    )


def unit_name(arm: str, seed: int) -> str:
    """Return the name of a unit's folder."""
    return f"{arm.replace(' ', '-')}-{seed}"


def shared_folder(setting: Setting, folder: Path) -> Path:
    """Return the folder of what experiments on a data set share, by a unit's own.

    Raises:
        ConfigError: It is of another setting.
    """
    shared = folder.parents[1] / f"shared-{setting.dataset}"
    shared.mkdir(parents=True, exist_ok=True)
    path = shared / "setting.json"
    with locked(shared, wait=True):
        if not path.exists():
            write_json(path, setting.facts())
    setting.check_same(json.loads(path.read_text("utf-8")), path)
    return shared


def arms_of(rows: Sequence[Row]) -> list[str]:
    """Return the arms that there are units of, in their order."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def of_arm(rows: Sequence[Row], arm: str) -> list[Row]:
    """Return the units of an arm."""
    return [row for row in rows if row["arm"] == arm]


def mean_and_range(values: Sequence[float]) -> dict[str, float]:
    """Return mean, lowest and highest value."""
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def differences(
    rows: Sequence[Row], arm: str, base: str, value: Callable[[Row], float]
) -> list[float]:
    """Return by how much an arm's value is above a base's, for each seed of both."""
    others = {row["seed"]: value(row) for row in of_arm(rows, base)}
    own = [row for row in of_arm(rows, arm) if row["seed"] in others]
    return [value(row) - others[row["seed"]] for row in own]


def dots(axes: Any, rows: Sequence[Row], value: Callable[[Row], float]) -> None:
    """Draw a value of every unit, and a bar at the mean of each arm."""
    for place, arm in enumerate(arms_of(rows)):
        values = [value(row) for row in of_arm(rows, arm)]
        axes.plot([place] * len(values), values, "o", color="C0", alpha=0.6)
        axes.plot(place, np.mean(values), "_", color="C1", markersize=24)
    names = arms_of(rows)
    axes.set_xticks(range(len(names)), names)
    if sum(map(len, names)) > _LETTERS:
        axes.tick_params("x", rotation=40)
        axes.set_xticklabels(names, ha="right")
