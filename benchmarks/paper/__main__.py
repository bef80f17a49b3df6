"""The papers' tables and figures, each made by one command.

    python -m benchmarks.paper --experiment fig7 --dataset imdb --folder paper

A run goes on where an earlier one in the same folder ended. Beside the folder of its
units, an experiment gets EXPERIMENT-DATASET.json, .md, .png and .svg.
"""

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
from benchmarks.paper.table1 import Table1
from benchmarks.paper.theory import Theory
from benchmarks.report import write
from dynalay_gym.errors import ConfigError

_ALL: tuple[type[Experiment], ...] = (
    *(Table1, Fig2, Fig3, Fig4, Fig5, Fig6, Fig7),
    *(Cost, CrossValidation, Difficulty, Limits, Theory),
    LCNetCifar10,
)
EXPERIMENTS = {each.name: each for each in _ALL}


@dataclass(frozen=True, kw_only=True)
class Args(Setting):
    """Run what is missing of an experiment, and write its tables and its picture."""

    experiment: str
    """Name of the experiment: table1, fig2 to fig7, cost, crossval, difficulty,
    limits, theory or lcnet_cifar10."""
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
    if args.experiment not in EXPERIMENTS:
        raise ConfigError(
            f"unknown experiment {args.experiment!r}; choose one of "
            f"{sorted(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[args.experiment]()
    unknown = sorted(set(args.arms or ()) - set(experiment.arms))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose of {experiment.arms}")
    # Of a class that other processes can import, unlike `Args`.
    setting = Setting(**{f.name: getattr(args, f.name) for f in fields(Setting)})
    experiment.check(setting)
    stem = args.folder / f"{args.experiment}-{args.dataset}"
    units = all_units(args.arms or experiment.arms, args.seeds)
    rows = run_units(experiment, units, setting, stem, args.jobs, args.ray)
    figure = experiment.draw(rows, setting)
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
    heading = f"# {args.experiment}: {experiment.title}\n"
    tables = experiment.tables(rows, setting)
    print(write(stem, heading, tables, {"setting": setting.facts(), "units": rows}))


if __name__ == "__main__":
    main(tyro.cli(Args))
