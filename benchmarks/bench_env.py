"""Environment speed: batched against one environment per row, and the dense bound.

All variants take the same kind of actions (NOP one half, the layers one sixth each).
One environment per row is measured twice: as one would write it by hand
(``naive_env.py``) and as this package's single form.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.common import (
    Clock,
    Options,
    Turn,
    play_rounds,
    random_actions,
    ratio,
    result,
    section,
    show,
    spread,
    table,
)
from benchmarks.dense import DenseBound
from benchmarks.naive_env import NaiveEnv, Task
from benchmarks.subjects import Subject, load_subject
from benchmarks.tally import tally
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv

NAIVE_ROWS = 64
NAIVE, BOUND = f"by hand, SB3 DummyVecEnv, {NAIVE_ROWS} rows", "dense bound"


def run(options: Options) -> dict[str, Any]:
    """Measure every preset."""
    found = {name: measure(name, options) for name in options.presets}
    text = "\n".join(found[name].pop("markdown") for name in found)
    return result(text, clock=Clock(options.device).name, presets=found)


def measure(name: str, options: Options) -> dict[str, Any]:
    """Speed of every variant on one network."""
    subject, clock = load_subject(name, options), Clock(options.device)
    speeds = play_rounds(make_variants(subject, options, clock), options.rounds)
    rows = {
        variant: {
            "steps_per_second": spread(speed),
            "over_by_hand": ratio(speed, speeds[NAIVE]),
            "of_dense_bound": ratio(speed, speeds[BOUND]),
        }
        for variant, speed in speeds.items()
    }
    head = ["variant", "sample-steps/s (quartiles)", "over by hand", "of dense bound"]
    lines = [
        [
            variant,
            show(row["steps_per_second"]),
            f"{row['over_by_hand']:.2f}",
            f"{row['of_dense_bound']:.2f}",
        ]
        for variant, row in rows.items()
    ]
    notes = (
        f"{subject.about}; {clock.name}, {options.rounds} rounds, "
        f"{options.num_threads} thread(s), {options.device}"
    )
    text = section(f"Environment, {name}", notes, table(head, lines))
    return {"markdown": text, "network": subject.about, "variants": rows}


def make_variants(subject: Subject, options: Options, clock: Clock) -> dict[str, Turn]:
    """A turn of each variant: sample-steps per second."""
    batched = {n: DynaLayVectorEnv(n, **subject.env) for n in options.rows}
    task = fastest_task(batched[options.rows[0]].problem, clock)
    naive = [partial(NaiveEnv, task)] * NAIVE_ROWS
    envs: dict[str, Any] = {
        NAIVE: DummyVecEnv(naive),
        f"by hand, SyncVectorEnv, {NAIVE_ROWS} rows": SyncVectorEnv(
            naive, autoreset_mode=AutoresetMode.SAME_STEP
        ),
        f"DynaLayEnv, SB3 DummyVecEnv, {NAIVE_ROWS} rows": DummyVecEnv(
            single_forms(subject)
        ),
    }
    envs |= {batched_of(n): env for n, env in batched.items()}
    variants: dict[str, Turn] = {
        name: stepper(env, clock, options.seconds) for name, env in envs.items()
    }
    largest = batched[max(batched)]
    bound = DenseBound(largest.problem, tally(largest), clock, options.seconds)
    return variants | {BOUND: bound}


def batched_of(num_rows: int) -> str:
    """Name of the batched environment."""
    return f"batched, {num_rows} rows"


def fastest_task(problem: Any, clock: Clock) -> Task:
    """The memory format in which single rows run faster on this network."""

    def seconds(task: Task) -> float:
        step = stepper(DummyVecEnv([partial(NaiveEnv, task)]), clock, 0.1)
        return 1 / max(step() for _ in range(3))

    formats = (torch.contiguous_format, torch.channels_last)
    return min((Task.of(problem, each) for each in formats), key=seconds)


def single_forms(subject: Subject) -> list[Callable[[], gym.Env]]:
    """Makers of this package's single form that share one network and its data."""
    first = DynaLayEnv(**subject.env)

    def make() -> gym.Env:
        problem = first.problem
        return copy.deepcopy(first, {id(problem): problem})

    return [make] * NAIVE_ROWS


def stepper(envs: Any, clock: Clock, seconds: float) -> Turn:
    """A turn that steps an environment with random actions."""
    if isinstance(envs, DummyVecEnv):
        envs.seed(0)
        envs.reset()
    else:
        envs.reset(seed=0)
    space = envs.action_space  # a batch of Discrete spaces is MultiDiscrete
    num_actions = int(
        space.n if isinstance(space, gym.spaces.Discrete) else space.nvec[0]
    )
    generator = np.random.default_rng(0)

    def step() -> int:
        envs.step(random_actions(generator, envs.num_envs, num_actions - 1))
        return int(envs.num_envs)

    return lambda: clock.rate(step, seconds)
