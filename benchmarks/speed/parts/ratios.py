"""A few ratios that should not rot, kept with commit, date and machine.

Every run adds a line to ``ratios.jsonl`` in ``--out``. Nothing fails on a figure:
whoever changes something looks at the lines before and after.
"""

import json
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from benchmarks.report import Table
from benchmarks.speed.baselines.env import hand_env
from benchmarks.speed.common import Clock, Options, Turn, play_rounds, ratio, stepper
from benchmarks.speed.parts.table import make_table_env
from benchmarks.speed.subjects import random_network
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.storage.metrics import run_metadata

# What, against what; how the ratios developed stands in the history.
PAIRS = (
    ("batched, 256 rows", "by hand, 16 rows"),
    ("batched, 256 rows", "TorchSession, 256 rows"),
    ("table, 1024 rows", "live, 1024 rows"),
    ("table, 1024 rows", "CartPole, 1024 rows"),
    ("predictor that stops", "predictor that iterates all"),
)


def measure(options: Options) -> list[Table]:
    """Measure the pairs and add them to the history."""
    speeds = play_rounds(make_turns(options.seconds / 4), options.rounds)
    rows: list[dict[str, Any]] = [
        {"what": what, "against": base, "ratio": ratio(speeds[what], speeds[base])}
        for what, base in PAIRS
    ]
    add_to_history(options, rows)
    columns = {
        "what": ("what", ""),
        "against": ("against", ""),
        "times as fast": ("ratio", ".2f"),
    }
    return [Table("Ratios", options.notes, columns, rows)]


def make_turns(seconds: float) -> dict[str, Turn]:
    """Return a turn of every variant: units per second."""
    clock, batched = Clock("cpu"), DynaLayVectorEnv(256, device="cpu")
    session: Any = batched.problem.session
    reference = TorchSession(session.network)
    envs = {
        "batched, 256 rows": batched,
        "by hand, 16 rows": DummyVecEnv([hand_env(batched.problem, clock)] * 16),
        "TorchSession, 256 rows": DynaLayVectorEnv(256, checkpoint=reference),
        "table, 1024 rows": make_table_env(1024),
        "live, 1024 rows": DynaLayVectorEnv(1024, device="cpu"),
        "CartPole, 1024 rows": gym.make_vec("CartPole-v1", 1024, "vector_entry_point"),
    }
    turns = {name: stepper(env, clock, seconds) for name, env in envs.items()}
    network, split = random_network("small")
    images = split.inputs[:64]
    plans = {"predictor that stops": (), "predictor that iterates all": (1, 2, 3)}
    for name, plan in plans.items():
        predictor = DynaLayPredictor(network, PlanPolicy(plan), penalty=0.0)
        turns[name] = partial(clock.rate, partial(answer, predictor, images), seconds)
    return turns


def answer(predictor: DynaLayPredictor, images: Tensor) -> int:
    """Answer images; return how many."""
    return len(predictor.predict(images))


def add_to_history(options: Options, rows: list[dict[str, Any]]) -> None:
    """Add a line to ``ratios.jsonl``."""
    facts = run_metadata()
    line = {key: facts[key] for key in ("date", "commit", "cpu", "num_threads")}
    line |= {"quick": options.quick, "ratios": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "ratios.jsonl").open("a", encoding="utf-8") as history:
        history.write(json.dumps(line) + "\n")
