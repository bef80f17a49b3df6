"""What ``train_agent.py`` does: train an agent, evaluate it, report."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents.base import Agent, Progress
from agents.config import AgentConfig
from agents.environments import (
    Environments,
    build_environments,
    make_picture_envs,
)
from agents.joint_run import JointRun
from agents.options import Options, default_configs, options_dict
from agents.registry import make_agent
from agents.saving import load_agent, load_config, save_agent
from agents.validation import Validation
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation import comparison, figures, tables
from dynalay_gym.evaluation.animation import animate_mazes, choose_mazes
from dynalay_gym.evaluation.diagnostics import difficulty_bins
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.utils.io import make_run_dir, write_json
from dynalay_gym.utils.metrics import MetricWriter, run_metadata

VALIDATION_TAGS = ("validation/return", "validation/accuracy", "validation/compute")


def run(options: Options) -> None:
    """Run the command line; nothing is written before all options are sound."""
    torch.set_num_threads(options.num_threads)
    config = choose_config(options)
    if options.joint:
        run_joint(options, config)
        return
    envs = build_environments(options, config)
    agent = build_agent(options, config, envs)
    folder = make_run_dir(options.log_dir, options.dataset, config.algo)
    print(f"{folder}: {config.algo} on {options.dataset}, penalty {envs.penalty:.4g}")
    with MetricWriter(folder) as writer:
        writer.charts("validation", VALIDATION_TAGS)
        steps = train(options, agent, envs, writer)
        report(options, agent, envs, writer, steps)


def run_joint(options: Options, config: AgentConfig) -> None:
    """Train agent and main network together (or with it frozen), and report."""
    with progress_bar(desc="warm-up", leave=False) as warm_up_bar:

        def on_step(step: int, total: int, loss: float) -> None:
            warm_up_bar.total = total
            move(warm_up_bar, step)

        joint = JointRun(options, config, on_step)
    envs, folder = joint.envs, joint.folder
    what = f"{config.algo} and main network on {options.dataset}"
    print(f"{folder}: {what}, penalty {envs.penalty:.4g}")

    def on_progress(taken: int, words: str) -> None:
        move(bar, taken)
        bar.set_postfix_str(f"main step {joint.trainer.steps} {words}")

    with MetricWriter(folder) as writer:
        writer.charts("validation", VALIDATION_TAGS)
        try:
            with progress_bar(total=joint.total, initial=joint.taken) as bar:
                joint.learn(writer, on_progress)
        except KeyboardInterrupt:
            print(f"continue with the same options, --resume {folder}", file=sys.stderr)
            raise
        measured = joint.take_best()
        save_predictor(folder / "predictor", joint.agent, envs)
        best = replace(options, checkpoint=joint.folder / "best" / "main")
        report(best, joint.agent, envs, writer, joint.total)
    print(f"\nbest pair, after {joint.best_step} decisions: {folder / 'best'}")
    print(f"its network's own break-even penalty: {measured['break_even_penalty']:.4g}")


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


def build_agent(options: Options, config: AgentConfig, envs: Environments) -> Agent:
    """Return the agent: fresh, or a saved one."""
    how: Any = {"seed": options.seed, "baseline_envs": envs.baseline}
    if options.load is None:
        return make_agent(envs.train, config, **how)
    return load_agent(options.load, envs.train, **how)


def train(
    options: Options, agent: Agent, envs: Environments, writer: MetricWriter
) -> int:
    """Train and save the agent; return the steps. Ctrl-C keeps what was learned."""
    steps = options.total_timesteps
    if steps is None:
        steps = agent.config.total_timesteps
    if steps == 0:
        return 0
    draw_references(options, envs, steps)
    target = writer.folder / "agent"
    validation = Validation(agent, envs.validation, envs.penalty, steps)
    try:
        with progress_bar(total=steps) as bar:
            on_progress = follow(validation, writer, bar)
            agent.learn(steps, writer=writer, on_progress=on_progress)
    except KeyboardInterrupt:
        save_agent(target, agent, envs.train, options_dict(options))
        print(f"the agent so far is kept: --load {target}", file=sys.stderr)
        raise
    if options.keep_best:
        validation.restore()
    save_agent(target, agent, envs.train, options_dict(options))
    save_predictor(writer.folder / "predictor", agent, envs)
    return steps


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


def follow(validation: Validation, writer: MetricWriter, bar: Any) -> Progress:
    """Return the callback that moves the bar and, at times, evaluates the agent."""

    def on_progress(taken: int) -> None:
        move(bar, taken)
        result = validation.after(taken)
        if result is not None:
            writer.scalars(result.scalars("validation"), taken)
            bar.set_postfix_str(f"validation return {result.mean_return:.3f}")

    return on_progress


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
    hparams = options_dict(options) | asdict(agent.config)
    writer.hparams(hparams, results[0].scalars("hparam"), steps)
    print(f"\n{title}, {len(split)} samples\n\n{tables.format_table(rows)}\n")
    if "regret" in rows[0]:
        print(tables.format_regret(rows[0]))
    if np.isfinite(results[0].difficulty).all():
        print(f"compute and accuracy by difficulty\n\n{by_difficulty(results)}\n")
    print(tables.format_splits(agent.policy.name, returns))
    draw_inputs(options, agent, envs, writer, results[0], steps)


def by_difficulty(results: list[EvaluationResult]) -> str:
    """Return a table of the agent and the policies that it is best compared with."""
    shown = [results[0].policy, "nop", "always", "max-prob", "fixed-k"]
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
