"""What a race is against: PPO on one environment per row; and who judges policies."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import dynalay_gym  # noqa: F401 - registers the ids
from agents.sb3.agent import scoring_net
from benchmarks.bench_env import fastest_task
from benchmarks.common import Clock
from benchmarks.naive_env import NaiveEnv, Task
from dynalay_gym.envs.oracle import optimum
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import GreedyNetPolicy, PlanPolicy

ENV_ID = "DynaLay/Digits-v0"
ROWS = 64
NAIVE = {"n_steps": 32, "batch_size": 256, "gamma": 1.0, "device": "cpu"}

Maker = Callable[[], gym.Env]


class Judge:
    """Evaluates on the test split; its table is built before any clock starts."""

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
        self.optimum = float(optimum(base, self.penalty).returns.mean())
        evaluate(self._envs, PlanPolicy(()))

    def __call__(self, policy: Any) -> float:
        """Mean return of a policy."""
        return evaluate(self._envs, policy, penalty=self.penalty).mean_return


def train_baseline(name: str, steps: int, judge: Judge) -> dict[str, Any]:
    """PPO as a user would run it: one environment per row, everything else stock."""
    load = BASELINES[name]()
    began, wall = time.process_time(), time.perf_counter()
    envs = DummyVecEnv([load()] * ROWS)
    model = PPO("MlpPolicy", envs, seed=0, **NAIVE)
    model.learn(steps)
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    earned = judge(GreedyNetPolicy(scoring_net(model), name="ppo"))
    facts = {"constants": NAIVE, "rows": ROWS, "steps": steps}
    return facts | {
        "seconds": seconds,
        "wall_seconds": wall,
        "test_return": earned,
        "regret": judge.optimum - earned,
    }


def single_form() -> Callable[[], Maker]:
    """This package's single form, as ``gym.make`` gives it."""
    return lambda: partial(gym.make, ENV_ID)


def by_hand() -> Callable[[], Maker]:
    """An ordinary environment on a network that all rows share.

    In which memory format it is faster is found out before any clock starts.
    """
    memory_format = fastest_task(_problem(), Clock("cpu")).network.memory_format
    return lambda: partial(NaiveEnv, Task.of(_problem(), memory_format))


def _problem() -> Any:
    env: Any = gym.make(ENV_ID).unwrapped
    return env.problem


# What loads the network and gives the maker of a row's environment.
BASELINES = {"DynaLayEnv": single_form, "by hand": by_hand}
