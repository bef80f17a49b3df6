"""Seconds to a fixed test return: a part of ``bench_agents``, and a run of its own.

    python benchmarks/bench_race.py --out race.json

Stable-Baselines3's PPO on one environment per row is the baseline, with this package's
single form and with an environment as one would write it by hand (``naive_env.py``).
The better test return of both is the mark: the fast ways start from nothing (network
loaded, table built anew) and are trained with rising budgets until the median seed's
test return reaches it. Seconds are of the process's CPU clock, on one thread,
evaluation left out.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.config import AgentConfig
from agents.options import default_configs
from agents.registry import make_agent
from benchmarks.common import table
from benchmarks.race_baselines import BASELINES, ENV_ID, ROWS, Judge, train_baseline
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure seconds to a test return."""

    out: Path
    """JSON file for the results."""
    naive_steps: int = 100_000
    """Decisions of the PPO that sets the mark, on either environment."""
    seeds: int = 3
    """Seeds of the fast ways."""


def main(args: Args) -> None:
    """Measure, print the table, write the JSON."""
    torch.set_num_threads(1)
    found = race(args.naive_steps, args.seeds)
    print(race_table(found))
    facts = {"args": asdict(args) | {"out": str(args.out)}}
    facts |= {"environment": run_metadata(), "race": found}
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
    configs: dict[str, Any] = default_configs()
    naive = replace(
        configs["ppo"], learning_rate=3e-4, ent_coef=0.0, n_steps=32, batch_size=256
    )
    gradient = tuple(20_000 * k for k in (1, 2, 3, 4, 6, 8, 10))
    nodes = tuple(60_000 * k for k in (1, 2, 3, 4, 6, 8, 10, 15, 20))
    same = (naive_steps,)
    return [
        Way("SB3 PPO, batched env, live", "live", naive, same),
        Way("SB3 PPO, batched env, table", "table", naive, same),
        Way("policy-gradient, table", "table", configs["policy-gradient"], gradient),
        Way("exact, table", "table", configs["exact"], nodes),
    ]


def race(naive_steps: int, num_seeds: int) -> dict[str, Any]:
    """The baselines, and how soon the other ways reach the better one's return."""
    judge = Judge()
    marks = {name: train_baseline(name, naive_steps, judge) for name in BASELINES}
    found = []
    for way in ways(naive_steps):
        seeds = 1 if way.transitions == "live" else num_seeds
        tries: list[dict[str, Any]] = []
        for budget in way.budgets:
            runs = [fresh_run(way, budget, seed, judge) for seed in range(seeds)]
            tries.append({"budget": budget} | summary(runs, marks))
            print(way.name, tries[-1], file=sys.stderr)
            if tries[-1]["reached"]:
                break
        found.append({"way": way.name, "seeds": seeds, "tries": tries})
    return {"marks": marks, "optimum": judge.optimum, "ways": found}


def fresh_run(way: Way, budget: int, seed: int, judge: Judge) -> dict[str, float]:
    """One training from nothing: what it took and what its policy earns."""
    with no_cache():
        began, wall = time.process_time(), time.perf_counter()
        envs = gym.make_vec(
            ENV_ID,
            num_envs=ROWS,
            transitions=way.transitions,
            output=way.config.output,
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


def summary(
    runs: list[dict[str, float]], marks: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Medians over seeds, and the ratios to the baselines."""
    middle = {key: float(np.median([r[key] for r in runs])) for key in runs[0]}
    best = max(marks.values(), key=lambda mark: mark["test_return"])
    return middle | {
        "regret": best["test_return"] + best["regret"] - middle["test_return"],
        "test_return_per_seed": [r["test_return"] for r in runs],
        "reached": middle["test_return"] >= best["test_return"],
        "times_faster": times_faster(middle, marks, "seconds"),
        "times_faster_wall": times_faster(middle, marks, "wall_seconds"),
    }


def times_faster(
    row: dict[str, Any], marks: dict[str, dict[str, Any]], clock: str
) -> dict[str, float]:
    """A baseline's seconds over a row's, for every baseline."""
    return {name: mark[clock] / row[clock] for name, mark in marks.items()}


def race_table(race: dict[str, Any]) -> str:
    """Markdown table; every way at its smallest budget that reaches the mark."""
    marks = race["marks"]
    head = ["way", "decisions", "of it table", "CPU s", "test return", "regret"]
    head += [f"faster than {name}" for name in marks]
    rows = []
    for name, mark in marks.items():
        ratios = times_faster(mark, marks, "seconds")
        way = f"SB3 PPO, one env per row, {name}"
        rows.append([way, f"{mark['steps']:,}", "", *_cells(mark, ratios)])
    for way in race["ways"]:
        row = way["tries"][-1]
        built = "" if "live" in way["way"] else f"{row['build_seconds']:.2f} s"
        cells = _cells(row, row["times_faster"], "" if row["reached"] else " (below)")
        rows.append([way["way"], f"{row['budget']:,}", built, *cells])
    return table(head, rows)


def _cells(row: dict[str, Any], ratios: dict[str, float], note: str = "") -> list[str]:
    figures = [f"{row['seconds']:.2f}", f"{row['test_return']:.4f}{note}"]
    return [*figures, f"{row['regret']:.4f}", *(f"{r:.1f}" for r in ratios.values())]


if __name__ == "__main__":
    main(tyro.cli(Args))
