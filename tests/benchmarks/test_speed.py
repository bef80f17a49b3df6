"""Speed cannot rot silently: ratios in one process, with room for a busy machine.

Bounds are about half of what was measured on one core of a shared machine (the figure
beside each). Processor time, variants in turn, the best of a few short turns.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.bench_env import stepper
from benchmarks.bench_table import stepper as playing
from benchmarks.common import Clock, Turn
from benchmarks.naive_env import NaiveEnv, Task
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

CLOCK = Clock("cpu")
SECONDS, ROUNDS = 0.15, 4


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def best_rates(variants: Mapping[str, Turn]) -> dict[str, float]:
    """Best of a few interleaved turns; one round warms up."""
    rounds = [{k: turn() for k, turn in variants.items()} for _ in range(ROUNDS + 1)]
    return {name: max(each[name] for each in rounds[1:]) for name in variants}


def test_batched_rows_are_faster_than_single_rows_by_hand() -> None:
    batched = DynaLayVectorEnv(256, device="cpu")
    by_hand = DummyVecEnv([partial(NaiveEnv, Task.of(batched.problem))] * 16)
    rates = best_rates(
        {
            "batched": stepper(batched, CLOCK, SECONDS),
            "by hand": stepper(by_hand, CLOCK, SECONDS),
        }
    )
    assert rates["batched"] > 4 * rates["by hand"]  # 10


def test_the_table_is_faster_than_the_network_and_not_far_from_cartpole(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    num = 1024
    envs: dict[str, tuple[Any, int]] = {
        "table": (DynaLayVectorEnv(num, transitions="table", device="cpu"), 4),
        "live": (DynaLayVectorEnv(num, device="cpu"), 4),
        "cartpole": (gym.make_vec("CartPole-v1", num, "vector_entry_point"), 2),
    }
    rates = best_rates(
        {
            name: playing(env, num, num_actions, CLOCK, SECONDS)
            for name, (env, num_actions) in envs.items()
        }
    )
    assert rates["table"] > 15 * rates["live"]  # 72
    assert rates["table"] > 0.12 * rates["cartpole"]  # 0.28


def test_skipping_everything_is_faster_than_iterating_everything() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MainNetwork(make_config("small", (3, 32, 32), 10))
        images = torch.randn(64, 3, 32, 32)
    nop = DynaLayPredictor(model, PlanPolicy(()), penalty=0.0)
    solver = nop.session.solver
    always = torch.no_grad()(lambda: model.forward_path(images, 7, solver))
    rates = best_rates(
        {
            "nop": calls_per_second(lambda: nop.infer(images)),
            "always": calls_per_second(always),
        }
    )
    assert rates["nop"] > 1.7 * rates["always"]  # 3.4


def calls_per_second(job: Callable[[], object]) -> Turn:
    """A turn of one call after the other."""
    return lambda: 1 / CLOCK.per_call(job, SECONDS)
