"""Stable-Baselines3: PPO by id, normalised, in processes, and over the batched form."""

from typing import Any

import gymnasium as gym
import shared
from shared import Act, Task, Training
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from dynalay_gym.integrations.sb3 import SB3VecEnv

ON_POLICY = {
    "n_steps": shared.NUM_STEPS,
    "n_epochs": shared.EPOCHS,
    "batch_size": shared.BATCH_SIZE,
    "gamma": shared.DISCOUNT,
    "learning_rate": lambda left: shared.LEARNING_RATE * left,
    "device": "cpu",
}


def make(task: Task, **options: Any) -> VecEnv:
    """Return single environments side by side, made from the id."""
    options |= {"env_kwargs": task.options, "seed": task.seed}
    return make_vec_env(task.id, n_envs=shared.NUM_ENVS, **options)


def learn(envs: VecEnv, task: Task) -> Act:
    """Learn with PPO."""
    model = PPO("MlpPolicy", envs, seed=task.seed, **ON_POLICY).learn(task.decisions)
    return lambda observations, _: model.predict(observations, deterministic=True)[0]


def by_id(task: Task) -> Act:
    """Learn from what the id gives."""
    return learn(make(task), task)


def in_processes(task: Task) -> Act:
    """Learn from environments in processes of their own."""
    return learn(make(task, vec_env_cls=SubprocVecEnv), task)


def normalised(task: Task) -> Act:
    """Learn from normalised observations and rewards."""
    envs = VecNormalize(make(task), gamma=shared.DISCOUNT)
    act = learn(envs, task)
    return lambda observations, infos: act(envs.normalize_obs(observations), infos)


def batched(task: Task) -> Act:
    """Learn from the batched form, through the adapter of this package."""
    envs = gym.make_vec(task.id, num_envs=shared.NUM_ENVS, **task.options)
    return learn(SB3VecEnv(envs), task)


TRAININGS = {
    "PPO": Training(by_id, autoreset="none"),
    "PPO, VecNormalize": Training(normalised, autoreset="none"),
    "PPO, SubprocVecEnv": Training(in_processes, autoreset="none"),
    "PPO, SB3VecEnv": Training(batched, autoreset="SameStep", lines_changed=1),
}

if __name__ == "__main__":
    shared.main("stable-baselines3", TRAININGS)
