"""Steps per second of the transition table, beside the live env and CartPole.

Random actions drawn beforehand, full observations, dense ``final_obs`` and infos,
autoreset in the same step (CartPole: its own way, the step after). EnvPool's CartPole
is measured too where that package is installed.
"""

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.common import (
    Clock,
    Options,
    Turn,
    play_rounds,
    ratio,
    result,
    section,
    show,
    spread,
    table,
)
from dynalay_gym.envs.vector_env import DynaLayVectorEnv

TABLE, LIVE, CARTPOLE, ENVPOOL = (
    "table",
    "live",
    "Gymnasium CartPole",
    "EnvPool CartPole",
)
_NUM_DRAWN = 256


def run(options: Options) -> dict[str, Any]:
    """Measure the table of the digits."""
    clock = Clock("cpu")  # a table lives in main memory
    before = os.environ.get("DYNALAY_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DYNALAY_CACHE_DIR"] = folder
        try:
            makes = {name: seconds_to_make() for name in ("built", "found again")}
            sizes = {n: measure(n, options, clock) for n in options.rows}
        finally:
            os.environ.pop("DYNALAY_CACHE_DIR")
            if before is not None:
                os.environ["DYNALAY_CACHE_DIR"] = before
    names = list(sizes[options.rows[0]])
    lines = [
        [str(n), *(show(row[name]["steps_per_second"]) for name in names)]
        + [f"{row[name]['table_over']:.2f}" for name in names[1:]]
        for n, row in sizes.items()
    ]
    head = ["rows", *names, *(f"table ÷ {name}" for name in names[1:])]
    notes = (
        f"Sample-steps/s, digits, agent split; {clock.name}, {options.rounds} rounds; "
        f"made in {makes['built']:.2f} s, found again in {makes['found again']:.2f} s"
    )
    text = section("Transition table", notes, table(head, lines))
    return result(text, clock=clock.name, seconds_to_make=makes, rows=sizes)


def seconds_to_make() -> float:
    """Seconds (wall clock) to make an environment over the table."""
    began = time.perf_counter()
    DynaLayVectorEnv(1, transitions="table", device="cpu").close()
    return time.perf_counter() - began


def measure(num_rows: int, options: Options, clock: Clock) -> dict[str, Any]:
    """Speed of all variants at one number of rows."""
    variants = make_variants(num_rows, clock, options.seconds / 4)
    speeds = play_rounds(variants, options.rounds)
    return {
        name: {
            "steps_per_second": spread(speed),
            "table_over": ratio(speeds[TABLE], speed),
        }
        for name, speed in speeds.items()
    }


def make_variants(num_rows: int, clock: Clock, seconds: float) -> dict[str, Turn]:
    """A turn of each variant: sample-steps per second."""
    envs: dict[str, Any] = {
        TABLE: DynaLayVectorEnv(num_rows, transitions="table", device="cpu"),
        LIVE: DynaLayVectorEnv(num_rows, device="cpu"),
        CARTPOLE: gym.make_vec("CartPole-v1", num_rows, "vector_entry_point"),
    }
    envs |= envpool_cartpole(num_rows)
    num_actions = {TABLE: 4, LIVE: 4, CARTPOLE: 2, ENVPOOL: 2}
    return {
        name: stepper(env, num_rows, num_actions[name], clock, seconds)
        for name, env in envs.items()
    }


def envpool_cartpole(num_rows: int) -> dict[str, Any]:
    """EnvPool's CartPole on one thread; nothing where EnvPool is not installed."""
    try:
        import envpool
    except ImportError:
        return {}
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR  # it warns of its spaces' precision
    env = envpool.make_gymnasium("CartPole-v1", num_envs=num_rows, num_threads=1)
    gym.logger.min_level = level
    return {ENVPOOL: env}


def stepper(
    env: Any, num_rows: int, num_actions: int, clock: Clock, seconds: float
) -> Callable[[], float]:
    """A turn that plays the drawn actions round and round."""
    drawn = np.random.default_rng(0).integers(0, num_actions, (_NUM_DRAWN, num_rows))
    env.reset()
    at = 0

    def step() -> int:
        nonlocal at
        env.step(drawn[at])
        at = (at + 1) % _NUM_DRAWN
        return num_rows

    return lambda: clock.rate(step, seconds)
