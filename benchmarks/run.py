"""Measure speed: ``make bench``, or part by part.

    python benchmarks/run.py                              # all parts, all presets
    python benchmarks/run.py --quick --parts env table    # a first look

Every part writes ``<part>.json`` (raw figures, machine, versions) and ``<part>.md``
(the tables) into ``--out``.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    bench_agents,
    bench_env,
    bench_inference,
    bench_kernels,
    bench_solver,
    bench_table,
)
from benchmarks.bench_race import race_table
from benchmarks.common import Options
from benchmarks.deq import torchdeq
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata


def run_solver(options: Options) -> dict[str, Any]:
    """Solver and gradients against torchdeq; says so where it is not installed."""
    try:
        torchdeq()
    except ConfigError as missing:
        return {"markdown": f"Not measured: {missing}."}
    args = bench_solver.Args(rounds=options.rounds, broyden=not options.quick)
    if options.quick:
        args = replace(args, forward=args.forward[:1], backward=args.backward[:1])
    return bench_solver.run(args)


def run_agents(options: Options) -> dict[str, Any]:
    """Agents' loops and, unless quick, their race against the obvious way."""
    args = bench_agents.Args(out=options.out / "agents.json", rounds=options.rounds)
    if options.quick:
        args = replace(args, naive_steps=0, samples=args.samples // 4)
    found = bench_agents.run(args)
    tables = [bench_agents.throughput_table(found["throughput"])]
    tables += [race_table(found["race"])] if found["race"] else []
    return found | {"markdown": "\n\n".join(tables)}


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "kernels": bench_kernels.run,
    "env": bench_env.run,
    "table": bench_table.run,
    "inference": bench_inference.run,
    "solver": run_solver,
    "agents": run_agents,
}


def main(options: Options) -> None:
    """Run the parts, print their tables and write both forms."""
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        raise ConfigError(f"unknown parts {unknown}; choose of {sorted(PARTS)}")
    torch.set_num_threads(options.num_threads)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"args": asdict(options), "environment": facts()}
    for name in options.parts or PARTS:
        found = PARTS[name](options)
        text = f"{heading(name, about['environment'])}\n{found.pop('markdown')}"
        print(text, flush=True)
        (options.out / f"{name}.md").write_text(text, encoding="utf-8")
        write_json(options.out / f"{name}.json", about | found)


def heading(name: str, where: dict[str, Any]) -> str:
    """Command, commit and machine."""
    command = " ".join(["python benchmarks/run.py", *sys.argv[1:]])
    versions = where["packages"] | where["compared_with"]
    known = ", ".join(f"{k} {v}" for k, v in versions.items() if v is not None)
    machine = where["gpu"] or where["cpu"]
    return (
        f"## Speed: {name}\n\n`{command}`, commit `{where['commit']}`, {machine}, "
        f"Python {where['python']}, {known}. Medians and quartiles of rounds.\n"
    )


def facts() -> dict[str, Any]:
    """Machine and versions, those of the libraries compared with included."""
    return run_metadata() | {
        "compared_with": {name: _version(name) for name in ("envpool", "torchdeq")}
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except DynaLayError as error:
        sys.exit(f"error: {error}")
