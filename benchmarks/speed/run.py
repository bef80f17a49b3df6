"""Measure speed: ``make bench``, or part by part.

    python -m benchmarks.speed.run                              # all parts
    python -m benchmarks.speed.run --quick --parts env table    # a first look

Every part writes ``<part>.json`` (raw figures, machine, versions) and ``<part>.md``
(the tables) into ``--out``.
"""

import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import tyro

from benchmarks.report import write
from benchmarks.speed.common import Options
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.storage.metrics import run_metadata

PARTS = (
    "ratios",
    "kernels",
    "env",
    "table",
    "predictor",
    "solver",
    "backward",
    "selective",
    "skipping",
    "agents",
    "race",
)


def main(options: Options) -> None:
    """Run the parts, print their tables and write both forms."""
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        raise ConfigError(f"unknown parts {unknown}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(options.num_threads)
    facts = {"args": asdict(options), "environment": environment()}
    for name in options.parts or PARTS:
        try:
            tables = import_module(f"benchmarks.speed.parts.{name}").measure(options)
        except ModuleNotFoundError as error:  # an optional library
            print(f"{name}: not measured: {error}", flush=True)
            continue
        top = heading(name, facts["environment"])
        print(write(options.out / name, top, tables, facts), flush=True)


def heading(name: str, where: dict[str, Any]) -> str:
    """Return command, commit and machine as Markdown."""
    command = " ".join(["python -m benchmarks.speed.run", *sys.argv[1:]])
    packages = where["packages"].items()
    known = ", ".join(f"{k} {v}" for k, v in packages if v is not None)
    return (
        f"## Speed: {name}\n\n`{command}`, commit `{where['commit']}`, "
        f"{where['gpu'] or where['cpu']}, Python {where['python']}, {known}. "
        "Medians and quartiles of rounds.\n"
    )


def environment() -> dict[str, Any]:
    """Return machine and versions, those of the libraries compared with included."""
    facts = run_metadata()
    for name in ("envpool", "torchdeq"):
        try:
            facts["packages"][name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except DynaLayError as error:
        sys.exit(f"error: {error}")
