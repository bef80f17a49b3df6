"""What each of the papers' experiments is made of: arms, tables and a picture."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import Row, Table
from dynalay_gym.cotraining.new_training import load_splits
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.storage.io import plain, write_json


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
    """Train on every so manieth sample of the main split."""
    decisions: int | None = None
    """Decisions of an agent's training; the algorithm's own number if not given."""
    start_from: Path | None = None
    """Folder of the units of an earlier run: networks go on from its plain ones."""
    data_dir: Path | None = None
    """Folder of the data files."""

    def splits(self) -> dict[str, Split]:
        """Return all splits of the data set by name."""
        return load_splits(self.dataset, "cpu", data_dir=self.data_dir)

    def facts(self) -> dict[str, Any]:
        """Return what the figures depend on, JSON-able."""
        names = (field.name for field in fields(Setting) if field.name != "data_dir")
        facts: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        return facts

    def check_same(self, facts: Mapping[str, Any], path: Path) -> None:
        """Raise ConfigError if what a file says was found in another setting."""
        own = self.facts()
        names = sorted(name for name in own if facts.get(name) != own[name])
        if names:
            raise ConfigError(
                f"{path} was made with another {', '.join(names)}; give another "
                "--folder, or the same options"
            )


class Experiment(ABC):
    """One table or figure: units of an arm and a seed, and what is shown of them.

    Attributes:
        name: Its name on the command line.
        title: What it is about.
        arms: What is compared.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    arms: ClassVar[tuple[str, ...]]

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


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, lowest and highest value."""
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
