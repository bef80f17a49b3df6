"""Runs the units of an experiment that are missing, one after another or side by side.

Side by side they run in processes of this machine, or as tasks of Ray
(https://docs.ray.io), on as many machines as belong to it.

A unit is done when its folder holds ``unit.json``. Several processes, on one machine or
on several that share a disk, may run one experiment: a unit's folder is locked by who
runs it, and a process that ends, however it ends, gives it back. On disks without
locks, give each process other units.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from benchmarks.paper.experiment import Experiment, Setting, unit_name
from benchmarks.paper.ray_pool import RayPool
from dynalay_gym.storage.io import locked, write_json

Unit = tuple[str, int]  # arm and seed


def run_units(
    experiment: Experiment,
    units: Sequence[Unit],
    setting: Setting,
    folder: Path,
    jobs: int = 1,
    ray: str | None = None,
) -> list[dict[str, Any]]:
    """Return a row for every unit, in their order; run those that are missing.

    Args:
        experiment: The experiment.
        units: Arms and seeds.
        setting: Data and training.
        folder: Of the experiment; each unit has a folder in it.
        jobs: Processes.
        ray: Address of a Ray cluster that runs the units, see `RayPool`; None uses
            processes of this machine.

    Raises:
        ConfigError: The folder holds units of another setting, or there is no Ray.
    """
    missing = [each for each in units if not is_done(folder, each)]
    for unit in set(units) - set(missing):
        read_unit(folder, unit, setting)
    started = time.monotonic()
    if missing and (ray is not None or jobs > 1):
        pool = _pool(jobs, ray)
        finished = _side_by_side(pool, experiment, missing, setting, folder)
    else:
        finished = _one_by_one(experiment, missing, setting, folder)
    for num, unit in enumerate(finished):
        minutes = (time.monotonic() - started) / 60
        left = minutes / (num + 1) * (len(missing) - num - 1)
        print(
            f"{experiment.name}: {unit[0]}, seed {unit[1]} is done; {num + 1} of "
            f"{len(missing)} units in {minutes:.1f} minutes; about {left:.0f} more",
            flush=True,
        )
    return [read_unit(folder, each, setting) for each in units]


def _pool(jobs: int, ray: str | None) -> Executor:
    """Return what runs units side by side; see `run_units`."""
    if ray is not None:
        return RayPool(ray, jobs)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _side_by_side(
    pool: Executor,
    experiment: Experiment,
    units: Sequence[Unit],
    setting: Setting,
    folder: Path,
) -> Iterator[Unit]:
    """Yield units as they are done; those of other processes come last."""
    futures: dict[Future[bool], Unit] = {
        pool.submit(run_unit, experiment, unit, setting, folder): unit for unit in units
    }
    waiting: list[Unit] = []
    try:
        for future in as_completed(futures):
            if future.result():
                yield futures[future]
            else:
                waiting.append(futures[future])
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:  # after an error, units that wait are given up
        pool.shutdown(cancel_futures=True)
    yield from _waited_for(experiment, waiting, setting, folder)


def _one_by_one(
    experiment: Experiment, units: Sequence[Unit], setting: Setting, folder: Path
) -> Iterator[Unit]:
    """Yield units as they are done; those of other processes come last."""
    waiting: list[Unit] = []
    for unit in units:
        if run_unit(experiment, unit, setting, folder):
            yield unit
        else:
            waiting.append(unit)
    yield from _waited_for(experiment, waiting, setting, folder)


def _waited_for(
    experiment: Experiment, units: Sequence[Unit], setting: Setting, folder: Path
) -> Iterator[Unit]:
    """Yield units of other processes as they are done; run what those gave up."""
    for unit in units:
        run_unit(experiment, unit, setting, folder, wait=True)
        yield unit


def run_unit(
    experiment: Experiment,
    unit: Unit,
    setting: Setting,
    folder: Path,
    *,
    wait: bool = False,
) -> bool:
    """Run a unit unless it is done; return False if another process is at it.

    Args:
        experiment: The experiment.
        unit: Arm and seed.
        setting: Data and training.
        folder: Of the experiment.
        wait: Whether to wait for that process.
    """
    torch.set_num_threads(1)
    own = folder / unit_name(*unit)
    own.mkdir(parents=True, exist_ok=True)
    try:
        with locked(own, wait=wait):
            if not is_done(folder, unit):
                row = {"arm": unit[0], "seed": unit[1]}
                row |= experiment.run(*unit, setting, own)
                write_json(own / "unit.json", {"setting": setting.facts(), "row": row})
    except Timeout:
        return False
    return True


def is_done(folder: Path, unit: Unit) -> bool:
    """Return whether a unit has been run."""
    return (folder / unit_name(*unit) / "unit.json").exists()


def read_unit(folder: Path, unit: Unit, setting: Setting) -> dict[str, Any]:
    """Return the row of a unit; see `run_units` for its error."""
    path = folder / unit_name(*unit) / "unit.json"
    found = json.loads(path.read_text("utf-8"))
    setting.check_same(found["setting"], path)
    row: dict[str, Any] = found["row"]
    return row


def all_units(arms: Sequence[str], seeds: Sequence[int]) -> list[Unit]:
    """Return every arm with every seed, one seed after another."""
    return [(arm, seed) for seed, arm in product(seeds, arms)]
