"""RLlib's PPO on a cluster of two nodes, of which an env runner is killed.

    pip install "ray[rllib]>=2.60,<3" && pip install "gymnasium>=1.4,<2"
    python -m benchmarks.rllib_cluster

RLlib asks for Gymnasium 1.2.2, which the second command overrules: it runs with 1.4.
Both nodes are processes of this machine (`ray.cluster_utils`). The network under all
environments gets other weights, as in a co-training; a process that plays is killed,
the training goes on, and the process that takes its place gets those weights, too.
"""

import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import tyro
from numpy.typing import NDArray
from ray.cluster_utils import Cluster
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from torch import Tensor

from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.networks.checkpoint import load_network

SAMPLE = 7  # whose observation is compared
Weights = Mapping[str, Tensor]


class Digits(gym.Wrapper):
    """The handwritten digits, made as RLlib makes environments.

    Args:
        config: Nothing of it is used.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(gym.make("dynalay_gym:DynaLay/Digits-v0", split="agent"))


def main(most: int = 30) -> None:
    """Train, broadcast weights, kill, train on; print what happens.

    Args:
        most: Iterations in which the killed process has to be replaced.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    ray.init(cluster.address, runtime_env={"env_vars": paths})
    weights = load_network(SHIPPED / "digits")[0].state_dict()
    weights["head"] = weights["head"].flip(0)  # answers 9 for 0
    algo = build(weights)
    train(algo)
    algo.env_runner_group.foreach_env_runner(partial(load, weights=weights))
    places = on_all(algo, place)
    print(f"env runners (process, node): {places}; the first one is killed")
    os.kill(places[0][0], signal.SIGKILL)
    for _ in range(most):
        train(algo)
        if algo.env_runner_group.num_healthy_remote_env_runners() == len(places):
            break
    print(f"env runners: {on_all(algo, place)}")
    own: Any = Digits({})
    before, _ = show(own), own.unwrapped.load_weights(weights)
    after = [np.array_equal(each, show(own)) for each in on_all(algo, view)]
    print(
        f"shows what the weights make of a sample: {after}, which is another ", end=""
    )
    print(f"observation: {not np.array_equal(before, show(own))}")
    algo.stop()
    ray.shutdown()
    cluster.shutdown()


def build(weights: Weights) -> PPO:
    """Return PPO with two env runners; those that replace others get the weights."""

    def give(env_runner_group: Any, env_runner_indices: list[int], **_: Any) -> None:
        which = {"remote_worker_ids": env_runner_indices, "local_env_runner": False}
        env_runner_group.foreach_env_runner(partial(load, weights=weights), **which)

    config = PPOConfig().environment(Digits).callbacks(on_env_runners_recreated=give)
    config = config.env_runners(num_env_runners=2, num_envs_per_env_runner=4)
    config = config.fault_tolerance(restart_failed_env_runners=True)
    sizes = {"train_batch_size_per_learner": 512, "minibatch_size": 128}
    return config.training(gamma=1.0, num_epochs=4, **sizes).build_algo()


def train(algo: PPO) -> None:
    """Train once and print how it went."""
    start, found = time.perf_counter(), algo.train()["env_runners"]
    print(
        f"{found['num_env_steps_sampled_lifetime']:6.0f} decisions, return "
        f"{found['episode_return_mean']:.3f}, {time.perf_counter() - start:4.1f} s, "
        f"{algo.env_runner_group.num_healthy_remote_env_runners()} env runners"
    )


def on_all(algo: PPO, ask: Any) -> list[Any]:
    """Return what every env runner in a process of its own answers."""
    answers: list[Any] = algo.env_runner_group.foreach_env_runner(
        ask, local_env_runner=False
    )
    return answers


def load(runner: Any, weights: Weights) -> None:
    """Give the network of all environments of an env runner other weights."""
    for env in [] if runner.env is None else runner.env.unwrapped.envs:
        env.unwrapped.load_weights(weights)


def place(runner: Any) -> tuple[int, str]:
    """Return process and node of an env runner."""
    return os.getpid(), ray.get_runtime_context().get_node_id()[:8]


def view(runner: Any) -> NDArray[np.float32]:
    """Return what an env runner's first environment shows of a sample; see `show`."""
    return show(runner.env.unwrapped.envs[0])


def show(env: gym.Env) -> NDArray[np.float32]:
    """Return the first observation [D] of a sample."""
    observation: NDArray[np.float32] = env.reset(options={"index": SAMPLE})[0]
    return observation


if __name__ == "__main__":
    tyro.cli(main)
