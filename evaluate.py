"""Compare trained agents and reference policies over their whole range of compute.

    python evaluate.py runs/digits/ppo/0 runs/digits/ppo/1 runs/digits/exact/0
    python evaluate.py --dataset digits --policy my_module:make_policy

Prints two tables over the test split: accuracy at budgets of compute, and what is known
of each policy where it is best. They are kept as JSON, as a figure and in TensorBoard.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from msgspec import Meta
from tyro.conf import Positional

from agents.options import PENALTIES, Options
from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.flags import short_errors
from dynalay_gym.utils.ranges import (
    Iterations,
    NotNegative,
    Portion,
    Threads,
    Tolerance,
    check_fields,
)
from dynalay_gym.utils.scripts import run_script

if TYPE_CHECKING:
    from agents.saved_runs import SavedRun

# Options of the problem: what is given replaces that of the agents' training.
PROBLEM = "dataset checkpoint alpha reward rtol max_steps iterations_per_action recall"
PROBLEM += " transitions device data_dir download"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare agents and reference policies over their whole range of compute.

    Options that are not given are those of the runs, or of train_agent.py.
    """

    runs: Annotated[tuple[Path, ...], Positional] = ()
    """Run folders that train_agent.py wrote; without any, the reference policies."""
    policy: tuple[str, ...] = ()
    """Policies of your own, module:function: called with the environment, the function
    returns a policy, a network, a model with predict(), or a function of
    observations."""
    penalty: str | None = None
    """Weight of compute that policies are tuned for and compared at; of runs that were
    trained at one penalty each, their own. Default: the break-even."""
    penalties: Annotated[int, Meta(ge=1, le=1000)] = PENALTIES
    """How many penalties of its range an agent is evaluated at."""
    dataset: str | None = None
    """Default: that of the runs, or maze."""
    checkpoint: Path | None = None
    """Folder of the main network. Default: that of the runs, or the shipped one."""
    alpha: NotNegative | None = None
    """Weight of a right answer in the reward."""
    reward: str | None = None
    """paper, three-term, log-score or blockdrop."""
    rtol: Tolerance | None = None
    """Relative tolerance of the fixed-point solver."""
    max_steps: Iterations | None = None
    """Most iterations of a solve."""
    iterations_per_action: Portion | None = None
    """Iterations that a choice adds to its layer's solve."""
    recall: bool | None = None
    """Answer with the most confident state that was visited."""
    transitions: Literal["live", "table"] | None = None
    """live or table, for all splits but the test split."""
    device: str | None = None
    """auto, cpu or cuda."""
    data_dir: Path | None = None
    """Folder with the data sets' files."""
    download: bool | None = None
    """Download a data set that is missing."""
    num_threads: Threads = 1
    """Threads of torch."""
    log_dir: Path = Path("runs")
    """Where the folder of the evaluation is made."""


def main() -> int:
    """Run the script; return the exit code."""
    return run_script(evaluate)


def evaluate() -> None:
    """Read the command line and do what it says."""
    with short_errors():
        args = tyro.cli(Args)
    check_fields(args, "")
    run(args)


def run(args: Args) -> None:
    """Evaluate and report; nothing is written before all has been evaluated."""
    import torch

    from agents.saved_runs import load_run, study_runs
    from dynalay_gym.data.splits import load_split

    torch.set_num_threads(args.num_threads)
    names = PROBLEM.split()
    given = {name: getattr(args, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    runs = [load_run(folder, changes) for folder in args.runs]
    problem = Options(**changes | {"penalty": args.penalty})
    problem.check()
    dataset = check_one_dataset(runs, problem)
    study = study_runs(runs, problem, args.penalties, print, args.policy)
    files: Any = {"data_dir": problem.data_dir, "download": problem.download}
    split = load_split(dataset, "test", **files)
    summary = study.summary(split.groups.numpy())
    report(args, dataset, len(split), summary)


def check_one_dataset(runs: "list[SavedRun]", problem: Options) -> str:
    """Return the data set of all runs.

    Raises:
        ConfigError: There are several.
    """
    found = sorted({run.options.dataset for run in runs} or {problem.dataset})
    if len(found) > 1:
        raise ConfigError(
            f"the runs are on several data sets ({', '.join(found)}); evaluate those "
            "of one at a time"
        )
    return found[0]


def report(args: Args, dataset: str, num: int, summary: dict[str, Any]) -> None:
    """Print the tables and keep everything in a new folder."""
    from dynalay_gym.evaluation import figures, tables
    from dynalay_gym.storage.io import make_run_dir, write_file, write_json
    from dynalay_gym.storage.metrics import MetricWriter, run_metadata

    full, title = summary["full_plan"], f"{dataset}, test split, {num} samples"
    accuracies = f"{full['nop_accuracy']:.1%} to {full['always_accuracy']:.1%}"
    rates = f"breakage {full['breakage']:.3f}, repair {full['repair']:.3f}"
    print(f"\n{title}; full plan: {accuracies}, {rates}\n")
    print(tables.format_frontiers(summary["frontiers"]))
    agents = [row for row in summary["frontiers"] if "lead" in row]
    if agents:
        print("\nahead of the cascade that is best at it\n")
        print(tables.format_frontiers(agents, "lead"))
    for penalty in dict.fromkeys(row["penalty"] for row in summary["tuned"]):
        rows = [row for row in summary["tuned"] if row["penalty"] == penalty]
        print(
            f"\nchosen for return at penalty {penalty}\n\n{tables.format_tuned(rows)}"
        )
        if rows[0]["by_difficulty"]:
            print(f"\n{tables.format_difficulty(rows)}")
    folder = make_run_dir(args.log_dir, dataset, "evaluation")
    about = {"args": vars(args), "environment": run_metadata()}
    write_json(folder / "evaluation.json", about | summary)
    curves = {row["policy"]: row["points"] for row in summary["frontiers"]}
    figure = figures.plot_frontier(curves, title, [row["policy"] for row in agents])
    for kind in ("png", "svg"):
        draw = partial(figure.savefig, format=kind, dpi=150)
        write_file(folder / f"frontier.{kind}", draw)
    with MetricWriter(folder) as writer:
        writer.figure("frontier", figure, 0)
    tables.write_frontiers(folder, summary["frontiers"])
    print(f"\n{folder}: evaluation.json, frontier.png, frontier.svg")


if __name__ == "__main__":
    sys.exit(main())
