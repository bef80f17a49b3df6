"""Run folders of ``train_agent.py``: read, and evaluated as points of a study."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import AgentConfig
from agents.environments import Environments, build_environments, env_arguments
from agents.options import PENALTIES, Options
from agents.saving import load_agent, load_facts
from dynalay_gym.errors import CheckpointError
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.study import Study
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.integrations.policies import load_policy
from dynalay_gym.networks.policy import Policy

BREAK_EVEN = "break-even"
# Options of the training that do not matter afterwards.
_TRAINING = {"load", "log_dir", "resume", "warm_up_from", "co_train", "freeze_main"}
_TRAINING |= {"co", "configs"}


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A trained agent and the options that it was trained with.

    Attributes:
        folder: Folder of the agent.
        options: Those of its training, some of them replaced.
        config: Its hyper-parameters.
    """

    folder: Path
    options: Options
    config: AgentConfig

    @property
    def penalty_range(self) -> tuple[float, float] | None:
        """Lowest and highest penalty that it has learned; None if it is one penalty."""
        return _penalty_range(self.options)

    @property
    def label(self) -> str:
        """Its name in tables: agents of one penalty and of a range are two policies."""
        return self.config.algo + ("-range" if self.penalty_range else "")


def load_run(folder: Path, changes: Mapping[str, Any]) -> SavedRun:
    """Read a run folder.

    Args:
        folder: The run folder, or the ``agent`` folder in it. Of a co-training, the
            best pair is taken.
        changes: Options that replace those of the training.

    Raises:
        DynaLayError: There is no whole agent in it, or the options are unsound.
    """
    pair: dict[str, Any] = {}
    if (folder / "best").is_dir():
        folder, pair = folder / "best", {"checkpoint": folder / "best" / "main"}
    if (folder / "agent").is_dir():
        folder = folder / "agent"
    config, facts = load_facts(folder)
    if "dataset" not in facts:
        raise CheckpointError(
            f"the agent at {folder} does not say what it was trained on; give a run "
            "folder of train_agent.py"
        )
    options = replace(_options(folder, facts), **pair | dict(changes))
    options.check()
    return SavedRun(folder=folder, options=options, config=config)


def _options(folder: Path, facts: Mapping[str, Any]) -> Options:
    """Return the options of a training that still matter, from its agent's facts."""
    known = {field.name for field in fields(Options)} - _TRAINING
    given = {name: value for name, value in facts.items() if name in known}
    try:
        for name in ("checkpoint", "data_dir"):
            given[name] = given.get(name) and Path(given[name])
        options = Options(**given)
        options.check()
        _penalty_range(options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the options of the agent at {folder} are none of this version ({error}); "
            "train it again"
        ) from None
    return options


def _penalty_range(options: Options) -> tuple[float, float] | None:
    low, _, high = (options.penalty or "").partition(":")
    if not high:
        return None
    if not 0 <= float(low) <= float(high) < math.inf or float(high) == 0:
        raise ValueError(f"{options.penalty!r} is no range of penalties")
    return float(low), float(high)


def study_runs(
    runs: Sequence[SavedRun],
    problem: Options,
    num_penalties: int,
    on_progress: Callable[[str], None],
    policies: Sequence[str] = (),
) -> Study:
    """Evaluate agents, and the reference policies on every network that they act on.

    Args:
        runs: The agents.
        problem: What is studied if there are no agents; its penalty is the one at which
            agents of a range are compared.
        num_penalties: Penalties of its range at which an agent is evaluated.
        on_progress: Called with a line before every part.
        policies: Policies of one's own; see `load_policy`. They act on the first run's
            network if there are runs.

    Raises:
        DynaLayError: Options are wrong, or files missing or unfit.
    """
    study, known = Study(), set[str]()
    if not runs:
        add_references(study, problem, problem.config(), known)
    for run in runs:
        on_progress(f"{run.folder}: {run.label} on {run.options.dataset}")
        options = run.options
        if run.penalty_range is not None:
            options = replace(options, penalty=problem.penalty)
        envs = add_references(study, options, run.config, known)
        add_agent(study, run, options, envs, num_penalties)
    for place in policies:
        on_progress(place)
        options = replace(runs[0].options, penalty=problem.penalty) if runs else problem
        envs = add_references(study, options, problem.config(), known)
        policy = load_policy(place, envs.test.unwrapped)
        add_policy(study, policy, options, envs)
    return study


def add_references(
    study: Study, options: Options, config: AgentConfig, known: set[str]
) -> Environments:
    """Add what a walk over every split says, where it is not known yet.

    Args:
        study: Where to.
        options: The problem.
        config: Of the agent that will act on it.
        known: Networks and penalties that have been added; it grows.

    Returns:
        The environments.
    """
    envs = build_environments(options, config)
    network = repr(env_arguments(options) | {"penalty": None})
    if network + str(options.penalty) in known:
        return envs
    walks = {
        split: walk_full_plan(each, envs.penalty) for split, each in envs.splits.items()
    }
    study.add_tuned_cascades(options.penalty or BREAK_EVEN, walks)
    if network not in known:
        study.add_cascades(walks)
    known |= {network, network + str(options.penalty)}
    return envs


def add_agent(
    study: Study,
    run: SavedRun,
    options: Options,
    envs: Environments,
    num_penalties: int,
) -> None:
    """Add an agent: on all splits at one penalty, then along its range."""
    agent = load_agent(run.folder, envs.train, baseline_envs=envs.baseline)
    policy: Policy = agent.policy
    result = add_tuned(study, policy, run.label, options, envs)
    add_points(study, run, policy, envs, result, num_penalties)


def add_points(
    study: Study,
    run: SavedRun,
    policy: Policy,
    envs: Environments,
    result: EvaluationResult,
    num_penalties: int = PENALTIES,
) -> None:
    """Add an agent's frontier: one point, or several along its range of penalties.

    Args:
        study: Where to.
        run: The agent's.
        policy: What it does.
        envs: The environments.
        result: Its evaluation on the test split at `envs.penalty`.
        num_penalties: Points along a range.
    """
    if run.penalty_range is None:
        study.add(run.label, run.options.penalty or BREAK_EVEN, result)
        return
    low, high = run.penalty_range
    for each in np.geomspace(max(low, high / 100), high, num_penalties):
        found = evaluate(envs.test, policy, penalty=float(each))
        study.add(run.label, f"{each:.4g}", found)


def add_policy(
    study: Study, policy: Policy, options: Options, envs: Environments
) -> None:
    """Add a policy of somebody's own: one point, at the penalty of the problem."""
    found = add_tuned(study, policy, policy.name, options, envs)
    study.add(policy.name, options.penalty or BREAK_EVEN, found)


def add_tuned(
    study: Study, policy: Policy, label: str, options: Options, envs: Environments
) -> EvaluationResult:
    """Add what a policy does on all splits at one penalty; return it for the test."""
    results = {
        split: evaluate(each, policy, penalty=envs.penalty)
        for split, each in envs.splits.items()
    }
    study.add_tuned(options.penalty or BREAK_EVEN, label, results)
    return results["test"]
