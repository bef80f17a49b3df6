"""The live environment: batched against one environment per row.

One environment per row is measured twice: as one would write it by hand
(``baselines/env.py``) and as this package's single form.
"""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.report import Table, spread
from benchmarks.speed.baselines.env import hand_env
from benchmarks.speed.common import (
    Clock,
    Options,
    play_rounds,
    random_actions,
    ratio,
    stepper,
)
from benchmarks.speed.subjects import Subject, load_subject
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv

NUM_SINGLE = 64
BY_HAND = f"by hand, SB3 DummyVecEnv, {NUM_SINGLE} rows"


def measure(options: Options) -> list[Table]:
    """Measure every preset."""
    return [measure_network(load_subject(p, options), options) for p in options.presets]


def measure_network(subject: Subject, options: Options) -> Table:
    """Measure every variant on one network."""
    clock = Clock(options.device)
    envs = make_envs(subject, options, clock)
    turns = {name: stepper(env, clock, options.seconds) for name, env in envs.items()}
    speeds = play_rounds(turns, options.rounds)
    macs = macs_per_step(envs[batched(options.rows[0])])
    rows = [
        {
            "variant": variant,
            "steps_per_second": spread(speed),
            "macs_per_ns": float(np.median(speed)) * macs / 1e9,
            "over_by_hand": ratio(speed, speeds[BY_HAND]),
        }
        for variant, speed in speeds.items()
    ]
    columns = {
        "variant": ("variant", ""),
        "sample-steps/s": ("steps_per_second", ",.0f"),
        "multiply-adds/ns": ("macs_per_ns", ".2f"),
        "over by hand": ("over_by_hand", ".1f"),
    }
    notes = f"{subject.about}; {macs:,.0f} multiply-adds per step; {options.notes}"
    return Table(f"Environment, {subject.name}", notes, columns, rows)


def make_envs(subject: Subject, options: Options, clock: Clock) -> dict[str, Any]:
    """Return the environments by the name of their variant."""
    envs: dict[str, Any] = {
        batched(num): DynaLayVectorEnv(num, **subject.env) for num in options.rows
    }
    by_hand = [hand_env(envs[batched(options.rows[0])].problem, clock)] * NUM_SINGLE
    mode = AutoresetMode.SAME_STEP
    single = {
        BY_HAND: DummyVecEnv(by_hand),
        f"by hand, SyncVectorEnv, {NUM_SINGLE} rows": SyncVectorEnv(
            by_hand, autoreset_mode=mode
        ),
        f"DynaLayEnv, SB3 DummyVecEnv, {NUM_SINGLE} rows": DummyVecEnv(
            [single_form(subject)] * NUM_SINGLE
        ),
    }
    return single | envs


def batched(num_rows: int) -> str:
    """Return the name of the batched environment."""
    return f"batched, {num_rows} rows"


def single_form(subject: Subject) -> Callable[[], gym.Env]:
    """Return what makes this package's single form; all share a network and data."""
    first = DynaLayEnv(**subject.env)

    def make() -> gym.Env:
        problem = first.problem
        return copy.deepcopy(first, {id(problem): problem})

    return make


def macs_per_step(envs: DynaLayVectorEnv, num_steps: int = 20) -> float:
    """Return the mean multiply-adds of a random step, its reset's included."""
    envs.reset(seed=0)
    macs = 0
    for actions in random_actions(envs, num_steps):
        *_, infos = envs.step(actions)
        ended = infos["_final_info"]
        macs += infos["final_info"]["macs"].sum() + infos["macs"][ended].sum()
    return macs / (num_steps * envs.num_envs)
