"""A run folder as a report reads it, and what to do where something is missing."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dynalay_gym.errors import CheckpointError
from dynalay_gym.report.files import Record, Results, Row
from dynalay_gym.report.record import RECORD
from dynalay_gym.storage.io import read_file
from dynalay_gym.storage.metrics import read_scalars
from dynalay_gym.storage.run_folder import SETTINGS, read_settings
from dynalay_gym.storage.schema import parse_json, read_as

RESULTS = "results.json"
_MOST_BYTES = 2**28  # of a file

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read.

    Attributes:
        folder: The folder.
        results: Its results.
        record: What it keeps for its report.
        curves: Step and value of each point of its training, by tag.
    """

    folder: Path
    results: Results
    record: Record
    curves: dict[str, list[tuple[int, float]]]

    @property
    def agent(self) -> Row:
        """The agent's row of the table."""
        return self.results.policies[0]


def read_run(folder: Path) -> Run:
    """Read a run folder of ``train_agent.py``.

    Raises:
        CheckpointError: It is none, its run has not ended, or a file is damaged.
    """
    return Run(
        folder=folder,
        results=_read(folder, RESULTS, Results),
        record=_read(folder, RECORD, Record),
        curves=read_scalars(folder),
    )


def _read(folder: Path, name: str, schema: type[T]) -> T:
    path = folder / name
    try:
        data = read_file(path, _MOST_BYTES)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {name}; {_remedy(folder)}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})") from None
    return read_as(parse_json(data, path), schema, path)


def _remedy(folder: Path) -> str:
    """Return how a file that a run writes at its end comes about."""
    if not (folder / SETTINGS).exists():
        return (
            "give a run folder of train_agent.py, <log-dir>/<dataset>/<algo>/<k>, or "
            "make one with: python train_agent.py --load AGENT --total-timesteps 0"
        )
    options = read_settings(folder)["options"]
    which = [f"--{name}={options.get(name)}" for name in ("dataset", "algo")]
    command = shlex.join(["python", "train_agent.py", *which, "--resume", str(folder)])
    return (
        f"make it with: {command}, and the other options of its training; a run that "
        "has learned all is only evaluated"
    )
