"""What a run records: metrics for TensorBoard and JSON lines, and facts about the run.

The one file that knows TensorBoard. Importing it loads neither torch nor TensorBoard.
"""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynalay_gym.storage.io import plain, read_file

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_LINES = "metrics.jsonl"
_MOST_BYTES = 2**30  # of it
_PACKAGES = (
    "dynalay_gym",
    "torch",
    "torchvision",
    "gymnasium",
    "stable_baselines3",
    "numba",
    "numpy",
    "scikit-learn",
)


class MetricWriter:
    """Writes metrics for TensorBoard, and scalars to `metrics.jsonl` as well.

    A line of `metrics.jsonl` is one call: `{"step": 64, "time": 1.7e9, "tag": value,
    ...}`, where a value that is not finite is null. A writer is a context manager that
    closes its files.

    Args:
        folder: Folder of the run, made if it is absent.
        sizes: What `sizes` returned when the run saved the state that it now goes on
            from: all that was recorded later is forgotten. None forgets nothing.

    Raises:
        OSError: The disk is full, or the folder cannot be written to; every method
            raises it, too.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, purge_step = Path(folder), None
        if sizes is not None:
            _cut(self.folder, sizes)
            purge_step = last_step(self.folder) + 1  # for a TensorBoard that watches
        self._board = SummaryWriter(log_dir=str(self.folder), purge_step=purge_step)
        self._lines = (self.folder / _LINES).open("a", encoding="utf-8")

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record several numbers of the same step, each under its own tag."""
        line: dict[str, Any] = {"step": step, "time": time.time()}
        for tag, value in values.items():
            line[tag] = float(value)
            self._board.add_scalar(tag, line[tag], step)
        self._lines.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self._lines.flush()

    def hparams(
        self,
        options: Mapping[str, Any],
        metrics: Mapping[str, float],
        step: int = 0,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the options of the run and its results.

        TensorBoard's columns are the ``known`` options of the first run that it comes
        across with any: give all of them the same, or, as for a run that is to appear
        beside others, none.

        Args:
            options: Options of the run. What is no number, truth value or string is
                recorded as its text, and so is what is none of these in ``known``.
            metrics: Results, under tags that no curve uses.
            step: Where the results stand on the time axis.
            known: Options that any run can have, with values of their types; None
            leaves the columns to other runs.
        """
        from torch.utils.tensorboard.summary import hparams

        models = known or {}
        own = {name: _simple(x, models.get(name, x)) for name, x in options.items()}
        every = {name: _simple(x, x) for name, x in models.items()} | own
        results = {tag: float(value) for tag, value in metrics.items()}
        file: Any = self._board.file_writer
        if known is not None:
            file.add_summary(hparams(every, results)[0], step)  # the columns
        for summary in hparams(own, results)[1:]:  # start and end of this run
            file.add_summary(summary, step)
        for tag, value in results.items():
            self._board.add_scalar(tag, value, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Record a matplotlib figure as an image; the figure stays open."""
        self._board.add_figure(tag, figure, step, close=False)

    def image(self, tag: str, picture: "NDArray[np.uint8]", step: int) -> None:
        """Record a picture, uint8 [H, W, 3]."""
        self._board.add_image(tag, picture, step, dataformats="HWC")

    def charts(self, title: str, tags: Sequence[str]) -> None:
        """Put tags side by side on TensorBoard's page of custom scalars.

        Args:
            title: Heading of the charts.
            tags: One chart each, named by the last part of the tag.
        """
        charts = {tag.rpartition("/")[2]: ["Multiline", [tag]] for tag in tags}
        self._board.add_custom_scalars({title: charts})

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file so far, by name, for a resumed run."""
        self._board.flush()
        return {path.name: path.stat().st_size for path in _files(self.folder)}

    def close(self) -> None:
        """Write what is pending and close the files; a second call does nothing."""
        try:
            self._board.close()
        finally:
            self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def last_step(folder: str | os.PathLike[str]) -> int:
    """Return the last step that a writer recorded in a folder; -1 if there is none."""
    return max((step for step, _ in _read_lines(Path(folder))), default=-1)


def read_scalars(
    folder: str | os.PathLike[str],
) -> dict[str, list[tuple[int, float]]]:
    """Return what a writer recorded in a folder: step and value of each point, by tag.

    Damaged lines and values that were not finite are left out; without any file there
    are no tags.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, line in _read_lines(Path(folder)):
        for tag, value in line.items():
            if tag != "time" and isinstance(value, float) and math.isfinite(value):
                curves.setdefault(tag, []).append((step, value))
    return curves


def _read_lines(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield step and content of every line that is whole."""
    try:
        data = read_file(folder / _LINES, _MOST_BYTES)
    except OSError:
        return
    for line in data.split(b"\n")[:-1]:  # a kill or a full disk may leave half a line
        try:
            content = json.loads(line)
            step = int(content["step"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue
        yield step, content


def _files(folder: Path) -> list[Path]:
    """Return the files that writers have made in a folder."""
    return [*folder.glob(_LINES), *folder.glob("events.out.tfevents.*")]


def _cut(folder: Path, sizes: Mapping[str, int]) -> None:
    """Take from a folder's files what was written after they had these sizes."""
    for path in _files(folder):
        is_ours = path.is_file() and not path.is_symlink()
        if path.name in sizes and is_ours:
            os.truncate(path, min(sizes[path.name], path.stat().st_size))
        else:
            path.unlink()


def run_metadata() -> dict[str, Any]:
    """Collect what a reader needs to judge or repeat a measurement.

    Returns:
        JSON-able facts: `date` (UTC), `python`, `packages` (versions; null = absent),
        `commit` (null outside a git checkout, `-dirty` behind it if files differ),
        `machine`, `cpu`, `cpu_count`, `num_threads` (of torch), `gpu` (null if none).
    """
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "machine": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(checkout: Path) -> str | None:
    # An installed package may lie inside somebody else's repository.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def _simple(value: Any, model: Any) -> bool | int | float | str:
    """Return what TensorBoard can show of an option, of the type of its model."""
    fits = all(isinstance(each, bool | int | float | str) for each in (value, model))
    return value if fits else str(value)
