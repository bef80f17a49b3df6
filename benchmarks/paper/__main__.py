"""The papers' tables and figures, each made by one command.

    python -m benchmarks.paper --experiment fig7 --dataset imdb --folder paper

A run goes on where an earlier one in the same folder ended. Beside the folder of its
units, an experiment gets EXPERIMENT-DATASET.json, .md, .png and .svg.
"""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from benchmarks.paper.cost import Cost, Difficulty
from benchmarks.paper.crossval import CrossValidation
from benchmarks.paper.experiment import Experiment, Setting
from benchmarks.paper.fig2 import Fig2
from benchmarks.paper.fig3 import Fig3
from benchmarks.paper.fig4 import Fig4
from benchmarks.paper.fig5 import Fig5
from benchmarks.paper.fig6 import Fig6
from benchmarks.paper.fig7 import Fig7
from benchmarks.paper.lcnet_cifar10 import LCNetCifar10
from benchmarks.paper.limits import Limits
from benchmarks.paper.runner import all_units, run_units
from benchmarks.paper.selective import Selective
from benchmarks.paper.table1 import Table1
from benchmarks.paper.terms import Terms
from benchmarks.paper.theory import Theory
from benchmarks.report import write
from dynalay_gym.errors import ConfigError, DynaLayError

_ALL: tuple[type[Experiment], ...] = (
    *(Table1, Fig2, Fig3, Fig4, Fig5, Fig6, Fig7),
    *(Cost, CrossValidation, Difficulty, Limits, Theory, Terms, Selective),
    LCNetCifar10,
)
EXPERIMENTS = {each.name: each for each in _ALL}


@dataclass(frozen=True, kw_only=True)
class Args(Setting):
    """Run what is missing of an experiment, and write its tables and its picture."""

    experiment: str
    """Name of the experiment: table1, fig2 to fig7, cost, crossval, difficulty,
    limits, theory, terms, selective or lcnet_cifar10; or all, for those that the data
    set and the other options allow."""
    folder: Path
    """Where units and results go."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each arm."""
    arms: tuple[str, ...] | None = None
    """Arms to run; all of the experiment if not given."""
    jobs: int = 1
    """Processes."""
    ray: str | None = None
    """Run units as tasks of Ray (the extra ``ray``): ``auto`` for the cluster that this
    machine belongs to, the address of another one, or ``local`` for as many processes
    as --jobs. All machines have this project, its data and the folder at the same
    path."""


def main(args: Args) -> None:
    """Run, and write what was found."""
    # Of a class that other processes can import, unlike `Args`.
    setting = Setting(**{f.name: getattr(args, f.name) for f in fields(Setting)})
    if args.experiment != "all":
        if args.experiment not in EXPERIMENTS:
            raise ConfigError(
                f"unknown experiment {args.experiment!r}; choose one of "
                f"{sorted(EXPERIMENTS)}, or all"
            )
        _run(EXPERIMENTS[args.experiment](), args, setting)
        return
    if args.arms is not None:
        raise ConfigError("--arms are of one experiment; name it, or leave them out")
    _run_all(args, setting)


def _run_all(args: Args, setting: Setting) -> None:
    """Run every experiment that the setting allows, whatever becomes of the others."""
    setting.facts()  # an error in it is no matter of experiments
    failed, was_run = [], False
    for experiment in (make() for make in EXPERIMENTS.values()):
        try:
            experiment.check(setting)
        except ConfigError as error:
            print(f"{experiment.name} is left out: {error}", flush=True)
            continue
        was_run = True
        started = time.monotonic()
        try:
            _run(experiment, args, setting)
        except DynaLayError as error:
            print(f"{experiment.name} has failed: {error}", flush=True)
            failed.append(experiment.name)
            continue
        minutes = (time.monotonic() - started) / 60
        print(f"{experiment.name}: {minutes:.1f} minutes", flush=True)
    if failed:
        raise ConfigError(f"{', '.join(failed)} failed; the messages are above")
    if not was_run:
        raise ConfigError("no experiment fits these options; the reasons are above")


def _run(experiment: Experiment, args: Args, setting: Setting) -> None:
    """Run what is missing of one experiment; write its tables and its picture."""
    unknown = sorted(set(args.arms or ()) - set(experiment.arms))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose of {experiment.arms}")
    experiment.check(setting)
    stem = args.folder / f"{experiment.name}-{args.dataset}"
    units = all_units(args.arms or experiment.arms, args.seeds)
    rows = run_units(experiment, units, setting, stem, args.jobs, args.ray)
    figure = experiment.draw(rows, setting)
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
    heading = f"# {experiment.name}: {experiment.title}\n"
    tables = experiment.tables(rows, setting)
    facts = {"setting": setting.facts(), "units": rows}
    print(write(stem, heading, tables, facts), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
