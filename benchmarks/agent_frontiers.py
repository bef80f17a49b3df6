"""Agents and cascades over their whole range of compute, on transition tables.

    python -m benchmarks.agent_frontiers --out found.json --agent-seeds 0 1 2 \
        --at 0.03 0.136 --penalty 0.01:0.5 --penalty-unit 0.07

All other flags are those of ``train_agent.py``. It trains one agent per seed and finds
what ``evaluate.py`` would, sooner: every split is read from its table, which has the
numbers of the live network, and no report is written per agent. Beside it, agents can
learn from mazes of their own, more than the agent split has, or see only a part of
the observation.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from torch import Tensor
from tyro.conf import arg

from agents.config import AgentConfig
from agents.environments import make_envs, make_evaluation_envs
from agents.options import Options, options_dict
from agents.registry import make_agent
from benchmarks.paper.experiment import part_of
from benchmarks.wrapped.network import load
from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.oracle import best_fixed_plan
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation import tables
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.figures import plot_frontier
from dynalay_gym.evaluation.study import Study
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.sessions.skip.blocks import BlockSession
from dynalay_gym.sessions.skip.decisions import RUN, SKIP
from dynalay_gym.sessions.skip.wrapped import WrappedSession
from dynalay_gym.storage.io import plain, write_json
from dynalay_gym.storage.metrics import run_metadata
from dynalay_gym.utils.ranks import rank_correlation

SPLITS = ("agent", "validation", "test")
POINTS = 9  # penalties of a range
VALIDATIONS = 10  # of a training whose best weights are kept
OWN_MAZES = 16  # seed of mazes that are in no split of the registry


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train agents of several seeds and compare them with the cascades."""

    out: Path
    """JSON file for the results."""
    figure: Path | None = None
    """PNG or SVG file of accuracy against compute."""
    agent_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the agents, in place of --seed."""
    at: tuple[float, ...] = ()
    """Penalties at which returns are compared. Default: that of the training."""
    num_mazes: int | None = None
    """Mazes to learn from, made for this, in place of the agent split."""
    parts: tuple[str, ...] = ()
    """Parts of the observation that an agent with an AgentNet sees. Default: all."""
    every: int = 1
    """Keep every so many samples of each split, for a network that takes long."""
    wrapped: bool = False
    """Whether --checkpoint holds a network of ``benchmarks.wrapped.train``."""
    best_fixed: bool = False
    """Add the frontier of the best actions that are the same for every input; it
    visits all states, so that they should be few."""
    random_blocks: bool = False
    """Add the frontier of running each block by chance, for networks of blocks."""
    options: Annotated[Options, arg(name="")] = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"--every must be 1 or more, not {self.every}")
        if self.wrapped and self.options.checkpoint is None:
            raise ConfigError(
                "--wrapped needs --checkpoint, a folder of benchmarks.wrapped.train"
            )


def main(args: Args) -> None:
    """Train, evaluate, print tables and write the JSON."""
    config = args.options.config()
    torch.set_num_threads(args.options.num_threads)
    splits, options = find_splits(args), with_network(args)
    envs = {
        name: make_evaluation_envs(options, split, None, "table")
        for name, split in splits.items()
    }
    base: Any = envs["test"].unwrapped
    low, _, high = (options.penalty or str(base.penalty_range[0])).partition(":")
    penalties = args.at or (base.penalty_range[0] if high else float(low),)
    study, seeds = Study(), []
    add_references(study, envs, penalties)
    points = penalties_of(low, high, penalties)
    if args.best_fixed:
        add_best_fixed(study, envs, points)
    if args.random_blocks:
        add_random_blocks(study, envs["test"], args.agent_seeds)
    for seed in args.agent_seeds:
        policy = train(args, options, config, splits["agent"], envs, seed)
        label = config.algo + ("-range" if high else "")
        seeds += add_agent(study, label, policy, envs, penalties, points, seed)
    summary = study.summary(splits["test"].groups.numpy())
    report(summary)
    if args.figure is not None:
        draw(summary, f"{options.dataset}, test split", args.figure)
    about = {"args": arguments(args, config), "environment": run_metadata()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, about | summary | {"agents": seeds})


def with_network(args: Args) -> Options:
    """Return the options of ``train_agent.py``, with a wrapped network if it is one."""
    if not args.wrapped:
        return args.options
    network: Any = WrappedSession(load(Path(str(args.options.checkpoint))))
    return replace(args.options, checkpoint=network)


def find_splits(args: Args) -> dict[str, Split]:
    """Return the splits by name, or what is kept of them.

    Raises:
        ConfigError: There are to be mazes, and the data set is none of them.
    """
    options = args.options
    files: Any = {"data_dir": options.data_dir, "download": options.download}
    splits = {name: load_split(options.dataset, name, **files) for name in SPLITS}
    kept = {
        name: part_of(split, torch.arange(0, len(split), args.every))
        for name, split in splits.items()
    }
    return kept | own_mazes(args)


def own_mazes(args: Args) -> dict[str, Split]:
    """Return the agent split, where it is made for this."""
    if args.num_mazes is None:
        return {}
    spec = dataset_spec(args.options.dataset)
    if spec.hidden_share is None:
        raise ConfigError(f"{spec.name} are no mazes; leave --num-mazes out")
    return {
        "agent": make_maze_split(
            args.num_mazes,
            spec.in_shape[1],
            OWN_MAZES,
            hidden_share=spec.hidden_share,
            name="agent",
        )
    }


def add_references(
    study: Study, envs: dict[str, VectorEnv], penalties: tuple[float, ...]
) -> None:
    """Add nop, always and the cascades, tuned for each penalty."""
    for penalty in penalties:
        walks = {split: walk_full_plan(each, penalty) for split, each in envs.items()}
        study.add_tuned_cascades(f"{penalty:g}", walks)
        if penalty == penalties[0]:
            study.add_cascades(walks)


def penalties_of(low: str, high: str, at: tuple[float, ...]) -> tuple[float, ...]:
    """Return the penalties at which frontiers are drawn: along a range, if there is."""
    if not high:
        return at
    return tuple(np.geomspace(float(low), float(high), POINTS).tolist())


def add_best_fixed(
    study: Study, envs: dict[str, VectorEnv], penalties: tuple[float, ...]
) -> None:
    """Add what does the same for every input, chosen on the validation split."""
    base = envs["validation"].unwrapped
    for penalty in penalties:
        policy = PlanPolicy(best_fixed_plan(base, penalty), name="best-fixed")
        result = evaluate(envs["test"], policy, penalty=penalty)
        study.add("best-fixed", f"{penalty:.4g}", result)


def add_random_blocks(study: Study, test: VectorEnv, seeds: tuple[int, ...]) -> None:
    """Add what runs each block of each sample by chance, and skips the others.

    Raises:
        ConfigError: The network has no blocks that can be skipped.
    """
    base: Any = test.unwrapped
    session = base.problem.session
    if not isinstance(session, BlockSession):
        raise ConfigError("--random-blocks needs a network of blocks; leave it out")
    size = base.num_samples, session.num_blocks
    for share in np.linspace(0.1, 0.9, POINTS):
        for seed in seeds:
            drawn = np.random.default_rng(seed).random(size) < share
            policy = PlanPolicy(np.where(drawn, RUN, SKIP).tolist(), name="random")
            study.add("random blocks", f"{share:.1f}", evaluate(test, policy))


def train(
    args: Args,
    options: Options,
    config: AgentConfig,
    split: Split,
    envs: dict[str, VectorEnv],
    seed: int,
) -> Any:
    """Return the policy of an agent that was trained with a seed."""
    rows = options.num_envs or config.num_envs
    how: Any = {"transitions": "table", "output": config.output}
    train_envs = make_envs(options, split, options.penalty, rows, **how)
    agent: Any = make_agent(train_envs, config, seed=seed, baseline_envs=envs["agent"])
    if args.parts:
        see_only(agent, train_envs, args.parts)
    total = options.total_timesteps or config.total_timesteps
    keeper = BestWeights(agent, envs["validation"], total)
    agent.learn(total, on_progress=keeper.follow if options.keep_best else None)
    if options.keep_best:
        agent.module.load_state_dict(keeper.weights)
    return agent.policy


def see_only(agent: Any, envs: VectorEnv, parts: tuple[str, ...]) -> None:
    """Let an AgentNet read some parts of the observation alone.

    The weights of all other columns are 0, and stay so.

    Raises:
        ConfigError: The agent has no AgentNet, or there is no such part.
    """
    base: Any = envs.unwrapped
    layout = base.observation_layout
    unknown = [part for part in parts if part not in layout]
    if unknown or not hasattr(agent, "net"):
        raise ConfigError(
            f"--parts needs --algo exact or policy-gradient, and some of "
            f"{', '.join(layout)}"
        )
    keep = torch.zeros(agent.net.observation_size)
    for part in parts:
        keep[layout[part]] = 1
    weight = agent.net.torso[0].weight
    weight.data.mul_(keep)
    weight.register_hook(lambda gradient: gradient * keep)


class BestWeights:
    """Keeps the weights with the best return on the validation split.

    Args:
        agent: The agent.
        envs: The validation split, at the penalty of the training.
        total: Timesteps of the training.
    """

    def __init__(self, agent: Any, envs: VectorEnv, total: int) -> None:
        self._agent, self._envs, self._total = agent, envs, total
        self._best, self._validated = -np.inf, 0
        self.weights: dict[str, Tensor] = {}

    def follow(self, taken: int) -> None:
        """Validate where another tenth of the training is done."""
        tenths = VALIDATIONS * taken // self._total
        if tenths == self._validated:
            return
        self._validated = tenths
        found = evaluate(self._envs, self._agent.policy).mean_return
        if found > self._best:
            self._best, weights = found, self._agent.module.state_dict()
            self.weights = {name: part.clone() for name, part in weights.items()}


def add_agent(
    study: Study,
    label: str,
    policy: Any,
    envs: dict[str, VectorEnv],
    penalties: tuple[float, ...],
    points: tuple[float, ...],
    seed: int,
) -> list[dict[str, Any]]:
    """Add an agent at the penalties and along its frontier; return its figures."""
    rows = []
    for penalty in penalties:
        found = {
            split: evaluate(each, policy, penalty=penalty)
            for split, each in envs.items()
        }
        study.add_tuned(f"{penalty:g}", label, found)
        rows.append({"seed": seed, "penalty": penalty} | figures(found))
    for penalty in points:
        result = evaluate(envs["test"], policy, penalty=penalty)
        study.add(label, f"{penalty:.4g}", result)
    return rows


def figures(found: dict[str, EvaluationResult]) -> dict[str, Any]:
    """Return returns by split; accuracy, compute and its rank correlation on test."""
    test = found["test"]
    rank = None
    if np.isfinite(test.difficulty).all():
        rank = float(rank_correlation(test.macs, test.difficulty))
    return {
        "returns": {split: each.mean_return for split, each in found.items()},
        "accuracy": test.accuracy,
        "compute": test.compute,
        "rank_correlation": rank,
    }


def report(summary: dict[str, Any]) -> None:
    """Print the tables of ``evaluate.py``."""
    print(tables.format_frontiers(summary["frontiers"]))
    agents = [row for row in summary["frontiers"] if "lead" in row]
    print(f"\nahead of the best cascade\n\n{tables.format_frontiers(agents, 'lead')}")
    for penalty in dict.fromkeys(row["penalty"] for row in summary["tuned"]):
        rows = [row for row in summary["tuned"] if row["penalty"] == penalty]
        print(f"\npenalty {penalty}\n\n{tables.format_tuned(rows)}", flush=True)


def draw(summary: dict[str, Any], title: str, path: Path) -> None:
    """Write the figure of accuracy against compute."""
    curves = {row["policy"]: row["points"] for row in summary["frontiers"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_frontier(curves, title).savefig(path)


def arguments(args: Args, config: AgentConfig) -> dict[str, Any]:
    """Return what the figures depend on, by flag."""
    options = options_dict(args.options) | {"algo": config.algo}
    for name in ("log_dir", "data_dir", "seed"):
        del options[name]
    own = {name: plain(getattr(args, name)) for name in vars(args) if name != "options"}
    return own | options | {config.algo: asdict(config)}


if __name__ == "__main__":
    main(tyro.cli(Args))
