"""Samples per second of whole trainings, and where the time goes.

Each algorithm trains on the live environment and on its transition table with the
defaults of ``train_agent.py``; the steps of the environment are timed within.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from agents.options import default_configs
from agents.registry import make_agent
from benchmarks.report import Table, spread
from benchmarks.speed.common import Clock, Options, play_rounds

ENV_ID = "dynalay_gym:DynaLay/Digits-v0"
ALGOS = ("policy-gradient", "ppo")


def measure(options: Options) -> list[Table]:
    """Measure both algorithms on both kinds of transitions."""
    cases: list[dict[str, Any]] = [
        {"algo": algo, "transitions": kind, "num_envs": num}
        for num in options.rows[:2]
        for kind in ("live", "table")
        for algo in ALGOS
    ]
    samples = 2_048 if options.quick else 16_384
    turns = {str(i): make_turn(**case, samples=samples) for i, case in enumerate(cases)}
    took = play_rounds(turns, 3)
    rows = []
    for case, (rate, in_env) in zip(cases, (t.T for t in took.values()), strict=True):
        rest = 1 - np.median(in_env)
        shares = {"in_env": float(np.median(in_env)), "in_agent": float(rest)}
        rows.append(case | {"samples_per_second": spread(rate)} | shares)
    columns = {
        "algorithm": ("algo", ""),
        "transitions": ("transitions", ""),
        "rows": ("num_envs", ""),
        "samples/s": ("samples_per_second", ",.0f"),
        "environment": ("in_env", ".0%"),
        "agent": ("in_agent", ".0%"),
    }
    notes = f"{samples:,} decisions of the digits; processor time, 3 rounds, one thread"
    return [Table("Agents", notes, columns, rows)]


def make_turn(
    algo: str, transitions: str, num_envs: int, samples: int
) -> Callable[[], tuple[float, float]]:
    """Return a turn that trains: samples/s, and the environment's share of the time."""
    config, clock, inside = default_configs()[algo], Clock("cpu"), [0.0]
    envs = gym.make_vec(
        ENV_ID, num_envs, transitions=transitions, output=config.output, device="cpu"
    )
    step = envs.step

    def timed(actions: Any) -> Any:
        outcome: list[Any] = []
        inside[0] += clock.time(lambda: outcome.append(step(actions)))
        return outcome[0]

    envs.step = timed  # type: ignore[method-assign]
    agent = make_agent(envs, config)

    def turn() -> tuple[float, float]:
        inside[0], taken = 0.0, [0]
        seconds = clock.time(lambda: agent.learn(samples, on_progress=taken.append))
        return taken[-1] / seconds, inside[0] / seconds

    return turn
