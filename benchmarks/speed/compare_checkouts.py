"""Compare the speed of two checkouts, in turns.

    python -m benchmarks.speed.compare_checkouts --other ../before

Each workload runs in two processes, one per checkout, each with its checkout's packages
and one thread; they take turns (this, other, this, ...), so that whatever else the
machine does hits both. Figures are processor time per unit of work.
"""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.report import Columns, Table, spread, write
from benchmarks.speed.workloads import WORKLOADS
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.storage.metrics import run_metadata

HERE = Path(__file__).resolve().parent
COLUMNS: Columns = {
    "workload": ("workload", ""),
    "this, µs": ("this", ",.2f"),
    "other, µs": ("other", ",.2f"),
    "times as fast": ("speed_up", ".2f"),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare the speed of this checkout with another one's."""

    other: Path
    """The other checkout."""
    other_workloads: Path | None = None
    """Its workloads, where its names are others; its own file if not given."""
    only: tuple[str, ...] = ()
    """Words: only the workloads whose name contains one of them."""
    processes: int = 3
    """Pairs of processes per workload, one after the other."""
    rounds: int = 5
    """Turns of each process."""
    seconds: float = 1.0
    """Processor time of a turn."""
    out: Path | None = None
    """Path of the JSON and Markdown files, without their ending."""
    machine: str = ""
    """What the machine is, for the heading; its processor if not given."""


class Worker:
    """A process that runs one workload of a checkout.

    Args:
        checkout: Folder whose packages it imports.
        workloads: File of the workloads.
        name: The workload.
    """

    def __init__(self, checkout: Path, workloads: Path, name: str) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
        path = {"PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "worker.py"), str(workloads), name],
            cwd=checkout,
            env=os.environ | one_thread | path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def turn(self, seconds: float) -> float:
        """Return the microseconds per unit of a turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return 1e6 * float(self._read())

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise ConfigError("a workload failed; its message is above")
        return line


def main(args: Args) -> None:
    """Compare every workload, print the table and write it."""
    other = args.other.resolve()
    theirs = args.other_workloads or other / "benchmarks/speed/workloads.py"
    sides = (HERE.parents[1], HERE / "workloads.py"), (other, theirs.resolve())
    rows = []
    for name in WORKLOADS:
        if args.only and not any(word in name for word in args.only):
            continue
        rows.append(compare(name, sides, args))
        print(Table("", "", COLUMNS, rows[-1:]).markdown().splitlines()[-1], flush=True)
    facts = run_metadata()
    machine = args.machine or facts["cpu"]
    notes = f"{args.processes} × {args.rounds} turns of {args.seconds:g} s; {machine}"
    table = Table("This checkout and another one", notes, COLUMNS, rows)
    if args.out is not None:
        heading = f"## Speed of `{facts['commit']}` against `{commit(other)}`\n"
        about = {"args": asdict(args), "environment": facts, "other": commit(other)}
        write(args.out, heading, [table], about)


def compare(name: str, sides: tuple[tuple[Path, Path], ...], args: Args) -> Any:
    """Return the figures of one workload in both checkouts."""
    figures = []
    for _ in range(args.processes):
        workers = [Worker(*side, name) for side in sides]
        figures += [[w.turn(args.seconds) for w in workers] for _ in range(args.rounds)]
        for worker in workers:
            worker.close()
    this, other = np.array(figures).T
    pair = {"this": spread(this), "other": spread(other)}
    return {"workload": name, "speed_up": spread(other / this)} | pair


def commit(checkout: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except DynaLayError as error:
        sys.exit(f"error: {error}")
