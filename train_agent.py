"""Train an agent on a DynaLay environment and compare it with every reference policy.

The table at the end covers the whole test split. Everything is kept in a run folder:
the agent, results.json, and curves for TensorBoard.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agents.config import (
    CONFIGS,
    A2CConfig,
    AgentConfig,
    DQNConfig,
    PolicyGradientConfig,
    PPOConfig,
)
from dynalay_gym.data_registry import dataset_spec
from dynalay_gym.errors import ConfigError, DynaLayError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from agents.evaluation import EvaluationResult
    from agents.policy import Agent, Progress
    from dynalay_gym.metrics import MetricWriter

EVALUATION_ENVS = 256
VALIDATIONS = 10  # walks over the validation split during a training


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an agent that decides, input by input, where a network spends compute."""

    algo: str | None = None
    """policy-gradient, ppo, a2c or dqn. Default: ppo, or that of --load."""
    dataset: str = "digits"
    """digits, fashion-mnist, cifar10 or cifar100."""
    penalty: str | None = None
    """Weight of compute in the reward: a number, or a range low:high of which every
    episode draws one and shows it to the agent. Default: the break-even that is
    stored with the main network."""
    total_timesteps: int | None = None
    """Decisions to train on; 0 only evaluates. Default: the algorithm's own."""
    num_envs: int = 64
    """Inputs that are decided on side by side during training."""
    seed: int = 0
    """Seeds weights, exploration and the order of inputs."""
    device: str = "auto"
    """auto, cpu or cuda."""
    checkpoint: Path | None = None
    """Folder of the main network. Default: the one that ships with the package."""
    load: Path | None = None
    """Folder of a saved agent: go on training it, or only evaluate it."""
    num_threads: int = 1
    """Threads of torch: networks this small are slower with more."""
    log_dir: Path = Path("runs")
    """Where the run's folder is made."""
    data_dir: Path | None = None
    """Folder with the data sets' files."""
    download: bool = True
    """Download a data set that is missing."""
    rtol: float | None = None
    """Relative tolerance of the fixed-point solver. Default: the main network's."""
    max_steps: int | None = None
    """Most iterations of a solve. Default: the main network's."""
    alpha: float = 0.5
    """Weight of a right answer in the reward."""
    reward: str = "paper"
    """paper, three-term, log-score or blockdrop."""
    transitions: str = "live"
    """live runs the network; table computes all its states once and looks them up:
    the same numbers, much faster. The test split is always walked live, timed."""
    policy_gradient: PolicyGradientConfig = field(default_factory=PolicyGradientConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)

    def check(self) -> None:
        """Raise ConfigError for what is wrong without a look at any file."""
        dataset_spec(self.dataset)
        if self.algo is not None and self.algo not in CONFIGS:
            raise ConfigError(
                f"unknown --algo {self.algo!r}; choose from {', '.join(CONFIGS)}"
            )
        for name, least in (("num_envs", 1), ("num_threads", 1), ("seed", 0)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} must be at least {least}")
        if self.total_timesteps is not None and self.total_timesteps < 0:
            raise ConfigError("--total-timesteps must be at least 0")

    def config(self, algo: str) -> AgentConfig:
        """Return the hyper-parameters of an algorithm as given on the command line."""
        config: AgentConfig = getattr(self, algo.replace("-", "_"))
        return config


@dataclass(frozen=True, kw_only=True)
class Environments:
    """The same problem over the splits that a run needs."""

    train: "VectorEnv"
    baseline: "VectorEnv | None"
    validation: "VectorEnv"
    test: "VectorEnv"
    penalty: float  # that policies are compared at


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

    from dynalay_gym.metrics import MetricWriter, make_run_dir

    torch.set_num_threads(options.num_threads)
    config = choose_config(options)
    envs = build_environments(options, config)
    agent = build_agent(options, config, envs)
    folder = make_run_dir(options.log_dir, options.dataset, agent.algo)
    print(f"{folder}: {agent.algo} on {options.dataset}, penalty {envs.penalty:.4g}")
    with MetricWriter(folder) as writer:
        steps = train(options, agent, envs, writer, folder)
        compare(options, agent, envs, writer, folder, steps)


def choose_config(options: Options) -> AgentConfig:
    """Return the hyper-parameters: the saved agent's, or the command line's."""
    if options.load is None:
        return options.config(options.algo or "ppo")
    from agents.store import load_config

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


def build_environments(options: Options, config: AgentConfig) -> Environments:
    """Return the environments; wrong options and missing files show here."""
    own = isinstance(config, PolicyGradientConfig)
    penalty = options.penalty
    # An agent of a whole range is compared at one number: the break-even.
    fixed = None if penalty is not None and ":" in penalty else penalty
    train = make_envs(
        options,
        "agent",
        penalty,
        options.num_envs,
        output="torch" if own else "numpy",
        transitions=options.transitions,
    )
    baseline = None
    if isinstance(config, PolicyGradientConfig) and config.baseline == "greedy":
        baseline = make_evaluation_envs(options, "agent", fixed, options.transitions)
    test = make_evaluation_envs(options, "test", fixed, "live")
    return Environments(
        train=train,
        baseline=baseline,
        validation=make_evaluation_envs(
            options, "validation", fixed, options.transitions
        ),
        test=test,
        penalty=test.unwrapped.penalty_range[0],  # type: ignore[attr-defined]
    )


def make_envs(
    options: Options, split: str, penalty: str | None, num_envs: int, **kwargs: Any
) -> "VectorEnv":
    """Return the vector environment over one split."""
    import gymnasium as gym

    return gym.make_vec(
        dataset_spec(options.dataset).env_id,
        num_envs=num_envs,
        checkpoint=None if options.checkpoint is None else str(options.checkpoint),
        split=split,
        data_dir=None if options.data_dir is None else str(options.data_dir),
        download=options.download,
        penalty=penalty,
        alpha=options.alpha,
        reward=options.reward,
        rtol=options.rtol,
        max_steps=options.max_steps,
        device=options.device,
        **kwargs,
    )


def make_evaluation_envs(
    options: Options, split: str, penalty: str | None, transitions: str
) -> "VectorEnv":
    """Return an environment in which a whole split can be walked."""
    return make_envs(
        options,
        split,
        penalty,
        EVALUATION_ENVS,
        autoreset_mode="Disabled",
        transitions=transitions,
    )


def build_agent(options: Options, config: AgentConfig, envs: Environments) -> "Agent":
    """Return the agent: fresh, or a saved one."""
    from agents.store import load_agent, make_agent

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
    envs: Environments,
    writer: "MetricWriter",
    folder: Path,
) -> int:
    """Train and save the agent; return the steps. Ctrl-C keeps what was learned."""
    from tqdm import tqdm

    from agents.store import save_agent

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
        save_agent(place, agent, envs.train, facts(options))
        print(f"the agent so far is kept: --load {place}", file=sys.stderr)
        raise
    save_agent(place, agent, envs.train, facts(options))
    save_predictor(folder / "predictor", agent, envs)
    return steps


def save_predictor(folder: Path, agent: "Agent", envs: Environments) -> None:
    """Write main network and greedy policy as one folder that needs no `agents`."""
    from dynalay_gym.net_policies import network_policy
    from dynalay_gym.predictor import DynaLayPredictor

    policy = network_policy(agent.scorer)
    DynaLayPredictor.from_env(envs.test, policy, penalty=envs.penalty).save(folder)


def follow(
    agent: "Agent", envs: Environments, writer: "MetricWriter", bar: Any
) -> "Progress":
    """Return the callback that moves the bar and, at times, walks the validation."""
    from agents.evaluation import walk

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
    options: Options, agent: "Agent", envs: Environments
) -> "list[EvaluationResult]":
    """Walk the test split with the learned agent and every reference policy."""
    from agents.baselines import make_baselines, make_random_mix
    from agents.evaluation import walk

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
    envs: Environments,
    writer: "MetricWriter",
    folder: Path,
    steps: int,
) -> None:
    """Print the table over the test split and keep it as JSON and in TensorBoard."""
    from agents.report import format_table, make_rows, plot_rows, write_results
    from dynalay_gym.data import load_split
    from dynalay_gym.metrics import environment_facts

    results = evaluate(options, agent, envs)
    split = load_split(
        options.dataset, "test", data_dir=options.data_dir, download=options.download
    )
    rows = make_rows(results, split.groups.numpy())
    about = {
        "options": facts(options),
        "config": asdict(agent.config),
        "split": "test",
        "num_samples": len(split),
        "penalty": envs.penalty,
        "timesteps": steps,
        "environment": environment_facts(),
    }
    write_results(folder, rows, steps, about)
    title = f"{options.dataset}, test split, penalty {envs.penalty:.4g}"
    writer.figure("eval/accuracy_compute", plot_rows(rows, title), steps)
    keys = ("accuracy", "compute", "return")
    metrics = {f"hparam/{key}": rows[0][key] for key in keys}
    writer.hparams(facts(options) | asdict(agent.config), metrics, steps)
    print(f"\n{title}, {len(split)} samples\n\n{format_table(rows)}")


def facts(options: Options) -> dict[str, Any]:
    """Return the options as JSON-able values, the algorithms' own left out."""
    nested = {name.replace("-", "_") for name in CONFIGS}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in nested
    }


if __name__ == "__main__":
    sys.exit(main())
