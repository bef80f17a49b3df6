"""Steps per second of the transition table, beside the live env and CartPole.

    OMP_NUM_THREADS=1 python benchmarks/table_speed.py --out table_speed.json

Variants take turns within one process, random actions, full observations, dense
``final_obs`` and infos, autoreset in the same step (CartPole: its own way, the step
after). Medians over the rounds; the range is that of all rounds.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dynalay_gym  # noqa: F401 - registers the ids
from dynalay_gym.metrics import environment_facts, write_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the transition table."""

    out: Path | None = None
    """JSON file for the results."""
    env_id: str = "DynaLay/Digits-v0"
    """Environment of a data set with a shipped network."""
    sizes: tuple[int, ...] = (64, 256, 1024)
    """Rows."""
    rounds: int = 9
    """Rounds of all variants."""
    steps: int = 200
    """Steps of a round; the live environment takes a twentieth."""


def main() -> None:
    """Measure and print."""
    args = tyro.cli(Args)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DYNALAY_CACHE_DIR"] = folder
        makes = {}
        for name in ("table, built", "table, found"):
            began = time.perf_counter()
            gym.make_vec(args.env_id, num_envs=1, transitions="table").close()
            makes[name] = time.perf_counter() - began
            print(f"{name}: made in {makes[name]:.2f} s")
        rows = [row for size in args.sizes for row in measure(args, size)]
    for row in rows:
        print("{num_envs:5} rows  {name:9} {median:12,.0f} steps/s".format(**row))
    if args.out is not None:
        facts = {"environment": environment_facts(), "seconds_to_make": makes}
        write_json(args.out, facts | {"steps_per_second": rows})


def measure(args: Args, size: int) -> list[dict[str, Any]]:
    """Speed of all variants at one number of rows."""
    variants: dict[str, tuple[VectorEnv, int]] = {
        "table": (gym.make_vec(args.env_id, size, transitions="table"), args.steps),
        "live": (gym.make_vec(args.env_id, size), max(1, args.steps // 20)),
        "cartpole": (
            gym.make_vec("CartPole-v1", size, "vector_entry_point"),
            args.steps,
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for env, _ in variants.values():
        env.reset(seed=0)
    for number in range(args.rounds + 1):
        for name, (env, steps) in variants.items():
            speed = run(env, steps)
            if number:  # round 0 warms up
                speeds[name].append(speed)
    return [
        {
            "name": name,
            "num_envs": size,
            "median": float(np.median(found)),
            "range": [min(found), max(found)],
        }
        for name, found in speeds.items()
    ]


def run(env: VectorEnv, steps: int) -> float:
    """Sample-steps per second of wall-clock time, actions drawn beforehand."""
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    actions = rng.integers(0, num_actions, (steps, env.num_envs))
    began = time.perf_counter()
    for chosen in actions:
        env.step(chosen)
    return steps * env.num_envs / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
