"""How saved folders behave when they are damaged or hostile, counted.

    python -m benchmarks.reliability.hostile_files --kinds main-network,agent

Every variant of every sound folder is loaded and used in a process that is watched; see
`benchmarks.reliability.variants`. Then bits are flipped and files cut, over all members
of all folders.
"""

import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import tyro

from benchmarks.reliability.file_variants import PAYLOAD
from benchmarks.reliability.kinds import KINDS, make_sources
from benchmarks.reliability.variant import Variant
from benchmarks.reliability.variants import variants
from benchmarks.reliability.workers import Damage, Outcome, Worker
from benchmarks.report import table
from dynalay_gym.storage.io import write_json

# Column of the table -> what is counted in it. Only the first four are right.
COLUMNS = {
    "what": ("what", ""),
    "tried": ("tried", "d"),
    "refused in one line": ("refused", "d"),
    "accepted, no effect": ("same", "d"),
    "signed, legal, accepted": ("legal", "d"),
    "accepted with other content": ("other", "d"),
    "answers not finite": ("not finite", "d"),
    "traceback": ("traceback", "d"),
    "over 1 GiB": ("memory", "d"),
    "hang": ("hang", "d"),
    "crash": ("crash", "d"),
    "executed": ("executed", "d"),
}
_RIGHT = ("refused", "same", "legal")
_BATCH = 100  # damaged copies that a worker is given at once


@dataclass(frozen=True, kw_only=True)
class Args:
    """Count what happens to damaged and hostile folders."""

    kinds: str = ",".join(KINDS)
    """Kinds of folders, separated by commas."""
    most: int = 10_000
    """Most variants of each sound folder; of more, a random sample is taken."""
    only: str = ""
    """Only variants in whose name this regular expression is found."""
    flips: int = 10_000
    """Flipped bits in all, and as many cuts."""
    workers: int = 2
    """Processes side by side."""
    seed: int = 0
    """Of the samples."""
    out: Path = Path("benchmarks/results/hostile-files.json")
    """Where the counts go."""
    show: bool = False
    """Also print what every variant that was refused or accepted came to."""


@dataclass(frozen=True)
class Job:
    """A variant of a sound folder."""

    kind: str
    source: str
    sound: Path
    variant: Variant


class Pool:
    """Workers that are lent to threads."""

    def __init__(self, size: int, kinds: list[str]) -> None:
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(size)
        self._workers = [Worker(kinds) for _ in range(size)]
        for worker in self._workers:
            self._free.put(worker)

    def map(self, call: Any, jobs: list[Any]) -> Iterator[Any]:
        """Yield what a call with a worker and each job returns, in order."""

        def lend(job: Any) -> Any:
            worker = self._free.get()
            try:
                return call(worker, job)
            finally:
                self._free.put(worker)

        yield from self._threads.map(lend, jobs)

    def stop(self) -> None:
        """End all processes."""
        self._threads.shutdown()
        for worker in self._workers:
            worker.stop()


def main(args: Args) -> int:
    """Count; return 1 if anything went wrong."""
    start, chance = time.perf_counter(), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        kinds = args.kinds.split(",")
        sources = make_sources(Path(place), kinds)
        pool = Pool(args.workers, kinds)
        digests = _digests(pool, sources)
        jobs = list(_jobs(sources, args.only, args.most, chance))
        rows, faults = _count(pool, jobs, digests, args.show)
        silent = _damage(pool, sources, digests, args.flips, chance)
        pool.stop()
    print(table(COLUMNS, rows), "\n")
    words = f"{args.flips} flips and {args.flips} cuts: {len(silent)} not refused"
    print(words)
    print(*faults, *silent, sep="\n")
    minutes = (time.perf_counter() - start) / 60
    facts = {"rows": rows, "flips": args.flips, "cuts": args.flips}
    result = facts | {"silent": silent, "faults": faults, "minutes": round(minutes, 1)}
    write_json(args.out, result)
    return 1 if faults or silent else 0


def _digests(pool: Pool, sources: dict[str, dict[str, Path]]) -> dict[Path, str]:
    """Return what using every sound folder gives."""
    places = [
        (kind, name, path) for kind in sources for name, path in sources[kind].items()
    ]
    found = pool.map(lambda worker, place: worker.use(*place), places)
    digests = {}
    for (kind, _, path), outcome in zip(places, found, strict=True):
        if outcome.what != "accepted":
            raise SystemExit(f"the sound {kind} {path.name} fails: {outcome}")
        digests[path] = outcome.detail
    return digests


def _jobs(
    sources: dict[str, dict[str, Path]], only: str, most: int, chance: random.Random
) -> Iterator[Job]:
    for kind, places in sources.items():
        for source, sound in places.items():
            found = [v for v in variants(sound) if re.search(only, v.name)]
            if len(found) > most:
                found = chance.sample(found, most)
            yield from (Job(kind, source, sound, variant) for variant in found)


def _count(
    pool: Pool, jobs: list[Job], digests: dict[Path, str], show: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return rows of the table, and a line for each variant that went wrong."""
    counts = {job.kind: Counter[str]() for job in jobs}
    faults = []
    for job, outcome in zip(jobs, pool.map(_try, jobs), strict=True):
        what = outcome.what
        if what == "accepted":
            signed = "legal" if job.variant.signed else "other"
            what = "same" if outcome.detail == digests[job.sound] else signed
        counts[job.kind].update((what, "tried"))
        line = f"{job.kind} ({job.source}), {job.variant.name}: {what}"
        if what not in _RIGHT:
            faults.append(f"{line}: {outcome.detail}")
            print(faults[-1], file=sys.stderr, flush=True)
        elif show:
            print(f"{line}: {outcome.detail}", flush=True)
    keys = [key for key, form in COLUMNS.values() if form]
    rows = [
        {"what": kind} | {key: n[key] for key in keys} for kind, n in counts.items()
    ]
    return rows, faults


def _try(worker: Worker, job: Job) -> Outcome:
    """Use a variant of a folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "there" / "folder"
        shutil.copytree(job.sound, folder)
        job.variant.change(folder)
        outcome: Outcome = worker.use(job.kind, job.source, folder)
        if list(Path(place).rglob(PAYLOAD)):
            return Outcome("executed", outcome.detail)
    return outcome


def _damage(
    pool: Pool,
    sources: dict[str, dict[str, Path]],
    digests: dict[Path, str],
    number: int,
    chance: random.Random,
) -> list[str]:
    """Flip bits and cut files, as many each, evenly over all members."""
    members = [
        (kind, name, path, member)
        for kind, places in sources.items()
        for name, path in places.items()
        for member in sorted(path.iterdir())
        if not member.name.startswith(".")
    ]
    batches: dict[tuple[str, str, Path], list[Damage]] = {}
    for i in range(number):
        kind, name, path, member = members[i % len(members)]
        size = member.stat().st_size
        jobs = batches.setdefault((kind, name, path), [])
        jobs.append(("flip", member.name, chance.randrange(8 * size)))
        jobs.append(("cut", member.name, chance.randrange(size)))
    parts = [
        (kind, name, path, digests[path], jobs[first : first + _BATCH])
        for (kind, name, path), jobs in batches.items()
        for first in range(0, len(jobs), _BATCH)
    ]
    return [line for found in pool.map(_damage_copy, parts) for line in found]


def _damage_copy(worker: Worker, part: tuple[Any, ...]) -> list[str]:
    kind, name, path, digest, jobs = part
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "folder"
        shutil.copytree(path, folder)
        return worker.damage(kind, name, folder, digest, jobs)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
