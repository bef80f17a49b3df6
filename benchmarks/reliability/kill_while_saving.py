"""Kills processes while they save, and reads beside them, counted.

    python -m benchmarks.reliability.kill_while_saving

Writers save one network after another into one folder until they are killed without a
word (SIGKILL); afterwards, and all the while, the folder has to hold a whole network.
Then as many processes as ``--starts`` make themselves a run folder at the same moment.
"""

import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.reliability.folders import tiny_network
from benchmarks.report import table
from dynalay_gym.errors import DynaLayError
from dynalay_gym.networks.checkpoint import load_network, save_network
from dynalay_gym.storage.io import make_run_dir, write_json

_LONGEST = 0.3  # seconds until a kill: many saves
_COLUMNS = {
    "writers": ("writers", "d"),
    "kills": ("kills", "d"),
    "saves": ("saves", "d"),
    "unusable afterwards": ("unusable", "d"),
    "drafts left": ("drafts", "d"),
    "drafts after the next save": ("unswept", "d"),
    "reads beside": ("reads", "d"),
    "failed reads": ("failed", "d"),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Count what kills while saving leave behind."""

    kills: int = 200
    """Kills in all, half of them of two writers at once."""
    starts: int = 64
    """Simultaneous fresh starts."""
    seed: int = 0
    """Of the moments of the kills."""
    out: Path = Path("benchmarks/results/kill-while-saving.json")
    """Where the counts go."""


@dataclass
class Reader:
    """Reads a folder all the time, in a thread."""

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read while the context is open."""
        thread = threading.Thread(target=self._read)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            self.counts["reads"] += 1
            self.counts["failed"] += not is_whole(self.folder)


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds all of one save."""
    try:
        network, facts = load_network(folder)
    except DynaLayError as error:
        print(error, file=sys.stderr)
        return False
    whole = torch.cat([part.detach().reshape(-1) for part in network.parameters()])
    return bool((whole == facts.about["number"]).all())


def save_number(folder: Path, number: int) -> None:
    """Save a network all of whose weights are one number."""
    network = tiny_network("wide")
    with torch.no_grad():
        for part in network.parameters():
            part.fill_(float(number))
    save_network(folder, network, {"number": float(number)})


def save_for_ever(folder: Path, first: int, ready: Any, count: Any) -> None:
    """Save until killed."""
    torch.set_num_threads(1)
    number = first
    while True:
        save_number(folder, number)
        number += 1
        count.value += 1  # its own: a kill would leave a lock behind
        if count.value == 1:
            ready.set()


def kill_writers(
    folder: Path, writers: int, kills: int, chance: random.Random
) -> dict[str, int]:
    """Start writers and kill them, again and again; return the counts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.reliability.folders"])
    counts = Counter[str]()
    save_number(folder, 0)
    reader = Reader(folder)
    with reader.reading():
        while counts["kills"] < kills:
            ready = [context.Event() for _ in range(writers)]
            saved = [context.RawValue("q", 0) for _ in range(writers)]
            group = [
                context.Process(target=save_for_ever, args=(folder, 1000 * i, *flags))
                for i, flags in enumerate(zip(ready, saved, strict=True))
            ]
            for process in group:
                process.start()
            for flag in ready:
                flag.wait()
            time.sleep(chance.uniform(0, _LONGEST))
            for process in group:
                process.kill()
                process.join()
                counts["kills"] += 1
            counts["saves"] += sum(each.value for each in saved)
            counts["unusable"] += not is_whole(folder)
            counts["drafts"] += len(drafts(folder))
    save_number(folder, 0)
    counts["unswept"] = len(drafts(folder))
    names = (key for key, _ in _COLUMNS.values())
    total = counts + reader.counts
    return {key: total[key] for key in names} | {"writers": writers}


def drafts(folder: Path) -> list[Path]:
    """Return what unfinished saves have left, and weights that belong to none."""
    found = list(folder.glob("weights-*"))
    return [*folder.glob(".*.tmp"), *found[1:]]


def make_folder(root: Path, barrier: Any, names: Any) -> None:
    """Make a run folder at the same moment as others."""
    barrier.wait()
    names.put(make_run_dir(root, "digits", "0").name)


def start_at_once(root: Path, number: int) -> int:
    """Return how many different folders that many processes make at one moment."""
    context = multiprocessing.get_context("forkserver")
    barrier, names = context.Barrier(number), context.Queue()
    group = [
        context.Process(target=make_folder, args=(root, barrier, names))
        for _ in range(number)
    ]
    for process in group:
        process.start()
    found = {names.get() for _ in group}
    for process in group:
        process.join()
    return len(found)


def main(args: Args) -> int:
    """Count; return 1 if anything went wrong."""
    torch.set_num_threads(1)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        rows = [
            kill_writers(Path(place) / str(number), number, args.kills // 2, chance)
            for number in (1, 2)
        ]
        folders = start_at_once(Path(place) / "runs", args.starts)
    print(table(_COLUMNS, rows))
    print(f"\n{args.starts} simultaneous fresh starts: {folders} run folders")
    result = {"rows": rows, "starts": args.starts, "run_folders": folders}
    write_json(args.out, result)
    wrong = sum(row[key] for row in rows for key in ("unusable", "unswept", "failed"))
    return 1 if wrong or folders != args.starts else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
