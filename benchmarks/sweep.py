"""A sweep over the hyper-parameters of an algorithm, by one process or by many.

    python -m benchmarks.sweep --folder runs/sweep --trials 40 --dataset digits

All other flags are those of ``train_agent.py``. The same command, started once more,
helps: on this machine, or on another that shares the disk. Started again after an end
of any kind, it goes on. Needs Optuna, the extra ``sweep``.

Agents learn and are validated on transition tables. A trial's value is the mean over
seeds of the validation return; one that falls behind with the first seed is ended. The
best of many is flattered by its value: the command that is printed at the end trains
such an agent and evaluates it on the test split.
"""

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from gymnasium.vector import VectorEnv
from tyro.conf import arg

from agents.config import AgentConfig
from agents.environments import make_envs, make_evaluation_envs
from agents.options import Options
from agents.registry import make_agent
from agents.training_run import run_settings
from benchmarks.report import table
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.storage.io import plain, write_json
from dynalay_gym.storage.metrics import run_metadata
from dynalay_gym.utils.flags import flag, short_errors
from dynalay_gym.utils.ranges import Count, Seed, check_fields
from dynalay_gym.utils.scripts import run_script

if TYPE_CHECKING:
    from benchmarks.shared_study import Report, SharedStudy, Space

VALIDATIONS = 10  # of each training
SHOWN = 10  # trials of the table
# What is searched, by algorithm; see `Space` in `benchmarks.shared_study`.
SPACES: "dict[str, Space]" = {
    "ppo": {
        "learning_rate": (3e-4, 1e-2),
        "ent_coef": (1e-4, 5e-2),
        "n_steps": [8, 16, 32],
        "n_epochs": [5, 10, 20],
        "batch_size": [256, 1024, 4096],
        "initial_stop_probability": [0.02, 0.05, 0.2],
    },
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Look for the hyper-parameters with the best validation return."""

    folder: Path
    """Of the sweep; give an earlier one to go on, or to help those that are at it."""
    trials: Count = 40
    """Sets of options that are tried, by all processes together."""
    agent_seeds: tuple[Seed, ...] = (0,)
    """Seeds that every set is trained with; --seed is that of the proposals."""
    options: Annotated[Options, arg(name="")] = field(default_factory=Options)

    @property
    def config(self) -> AgentConfig:
        """Where the options that are not searched come from."""
        return self.options.config()

    def check(self) -> None:
        """Check the command line.

        Raises:
            ConfigError: An option is out of range, or not for a sweep; or Optuna is
                not installed.
        """
        check_fields(self, "", leave_out="options")
        self.options.check()
        if self.options.joint or self.options.load or self.options.resume:
            raise ConfigError(
                "a sweep trains fresh agents; leave --co-train, --freeze-main, --load "
                "and --resume out"
            )
        if not self.agent_seeds or self.options.total_timesteps == 0:
            raise ConfigError(
                "there is nothing to train; give --agent-seeds a seed, and "
                "--total-timesteps more than 0"
            )
        if self.config.algo not in SPACES:
            raise ConfigError(
                f"--algo {self.config.algo} has no search space; add one to SPACES in "
                f"benchmarks/sweep.py, or choose from {', '.join(SPACES)}"
            )
        for name, searched in SPACES[self.config.algo].items():
            check_searched(
                flag(name, self.config.algo), getattr(self.config, name), searched
            )
        if find_spec("optuna") is None:
            raise ConfigError('Optuna is missing: pip install "dynalay-gym[sweep]"')


def check_searched(name: str, value: Any, searched: Any) -> None:
    """Raise ConfigError if a sweep cannot begin with the value of an option."""
    is_range = isinstance(searched, tuple)
    if searched[0] <= value <= searched[1] if is_range else value in searched:
        return
    words = " to ".join(map(str, searched)) if is_range else f"one of {searched}"
    raise ConfigError(
        f"{name} {value} is not among what is searched ({words}); leave it out, or "
        "change SPACES in benchmarks/sweep.py"
    )


def main(args: Args) -> None:
    """Run trials, alone or beside other processes, until there are enough; report."""
    args.check()
    from benchmarks.shared_study import SharedStudy

    torch.set_num_threads(args.options.num_threads)
    space = SPACES[args.config.algo]
    settings = run_settings(args.options, args.config) | {
        "agent_seeds": plain(args.agent_seeds),
        "space": plain(space),
    }
    first = {name: getattr(args.config, name) for name in space}
    study = SharedStudy(args.folder, space, settings, first, args.options.seed)
    study.work(objective(args), args.trials)
    report(args, study)


def objective(args: Args) -> "Callable[[dict[str, Any], Report], float]":
    """Return the function that says what a set of options is worth."""
    fixed = None if ":" in (args.options.penalty or "") else args.options.penalty
    validation = make_evaluation_envs(args.options, "validation", fixed, "table")

    def value(given: dict[str, Any], report: "Report") -> float:
        config = replace(args.config, **rounded(given))
        numbers = range(len(args.agent_seeds))
        return mean(train(args, config, each, validation, report) for each in numbers)

    return value


def train(
    args: Args,
    config: AgentConfig,
    number: int,
    validation: VectorEnv,
    report: "Report",
) -> float:
    """Return the validation return of an agent.

    Args:
        args: The command line.
        config: The hyper-parameters.
        number: Which of the seeds it is trained with, from 0.
        validation: Where it is evaluated after each tenth of the training.
        report: Gets what is found there with the first seed, before the end.
    """
    options, found, before = args.options, list[float](), 0
    how: Any = {"transitions": "table", "output": config.output}
    rows = options.num_envs or config.num_envs
    envs = make_envs(options, "agent", options.penalty, rows, **how)
    agent = make_agent(envs, config, seed=args.agent_seeds[number])
    total = options.total_timesteps or config.total_timesteps

    def follow(taken: int) -> None:
        nonlocal before
        tenths = min(VALIDATIONS * taken // total, VALIDATIONS)
        if tenths > before:
            before = tenths
            found.append(evaluate(validation, agent.policy).mean_return)
            if number == 0 and tenths < VALIDATIONS:
                report(tenths, found[-1])

    agent.learn(total, on_progress=follow)
    return max(found) if options.keep_best else found[-1]


def rounded(given: dict[str, Any]) -> dict[str, Any]:
    """Return options with numbers short enough to be typed."""
    return {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in given.items()
    }


def report(args: Args, study: "SharedStudy") -> None:
    """Print the best trials and the command that trains the best; write all."""
    rows: list[dict[str, Any]] = [
        {"trial": each.number, "state": each.state.name.lower(), "return": each.value}
        | rounded(each.params)
        | {"validations": each.intermediate_values}
        | each.user_attrs
        for each in study.trials()
    ]
    done = [row for row in rows if row["state"] == "complete"]
    names = SPACES[args.config.algo]
    columns = {"trial": ("trial", ""), "return": ("return", ".4f")}
    print(table(columns | {name: (name, "") for name in names}, done[:SHOWN]))
    states = [row["state"] for row in rows]
    counts = (f"{states.count(state)} {state}" for state in sorted(set(states)))
    print(f"\n{', '.join(counts)}; trial 0 is what the command line asked for")
    best = {name: done[0][name] for name in names} if done else {}
    words = command(args.options, replace(args.config, **best))
    if done:
        print(f"\nthe best as an agent that is tested:\n\n{words}")
    facts = {"best": best, "command": words, "trials": rows}
    write_json(args.folder / "results.json", facts | {"environment": run_metadata()})


def command(options: Options, config: AgentConfig) -> str:
    """Return the command line that trains with options and hyper-parameters."""
    plain_options = [f.name for f in fields(options) if f.name not in ("co", "configs")]
    given = replace(options, algo=config.algo, transitions="table")
    words = ["python", "train_agent.py"]
    for name in plain_options:
        words += flags(name, getattr(given, name), getattr(Options(), name))
    default = Options().config(config.algo)
    for name, value in asdict(config).items():
        words += flags(name, value, getattr(default, name), config.algo)
    return shlex.join(words)


def flags(name: str, value: Any, default: Any, group: str = "") -> Iterator[str]:
    """Yield the words that set an option; none if it has its default."""
    if value == default:
        return
    if isinstance(value, bool):
        yield flag(name if value else f"no-{name}", group)
        return
    yield flag(name, group)
    yield from map(str, value if isinstance(value, tuple) else [value])


def parse() -> Args:
    """Read the command line."""
    with short_errors():
        return tyro.cli(Args)


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse())))
