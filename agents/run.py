"""What ``train_agent.py`` does: train an agent, evaluate it, report."""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents.base import Agent
from agents.config import AgentConfig
from agents.environments import (
    Environments,
    build_environments,
    make_picture_envs,
)
from agents.joint_run import JointRun
from agents.options import Options, default_configs, known_options, options_dict
from agents.saved_runs import SavedRun, add_points
from agents.saving import load_config
from agents.training_run import PlainRun, TrainingRun, build_agent
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation import comparison, figures, tables
from dynalay_gym.evaluation.animation import animate_mazes, choose_mazes
from dynalay_gym.evaluation.diagnostics import difficulty_bins
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.study import Study
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.report.record import BESIDE, RECORD, Viewer, make_record
from dynalay_gym.storage.io import make_run_dir, write_json
from dynalay_gym.storage.metrics import MetricWriter, run_metadata
from dynalay_gym.storage.run_folder import command_line

VALIDATION_TAGS = ("validation/return", "validation/accuracy", "validation/compute")


def run(options: Options) -> None:
    """Run the command line; nothing is written before all options are sound."""
    torch.set_num_threads(options.num_threads)
    config = choose_config(options)
    if options.joint:
        run_joint(options, config)
    elif options.total_timesteps == 0:
        evaluate_only(options, config)
    else:
        run_plain(options, config)


def run_plain(options: Options, config: AgentConfig) -> None:
    """Train an agent and report."""
    with PlainRun(options, config) as one, one.resumable():
        envs, agent = one.envs, one.agent
        print_start(one.folder, options, config, envs)
        with open_writer(one.folder, one.sizes) as writer:
            draw_references(options, envs, one.total)
            train(one, writer)
            save_predictor(one.folder / "predictor", agent, envs)
            report(options, agent, envs, writer, one.total)


def evaluate_only(options: Options, config: AgentConfig) -> None:
    """Report on an agent as it is."""
    envs = build_environments(options, config)
    agent = build_agent(options, config, envs)
    folder = make_run_dir(options.log_dir, options.dataset, config.algo)
    print_start(folder, options, config, envs)
    with open_writer(folder) as writer:
        report(options, agent, envs, writer, 0)


def run_joint(options: Options, config: AgentConfig) -> None:
    """Train agent and main network together (or with it frozen), and report."""
    with progress_bar(desc="warm-up", leave=False) as warm_up_bar:

        def on_step(step: int, total: int, loss: float) -> None:
            warm_up_bar.total = total
            move(warm_up_bar, step)

        joint = JointRun(options, config, on_step)
    envs, folder = joint.envs, joint.folder
    with joint, joint.resumable():
        print_start(folder, options, config, envs)
        with open_writer(folder, joint.sizes) as writer:
            train(joint, writer, lambda: f"main step {joint.trainer.steps}")
            measured = joint.take_best()
            save_predictor(folder / "predictor", joint.agent, envs)
            best = replace(options, checkpoint=folder / "best" / "main")
            report(best, joint.agent, envs, writer, joint.total)
    print(f"\nbest pair, after {joint.best_step} decisions: {folder / 'best'}")
    print(f"its network's own break-even penalty: {measured['break_even_penalty']:.4g}")


def train(
    one: TrainingRun, writer: MetricWriter, prefix: Callable[[], str] = str
) -> None:
    """Let a run learn to its end, beside a bar with a few words on it."""

    def on_progress(taken: int, words: str) -> None:
        move(bar, taken)
        bar.set_postfix_str(f"{prefix()} {words}".strip())

    with progress_bar(total=one.total, initial=one.taken) as bar:
        one.learn(writer, on_progress)


def print_start(
    folder: Path, options: Options, config: AgentConfig, envs: Environments
) -> None:
    """Print what the run is, and where."""
    who = config.algo + (" and main network" if options.joint else "")
    print(f"{folder}: {who} on {options.dataset}, penalty {envs.penalty:.4g}")


def open_writer(folder: Path, sizes: dict[str, int] | None = None) -> MetricWriter:
    """Return the writer of the run's metrics; see `MetricWriter`."""
    writer = MetricWriter(folder, sizes)
    if not sizes:
        writer.charts("validation", VALIDATION_TAGS)
    return writer


def progress_bar(**options: Any) -> Any:
    """Return a bar over timesteps; it shows on terminals only."""
    return tqdm(unit="step", unit_scale=True, disable=None, **options)


def move(bar: Any, taken: int) -> None:
    """Move a bar to a number of timesteps."""
    bar.update(taken - bar.n)
    bar.n = taken  # a bar that is not shown does not count


def choose_config(options: Options) -> AgentConfig:
    """Return the hyper-parameters: the saved agent's, or the command line's."""
    if options.load is None:
        return options.config()
    config = load_config(options.load)
    algo = config.algo
    if options.algo not in (None, algo):
        what = f"holds an agent of {algo}, not of {options.algo}"
        raise ConfigError(f"--load {what}; leave --algo out")
    if options.config(algo) != default_configs()[algo]:
        what = "brings its own hyper-parameters"
        raise ConfigError(f"--load {what}; leave --{algo}.* out")
    return config


def save_predictor(folder: Path, agent: Agent, envs: Environments) -> None:
    """Write main network and greedy policy as one folder that needs no `agents`.

    A network that a predictor cannot run is said so in a line; the run goes on.
    """
    try:
        policy = NetworkPolicy(getattr(agent.policy, "net", agent.module))
    except ConfigError as error:
        print(f"no predictor is written: {error}", file=sys.stderr)
        return
    DynaLayPredictor.from_env(envs.test, policy, penalty=envs.penalty).save(folder)


def draw_references(options: Options, envs: Environments, steps: int) -> None:
    """Draw lines for the curve to be read against, once per network and penalty."""
    folder = options.log_dir.expanduser() / options.dataset / "references"
    name = comparison.problem_name(envs.validation, envs.penalty)
    lines = comparison.reference_lines(envs.validation, envs.penalty)
    tables.write_lines(folder / name, lines, steps)


def report(
    options: Options,
    agent: Agent,
    envs: Environments,
    writer: MetricWriter,
    steps: int,
) -> None:
    """Print the table over the test split and keep it as JSON and in TensorBoard."""
    results = comparison.compare(
        agent.policy, envs.test, envs.validation, envs.penalty, options.seed
    )
    split = load_split(
        options.dataset, "test", data_dir=options.data_dir, download=options.download
    )
    rows = tables.make_rows(results, split.groups.numpy())
    returns = {
        name: evaluate(each, agent.policy, penalty=envs.penalty).mean_return
        for name, each in envs.splits.items()
    }
    about = {
        "command": command_line(),
        "options": options_dict(options),
        "config": asdict(agent.config),
        "split": "test",
        "num_samples": len(split),
        "penalty": envs.penalty,
        "timesteps": steps,
        "environment": run_metadata(),
        "returns": returns,
        "policies": rows,
    }
    write_json(writer.folder / "results.json", about)
    title = f"{options.dataset}, test split, penalty {envs.penalty:.4g}"
    figure = figures.plot_frontier({row["policy"]: [row] for row in rows}, title)
    writer.figure("eval/frontier", figure, steps)
    writer.scalars(results[0].scalars("eval"), steps)
    record_options(options, agent, envs.penalty, writer, results[0], steps)
    print(f"\n{title}, {len(split)} samples\n\n{tables.format_table(rows)}\n")
    if "regret" in rows[0]:
        print(tables.format_regret(rows[0]))
    if np.isfinite(results[0].difficulty).all():
        print(f"compute and accuracy by difficulty\n\n{by_difficulty(results)}\n")
    print(tables.format_splits(agent.policy.name, returns))
    draw_inputs(options, agent, envs, writer, results[0], steps)
    record = make_run_record(options, agent, envs, writer.folder, results, split)
    write_json(writer.folder / RECORD, record)
    print(f"\nas a page: python -m dynalay_gym.report {writer.folder}")


def make_run_record(
    options: Options,
    agent: Agent,
    envs: Environments,
    folder: Path,
    results: list[EvaluationResult],
    split: Split,
) -> dict[str, Any]:
    """Return what a report shows beside the table: frontier, difficulty, inputs."""
    splits = {"validation": envs.validation, "test": envs.test}
    walks = {name: walk_full_plan(each, envs.penalty) for name, each in splits.items()}
    study = Study()
    study.add_cascades(walks)
    run = SavedRun(folder=folder, options=options, config=agent.config)
    add_points(study, run, agent.policy, envs, results[0])
    viewer = Viewer(
        envs=make_picture_envs(options),
        policy=agent.policy,
        penalty=envs.penalty,
        split=split,
        spec=dataset_spec(options.dataset),
    )
    return make_record(results, walks["test"], study, viewer)


def record_options(
    options: Options,
    agent: Agent,
    penalty: float,
    writer: MetricWriter,
    result: EvaluationResult,
    steps: int,
) -> None:
    """Record options and result for TensorBoard's table of runs.

    Options that were left to the algorithm or to the network have the numbers that they
    came to.
    """
    settled = {"algo": agent.config.algo, "penalty": penalty, "total_timesteps": steps}
    own = options_dict(options) | asdict(agent.config) | settled
    metrics = result.scalars("hparam")
    writer.hparams(own, metrics, steps, known_options() | settled)


def by_difficulty(results: list[EvaluationResult]) -> str:
    """Return a table of the agent and the policies that it is best compared with."""
    shown = [results[0].policy, *BESIDE]
    return tables.format_difficulty(
        [
            {"policy": each.policy, "by_difficulty": difficulty_bins([each])}
            for each in results
            if each.policy in shown
        ]
    )


def draw_inputs(
    options: Options,
    agent: Agent,
    envs: Environments,
    writer: MetricWriter,
    result: EvaluationResult,
    steps: int,
) -> None:
    """Record pictures of the easiest and the hardest inputs with the path taken.

    Of mazes it also writes an animation.
    """
    row, policy = make_picture_envs(options), agent.policy
    for kind, samples in figures.extremes(result).items():
        for number, index in enumerate(samples):
            picture = figures.draw_path(row, policy, index, envs.penalty)
            writer.image(f"{kind}/{number}", picture, steps)
    if dataset_spec(options.dataset).hidden_share is not None:
        path = writer.folder / "mazes.gif"
        animate_mazes(row, policy, choose_mazes(result), envs.penalty, path)
        print(f"animation: {path}")
