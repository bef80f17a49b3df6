"""Train an agent on a DynaLay environment and compare it with every reference policy.

The table at the end covers the whole test split. Everything is kept in a run folder:
the agent, results.json, and curves for TensorBoard.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agents.config import CONFIGS, AgentConfig
from agents.options import Options, options_dict
from dynalay_gym.errors import ConfigError, DynaLayError

if TYPE_CHECKING:
    from agents.base import Agent, Progress
    from agents.environments import Environments
    from agents.joint_folder import OnStep
    from agents.joint_run import CoRun
    from dynalay_gym.evaluation.evaluate import EvaluationResult
    from dynalay_gym.utils.metrics import MetricWriter

VALIDATIONS = 10  # walks over the validation split during a training


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
    from dynalay_gym.utils.io import make_run_dir
    from dynalay_gym.utils.metrics import MetricWriter

    torch.set_num_threads(options.num_threads)
    config = choose_config(options)
    if options.joint:
        run_joint(options, config)
        return
    envs = build_environments(options, config)
    agent = build_agent(options, config, envs)
    folder = make_run_dir(options.log_dir, options.dataset, agent.algo)
    print(f"{folder}: {agent.algo} on {options.dataset}, penalty {envs.penalty:.4g}")
    with MetricWriter(folder) as writer:
        steps = train(options, agent, envs, writer, folder)
        compare(options, agent, envs, writer, folder, steps)


def run_joint(options: Options, config: AgentConfig) -> None:
    """Train agent and main network together (or with it frozen), and report."""
    from agents.joint_run import CoRun
    from dynalay_gym.utils.metrics import MetricWriter

    joint = CoRun(options, config, warm_up_bar())
    if not joint.leads:  # a further process of torchrun: it only helps to learn
        joint.learn(None, lambda taken, words: None)
        joint.workers.leave()
        return
    envs, folder = joint.envs, joint.folder
    print(
        f"{folder}: {joint.agent.algo} and main network on {options.dataset}, ", end=""
    )
    print(f"penalty {envs.penalty:.4g}")
    with MetricWriter(folder) as writer:
        try:
            learn_jointly(joint, writer)
        except KeyboardInterrupt:
            print(f"go on with the same options and --resume {folder}", file=sys.stderr)
            raise
        joint.workers.leave()
        joint.take_best()
        measured = joint.measure_best()
        save_predictor(folder / "predictor", joint.agent, envs)
        compare(options, joint.agent, envs, writer, folder, joint.total)
    print(f"\nbest pair, after {joint.best_step} decisions: {folder / 'best'}")
    print(f"its network's own break-even penalty: {measured['break_even_penalty']:.4g}")


def learn_jointly(joint: "CoRun", writer: "MetricWriter") -> None:
    """Train with one bar over both networks."""
    from tqdm import tqdm

    with tqdm(
        total=joint.total,
        initial=joint.taken,
        unit="step",
        unit_scale=True,
        disable=None,
    ) as bar:
        seen = joint.taken

        def on_progress(taken: int, words: str) -> None:
            nonlocal seen
            bar.update(taken - seen)
            seen = taken
            steps = 0 if joint.trainer is None else joint.trainer.steps
            bar.set_postfix_str(f"main step {steps} {words}")

        joint.learn(writer, on_progress)


def warm_up_bar() -> "OnStep":
    """Return the callback that shows the main network's warm-up."""
    from tqdm import tqdm

    bar = None

    def on_step(step: int, total: int, loss: float) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc="warm-up", total=total, unit="step", disable=None)
        bar.update(step - bar.n)
        if step == total:
            bar.close()

    return on_step


def choose_config(options: Options) -> AgentConfig:
    """Return the hyper-parameters: the saved agent's, or the command line's."""
    if options.load is None:
        return options.config(options.algo or "ppo")
    from agents.saving import load_config

    config = load_config(options.load)
    algo = next(name for name, kind in CONFIGS.items() if type(config) is kind)
    if options.algo not in (None, algo):
        raise ConfigError(
            f"--load holds an agent of {algo}, not of {options.algo}; leave --algo out"
        )
    if options.config(algo) != CONFIGS[algo]():
        raise ConfigError(
            f"--load brings its own hyper-parameters; leave --{algo}.* out"
        )
    return config


def build_agent(options: Options, config: AgentConfig, envs: "Environments") -> "Agent":
    """Return the agent: fresh, or a saved one."""
    from agents.saving import load_agent, make_agent

    if options.load is None:
        return make_agent(
            envs.train, config, seed=options.seed, baseline_envs=envs.baseline
        )
    return load_agent(
        options.load, envs.train, seed=options.seed, baseline_envs=envs.baseline
    )


def train(
    options: Options,
    agent: "Agent",
    envs: "Environments",
    writer: "MetricWriter",
    folder: Path,
) -> int:
    """Train and save the agent; return the steps. Ctrl-C keeps what was learned."""
    from tqdm import tqdm

    from agents.saving import save_agent

    steps = options.total_timesteps
    if steps is None:
        steps = agent.config.total_timesteps
    if steps == 0:
        return 0
    place = folder / "agent"
    try:
        with tqdm(total=steps, unit="step", unit_scale=True, disable=None) as bar:
            on_progress = follow(agent, envs, writer, bar)
            agent.learn(steps, writer=writer, on_progress=on_progress)
    except KeyboardInterrupt:
        save_agent(place, agent, envs.train, options_dict(options))
        print(f"the agent so far is kept: --load {place}", file=sys.stderr)
        raise
    save_agent(place, agent, envs.train, options_dict(options))
    save_predictor(folder / "predictor", agent, envs)
    return steps


def save_predictor(folder: Path, agent: "Agent", envs: "Environments") -> None:
    """Write main network and greedy policy as one folder that needs no `agents`."""
    from dynalay_gym.predictor.net_policies import network_policy
    from dynalay_gym.predictor.predictor import DynaLayPredictor

    policy = network_policy(agent.scorer)
    DynaLayPredictor.from_env(envs.test, policy, penalty=envs.penalty).save(folder)


def follow(
    agent: "Agent", envs: "Environments", writer: "MetricWriter", bar: Any
) -> "Progress":
    """Return the callback that moves the bar and, at times, walks the validation."""
    from dynalay_gym.evaluation.evaluate import walk

    seen = 0  # the bar itself stands still where it is not shown

    def on_progress(taken: int) -> None:
        nonlocal seen
        due = VALIDATIONS * taken // bar.total > VALIDATIONS * seen // bar.total
        bar.update(taken - seen)
        seen = taken
        if due:
            result = walk(envs.validation, agent.policy, penalty=envs.penalty)
            scalars = {
                "validation/accuracy": result.accuracy,
                "validation/compute": result.compute,
                "validation/return": result.mean_return,
            }
            writer.scalars(scalars, taken)
            bar.set_postfix_str(f"validation return {result.mean_return:.3f}")

    return on_progress


def evaluate(
    options: Options, agent: "Agent", envs: "Environments"
) -> "list[EvaluationResult]":
    """Walk the test split with the learned agent and every reference policy."""
    from dynalay_gym.evaluation.evaluate import walk
    from dynalay_gym.evaluation.reference_policies import (
        make_baselines,
        make_random_mix,
    )

    policies = make_baselines(envs.test, envs.validation, envs.penalty, options.seed)
    walk(envs.test, policies[0])  # the first walk pays for warming up
    learned = walk(envs.test, agent.policy, penalty=envs.penalty)
    results = [walk(envs.test, each, penalty=envs.penalty) for each in policies]
    always = next(result for result in results if result.policy == "always")
    mix = make_random_mix(
        envs.test, learned.macs.mean(), always.macs.mean(), options.seed
    )
    return [learned, *results, walk(envs.test, mix, penalty=envs.penalty)]


def compare(
    options: Options,
    agent: "Agent",
    envs: "Environments",
    writer: "MetricWriter",
    folder: Path,
    steps: int,
) -> None:
    """Print the table over the test split and keep it as JSON and in TensorBoard."""
    from dynalay_gym.data.splits import load_split
    from dynalay_gym.evaluation.report import (
        format_regret,
        format_table,
        make_rows,
        plot_rows,
        write_results,
    )
    from dynalay_gym.utils.metrics import run_metadata

    results = evaluate(options, agent, envs)
    split = load_split(
        options.dataset, "test", data_dir=options.data_dir, download=options.download
    )
    rows = make_rows(results, split.groups.numpy())
    about = {
        "options": options_dict(options),
        "config": asdict(agent.config),
        "split": "test",
        "num_samples": len(split),
        "penalty": envs.penalty,
        "timesteps": steps,
        "environment": run_metadata(),
    }
    write_results(folder, rows, steps, about)
    title = f"{options.dataset}, test split, penalty {envs.penalty:.4g}"
    writer.figure("eval/accuracy_compute", plot_rows(rows, title), steps)
    keys = ("accuracy", "compute", "return")
    metrics = {f"hparam/{key}": rows[0][key] for key in keys}
    writer.hparams(options_dict(options) | asdict(agent.config), metrics, steps)
    print(f"\n{title}, {len(split)} samples\n\n{format_table(rows)}")
    print(f"\n{format_regret(rows[0])}")


if __name__ == "__main__":
    sys.exit(main())
