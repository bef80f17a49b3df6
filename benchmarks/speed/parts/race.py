"""Seconds to a fixed test return, every way from nothing.

Stable-Baselines3's PPO on one environment per row is the baseline, with this package's
single form and with an environment as one would write it by hand. The better test
return of both is the mark: the fast ways start from nothing (network loaded, table
built anew) and train with rising budgets until the median seed's test return reaches
it. Seconds are processor time; evaluation is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import AgentConfig
from agents.options import default_configs
from agents.registry import make_agent
from agents.sb3.agent import scoring_net
from benchmarks.report import Table
from benchmarks.speed.baselines.env import hand_env
from benchmarks.speed.common import Clock, Options, empty_cache
from benchmarks.speed.parts.agents import ENV_ID
from dynalay_gym.envs.oracle import optimum
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import GreedyNetPolicy, Policy

ROWS, SEEDS = 64, 3
CLOCK = Clock("cpu")


@dataclass(frozen=True)
class Way:
    """One way to train: environment, algorithm, rising budgets."""

    name: str
    transitions: str
    config: AgentConfig
    budgets: tuple[int, ...]


def measure(options: Options) -> list[Table]:
    """Train the baselines, then every other way until it is as good."""
    steps = 4_096 if options.quick else 100_000
    judge = Judge()
    marks = [train_baseline(name, steps, judge) for name in BASELINES]
    mark = max(row["test_return"] for row in marks)
    rows = marks + [race(way, mark, judge) for way in make_ways(steps)]
    for row in rows:
        for base in marks:
            row[f"over_{base['way']}"] = base["seconds"] / row["seconds"]
    columns = {
        "way": ("way", ""),
        "decisions": ("decisions", ",d"),
        "CPU s": ("seconds", ".2f"),
        "of it making the environment": ("build_seconds", ".2f"),
        "test return": ("test_return", ".4f"),
        **{f"faster than {b['way']}": (f"over_{b['way']}", ".1f") for b in marks},
    }
    notes = (
        f"mark {mark:.4f}, optimum {judge.optimum:.4f}; the smallest budget at which "
        f"the median of {SEEDS} seeds (live: 1) reaches the mark, or the largest"
    )
    return [Table("Seconds to a return", notes, columns, rows)]


class Judge:
    """Evaluates on the test split; its table is built before any clock starts."""

    def __init__(self) -> None:
        self._envs = gym.make_vec(
            ENV_ID, 256, split="test", transitions="table", autoreset_mode="Disabled"
        )
        base: Any = self._envs.unwrapped
        self.penalty: float = base.penalty_range[0]
        self.optimum = float(optimum(base, self.penalty).returns.mean())

    def __call__(self, policy: Policy) -> float:
        """Return the mean return of a policy."""
        return evaluate(self._envs, policy, penalty=self.penalty).mean_return


def single_form() -> Callable[[], gym.Env]:
    """Return what makes this package's single form."""
    return partial(gym.make, ENV_ID)


def by_hand() -> Callable[[], gym.Env]:
    """Return what makes an ordinary environment on a network that all rows share."""
    env: Any = gym.make(ENV_ID).unwrapped
    return hand_env(env.problem, CLOCK)


BASELINES = {"DynaLayEnv": single_form, "by hand": by_hand}


def train_baseline(name: str, steps: int, judge: Judge) -> dict[str, Any]:
    """Train PPO as a user would: one environment per row, everything else stock."""
    make, trained = BASELINES[name](), []

    def train() -> None:
        envs = DummyVecEnv([make] * ROWS)
        model = PPO(
            "MlpPolicy", envs, 3e-4, n_steps=32, batch_size=256, gamma=1.0,
            seed=0, device="cpu",
        )  # fmt: skip
        trained.append(model.learn(steps))

    seconds = CLOCK.time(train)
    policy = GreedyNetPolicy(scoring_net(trained[0]), name="ppo")
    row = {"way": name, "decisions": steps, "seconds": seconds}
    return row | {"test_return": judge(policy)}


def make_ways(steps: int) -> list[Way]:
    """Return the fast ways, and PPO with the baselines' constants on our batch."""
    configs: dict[str, Any] = default_configs()
    stock = replace(
        configs["ppo"], learning_rate=3e-4, ent_coef=0.0, n_steps=32, batch_size=256
    )
    ladder = (1, 2, 3, 4, 6, 8, 10)
    gradient, nodes = (tuple(steps // k * x for x in ladder) for k in (5, 2))
    return [
        Way("SB3 PPO, batched, live", "live", stock, (steps,)),
        Way("SB3 PPO, batched, table", "table", stock, (steps,)),
        Way("policy-gradient, table", "table", configs["policy-gradient"], gradient),
        Way("exact, table", "table", configs["exact"], nodes),
    ]


def race(way: Way, mark: float, judge: Judge) -> dict[str, Any]:
    """Return medians over seeds at the smallest budget that reaches the mark."""
    seeds = range(1 if way.transitions == "live" else SEEDS)
    row: dict[str, Any] = {}
    for budget in way.budgets:
        runs = [train_from_nothing(way, budget, seed, judge) for seed in seeds]
        row = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
        if row["test_return"] >= mark:
            break
    return row | {"way": way.name, "decisions": budget}


def train_from_nothing(
    way: Way, budget: int, seed: int, judge: Judge
) -> dict[str, float]:
    """Train once: what it took and what its policy earns."""
    with empty_cache():
        began = CLOCK()
        envs = gym.make_vec(
            ENV_ID, ROWS, transitions=way.transitions, output=way.config.output
        )
        built = CLOCK() - began
        agent = make_agent(envs, way.config, seed=seed)
        agent.learn(budget)
        seconds = CLOCK() - began
    earned = judge(agent.policy)
    return {"seconds": seconds, "build_seconds": built, "test_return": earned}
