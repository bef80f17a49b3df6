"""Seconds to a fixed test return: a part of ``bench_agents``, and a run of its own.

    python benchmarks/bench_race.py --out race.json

Stable-Baselines3's PPO on one environment per row sets the mark; the fast ways start
from nothing (network loaded, table built anew) and are trained with rising budgets
until the median seed's test return reaches it. Seconds are of the process's CPU clock,
on one thread, evaluation left out.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dynalay_gym  # noqa: F401 - registers the ids
from agents.baselines import PlanPolicy
from agents.config import CONFIGS, AgentConfig
from agents.evaluation import walk
from agents.sb3 import SB3Policy
from agents.store import make_agent
from dynalay_gym.envs.oracle import plan_table
from dynalay_gym.metrics import environment_facts, write_json

ENV_ID = "DynaLay/Digits-v0"
ROWS = 64
NAIVE = {"n_steps": 32, "batch_size": 256, "gamma": 1.0, "device": "cpu"}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure seconds to a test return."""

    out: Path
    """JSON file for the results."""
    naive_steps: int = 100_000
    """Decisions of the PPO that sets the mark."""
    seeds: int = 3
    """Seeds of the fast ways."""


def main(args: Args) -> None:
    """Measure, print the table, write the JSON."""
    torch.set_num_threads(1)
    found = race(args.naive_steps, args.seeds)
    print(race_table(found))
    facts = {"args": asdict(args) | {"out": str(args.out)}}
    facts |= {"environment": environment_facts(), "race": found}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, facts)


@dataclass(frozen=True)
class Way:
    """One way to train: environment, algorithm, rising budgets."""

    name: str
    transitions: str
    config: AgentConfig
    budgets: tuple[int, ...]


def ways(naive_steps: int) -> list[Way]:
    """The fast ways, and SB3 with the mark's constants on our batch."""
    naive = replace(
        CONFIGS["ppo"](), learning_rate=3e-4, ent_coef=0.0, n_steps=32, batch_size=256
    )
    gradient = tuple(20_000 * k for k in (1, 2, 3, 4, 6, 8, 10))
    nodes = tuple(60_000 * k for k in (1, 2, 3, 4, 6, 8, 10, 15, 20))
    same = (naive_steps,)
    return [
        Way("SB3 PPO, batched env, live", "live", naive, same),
        Way("SB3 PPO, batched env, table", "table", naive, same),
        Way("policy-gradient, table", "table", CONFIGS["policy-gradient"](), gradient),
        Way("exact, table", "table", CONFIGS["exact"](), nodes),
    ]


def race(naive_steps: int, num_seeds: int) -> dict[str, Any]:
    """The mark and how soon the other ways reach it."""
    judge = Judge()
    mark = naive_run(naive_steps, judge)
    found = []
    for way in ways(naive_steps):
        seeds = 1 if way.transitions == "live" else num_seeds
        tries: list[dict[str, Any]] = []
        for budget in way.budgets:
            runs = [fresh_run(way, budget, seed, judge) for seed in range(seeds)]
            tries.append({"budget": budget} | summary(runs, mark))
            print(way.name, tries[-1], file=sys.stderr)
            if tries[-1]["reached"]:
                break
        found.append({"way": way.name, "seeds": seeds, "tries": tries})
    return {"mark": mark, "optimum": judge.optimum, "ways": found}


class Judge:
    """Walks the test split; its table is built before any clock starts."""

    def __init__(self) -> None:
        self._envs = gym.make_vec(
            ENV_ID,
            num_envs=256,
            split="test",
            transitions="table",
            autoreset_mode="Disabled",
        )
        base: Any = self._envs.unwrapped
        self.penalty: float = base.penalty_range[0]
        self.optimum = float(plan_table(base, self.penalty).returns.max(1).mean())
        walk(self._envs, PlanPolicy("nop", [()], base.nop_action))

    def __call__(self, policy: Any) -> float:
        """Mean return of a policy."""
        return walk(self._envs, policy, penalty=self.penalty).mean_return


def naive_run(steps: int, judge: Judge) -> dict[str, Any]:
    """PPO as a user would run it: one environment per row, everything else stock."""
    began, wall = time.process_time(), time.perf_counter()
    envs = DummyVecEnv([lambda: gym.make(ENV_ID)] * ROWS)
    model = PPO("MlpPolicy", envs, seed=0, **NAIVE)
    model.learn(steps)
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    widths = (envs.observation_space.shape[0], 64, 64, int(envs.action_space.n))
    earned = judge(SB3Policy("ppo", model, widths))
    facts = {"constants": NAIVE, "rows": ROWS, "steps": steps}
    return facts | {
        "seconds": seconds,
        "wall_seconds": wall,
        "test_return": earned,
        "regret": judge.optimum - earned,
    }


def fresh_run(way: Way, budget: int, seed: int, judge: Judge) -> dict[str, float]:
    """One training from nothing: what it took and what its policy earns."""
    output = "torch" if way.config == CONFIGS["policy-gradient"]() else "numpy"
    with no_cache():
        began, wall = time.process_time(), time.perf_counter()
        envs = gym.make_vec(
            ENV_ID, num_envs=ROWS, transitions=way.transitions, output=output
        )
        built = time.process_time() - began
        agent = make_agent(envs, way.config, seed=seed)
        agent.learn(budget)
        seconds, wall = time.process_time() - began, time.perf_counter() - wall
    return {
        "seconds": seconds,
        "wall_seconds": wall,
        "build_seconds": built,
        "test_return": judge(agent.policy),
    }


@contextmanager
def no_cache() -> Iterator[None]:
    """Let transition tables be built anew, in a folder that goes away."""
    before = os.environ.get("DYNALAY_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DYNALAY_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["DYNALAY_CACHE_DIR"]
            if before is not None:
                os.environ["DYNALAY_CACHE_DIR"] = before


def summary(runs: list[dict[str, float]], mark: dict[str, Any]) -> dict[str, Any]:
    """Medians over seeds, and the ratio to the mark."""
    middle = {key: float(np.median([r[key] for r in runs])) for key in runs[0]}
    best = mark["test_return"] + mark["regret"]
    return middle | {
        "regret": best - middle["test_return"],
        "test_return_per_seed": [r["test_return"] for r in runs],
        "reached": middle["test_return"] >= mark["test_return"],
        "times_faster": mark["seconds"] / middle["seconds"],
        "times_faster_wall": mark["wall_seconds"] / middle["wall_seconds"],
    }


def race_table(race: dict[str, Any]) -> str:
    """Markdown table; every way at its smallest budget that reaches the mark."""
    mark = race["mark"]
    lines = [
        "| way | decisions | of it table | CPU s | test return | regret | faster |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| SB3 PPO, one env per row | {mark['steps']:,} | | {mark['seconds']:.1f} "
        f"| {mark['test_return']:.4f} | {mark['regret']:.4f} | 1 |",
    ]
    for way in race["ways"]:
        row = way["tries"][-1]
        built = "" if "live" in way["way"] else f"{row['build_seconds']:.2f} s"
        lines.append(
            f"| {way['way']} | {row['budget']:,} | {built} | {row['seconds']:.2f} "
            f"| {row['test_return']:.4f}{'' if row['reached'] else ' (below)'} "
            f"| {row['regret']:.4f} | {row['times_faster']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Args))
