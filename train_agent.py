"""Train an agent on a DynaLay environment and compare it with every reference policy.

The table at the end covers the whole test split. Everything is kept in a run folder:
the agent, results.json, and curves for TensorBoard.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agents.config import AgentConfig
from agents.options import Options, default_configs, options_dict
from dynalay_gym.errors import ConfigError, DynaLayError

if TYPE_CHECKING:
    from agents.base import Agent, Progress
    from agents.environments import Environments
    from agents.validation import Validation
    from dynalay_gym.cotraining.warm_up import OnStep
    from dynalay_gym.utils.metrics import MetricWriter


def main() -> int:
    """Run the script; return the exit code."""
    try:
        options = tyro.cli(Options)
        options.check()
        run(options)
    except DynaLayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run(options: Options) -> None:
    """Train, evaluate and report; nothing is written before all options are sound."""
    import torch

    from agents.environments import build_environments
    from agents.validation import split_returns
    from dynalay_gym.utils.io import make_run_dir
    from dynalay_gym.utils.metrics import MetricWriter

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
        steps = train(options, agent, envs, writer)
        returns = split_returns(options, agent, envs)
        report(options, agent, envs, writer, steps, returns)


def run_joint(options: Options, config: AgentConfig) -> None:
    """Train agent and main network together (or with it frozen), and report."""
    from agents.joint_run import JointRun
    from dynalay_gym.utils.metrics import MetricWriter

    joint = JointRun(options, config, warm_up_bar())
    envs, folder = joint.envs, joint.folder
    what = f"{config.algo} and main network on {options.dataset}"
    print(f"{folder}: {what}, penalty {envs.penalty:.4g}")

    def on_progress(taken: int, words: str) -> None:
        move(bar, taken)
        steps = 0 if joint.trainer is None else joint.trainer.steps
        bar.set_postfix_str(f"main step {steps} {words}")

    with MetricWriter(folder) as writer:
        try:
            with progress_bar(joint.total, initial=joint.taken) as bar:
                joint.learn(writer, on_progress)
        except KeyboardInterrupt:
            print(f"continue with the same options, --resume {folder}", file=sys.stderr)
            raise
        measured = joint.take_best()
        save_predictor(folder / "predictor", joint.agent, envs)
        report(options, joint.agent, envs, writer, joint.total)
    print(f"\nbest pair, after {joint.best_step} decisions: {folder / 'best'}")
    print(f"its network's own break-even penalty: {measured['break_even_penalty']:.4g}")


def warm_up_bar() -> "OnStep":
    """Return the callback that shows the main network's warm-up."""
    bar: Any = None

    def on_step(step: int, total: int, loss: float) -> None:
        nonlocal bar
        if bar is None:
            bar = progress_bar(total, desc="warm-up", unit_scale=False)
        move(bar, step)
        if step == total:
            bar.close()

    return on_step


def progress_bar(total: int, **options: Any) -> Any:
    """Return a bar over timesteps; it shows on terminals only."""
    from tqdm import tqdm

    defaults = {"unit": "step", "unit_scale": True, "disable": None}
    return tqdm(total=total, **defaults | options)


def move(bar: Any, taken: int) -> None:
    """Move a bar to a number of timesteps."""
    bar.update(taken - bar.n)
    bar.n = taken  # a bar that is not shown does not count


def choose_config(options: Options) -> AgentConfig:
    """Return the hyper-parameters: the saved agent's, or the command line's."""
    if options.load is None:
        return options.config()
    from agents.saving import load_config

    config = load_config(options.load)
    algo = config.algo
    if options.algo not in (None, algo):
        what = f"holds an agent of {algo}, not of {options.algo}"
        raise ConfigError(f"--load {what}; leave --algo out")
    if options.config(algo) != default_configs()[algo]:
        what = "brings its own hyper-parameters"
        raise ConfigError(f"--load {what}; leave --{algo}.* out")
    return config


def build_agent(options: Options, config: AgentConfig, envs: "Environments") -> "Agent":
    """Return the agent: fresh, or a saved one."""
    from agents.registry import make_agent
    from agents.saving import load_agent

    how: Any = {"seed": options.seed, "baseline_envs": envs.baseline}
    if options.load is None:
        return make_agent(envs.train, config, **how)
    return load_agent(options.load, envs.train, **how)


def train(
    options: Options, agent: "Agent", envs: "Environments", writer: "MetricWriter"
) -> int:
    """Train and save the agent; return the steps. Ctrl-C keeps what was learned."""
    from agents.saving import save_agent
    from agents.validation import Validation

    steps = options.total_timesteps
    if steps is None:
        steps = agent.config.total_timesteps
    if steps == 0:
        return 0
    target = writer.folder / "agent"
    validation = Validation(agent, envs.validation, envs.penalty, steps)
    try:
        with progress_bar(steps) as bar:
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


def save_predictor(folder: Path, agent: "Agent", envs: "Environments") -> None:
    """Write main network and greedy policy as one folder that needs no `agents`.

    A network that a predictor cannot run is said so in a line; the run goes on.
    """
    from dynalay_gym.predictor.policies import NetworkPolicy
    from dynalay_gym.predictor.predictor import DynaLayPredictor

    try:
        policy = NetworkPolicy(getattr(agent.policy, "net", agent.module))
    except ConfigError as error:
        print(f"no predictor is written: {error}", file=sys.stderr)
        return
    DynaLayPredictor.from_env(envs.test, policy, penalty=envs.penalty).save(folder)


def follow(validation: "Validation", writer: "MetricWriter", bar: Any) -> "Progress":
    """Return the callback that moves the bar and, at times, evaluates the agent."""

    def on_progress(taken: int) -> None:
        move(bar, taken)
        result = validation.after(taken)
        if result is not None:
            writer.scalars(result.scalars("validation"), taken)
            bar.set_postfix_str(f"validation return {result.mean_return:.3f}")

    return on_progress


def report(
    options: Options,
    agent: "Agent",
    envs: "Environments",
    writer: "MetricWriter",
    steps: int,
    returns: dict[str, float] | None = None,
) -> None:
    """Print the table over the test split and keep it as JSON and in TensorBoard.

    Args:
        options: The command line.
        agent: The agent.
        envs: The environments of the run.
        writer: The run's metrics.
        steps: Decisions that the agent was trained on.
        returns: Its mean return on other splits, by name.
    """
    from dynalay_gym.data.splits import load_split
    from dynalay_gym.evaluation import comparison, figures, tables
    from dynalay_gym.utils.metrics import run_metadata

    results = comparison.compare(
        agent.policy, envs.test, envs.validation, envs.penalty, options.seed
    )
    split = load_split(
        options.dataset, "test", data_dir=options.data_dir, download=options.download
    )
    rows = tables.make_rows(results, split.groups.numpy())
    about = {
        "options": options_dict(options),
        "config": asdict(agent.config),
        "split": "test",
        "num_samples": len(split),
        "penalty": envs.penalty,
        "timesteps": steps,
        "returns": returns,
        "environment": run_metadata(),
    }
    tables.write_results(writer.folder, rows, steps, about)
    title = f"{options.dataset}, test split, penalty {envs.penalty:.4g}"
    writer.figure("eval/accuracy_compute", figures.plot_rows(rows, title), steps)
    hparams = options_dict(options) | asdict(agent.config)
    writer.hparams(hparams, results[0].scalars("hparam"), steps)
    print(f"\n{title}, {len(split)} samples\n\n{tables.format_table(rows)}")
    print(f"\n{tables.format_regret(rows[0])}")
    for name, value in (returns or {}).items():
        print(f"return on the {name} split: {value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
