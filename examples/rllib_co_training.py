"""Co-train the main network under RLlib's PPO, whose environments are elsewhere.

After every iteration of PPO the network takes optimiser steps on the main split,
through the layers that the policy chooses there. Then all env runners, processes on
this or other machines, get its new weights; so do those that replace others. Episodes
are sampled whole, so that the network does not change within one.

    pip install "ray[rllib]>=2.60,<3" && pip install "gymnasium>=1.4,<2"
    python examples/rllib_co_training.py
"""

from functools import partial
from typing import Any

import gymnasium as gym
import torch
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from torch import Tensor, nn

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data.splits import load_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import GreedyNetPolicy
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.measure import state_accuracies

ENV_ID = "dynalay_gym:DynaLay/Digits-v0"


class Scores(nn.Module):
    """PPO's network, called as any other: observations to scores."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, observations: Tensor) -> Tensor:
        """Return scores [n, A] of observations [n, D]."""
        found = self.module.forward_inference({"obs": observations})
        return found["action_dist_inputs"]


class CoTraining:
    """The main network's turns between the iterations of an RLlib algorithm.

    Args:
        env: Environment of the agent's problem, with the network that learns.
        config: Options; see `CoTrainer`.
    """

    def __init__(self, env: gym.Env, config: CoTrainingConfig) -> None:
        problem: Any = env.unwrapped.problem
        self.trainer = CoTrainer(problem, load_split("digits", "main"), config, seed=0)

    def turn(self, algorithm: Any, result: dict[str, Any]) -> None:
        """Learn for the decisions so far, and tell all env runners."""
        policy = GreedyNetPolicy(Scores(algorithm.get_module()), name="ppo")
        decisions = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        result["main"] = self.trainer.turn(policy, decisions)
        self.broadcast(algorithm.env_runner_group)

    def broadcast(self, env_runner_group: Any) -> None:
        """Give all env runners the network's weights."""
        weights = {k: x.clone() for k, x in self.trainer.weights().items()}
        env_runner_group.foreach_env_runner(partial(load, weights=weights))


def load(runner: Any, weights: dict[str, Tensor]) -> None:
    """Give the network of all environments of an env runner other weights."""
    for env in [] if runner.env is None else runner.env.unwrapped.envs:
        env.unwrapped.load_weights(weights)


def main(iterations: int = 20, update_ratio: float = 4.0) -> None:
    """Train PPO and a network that knows nothing yet; print how both fare."""
    torch.manual_seed(0)
    env: Any = gym.make(ENV_ID, split="agent")
    fresh = MainNetwork(env.unwrapped.problem.session.network.config)
    env.unwrapped.load_weights(fresh.state_dict())
    co = CoTraining(
        env, CoTrainingConfig(update_ratio=update_ratio, learning_rate=5e-3)
    )
    config = PPOConfig().environment(ENV_ID, env_config={"split": "agent"})
    config.env_runners(
        num_env_runners=2,
        num_envs_per_env_runner=8,
        batch_mode="complete_episodes",
    )
    # Functions, because RLlib copies methods with all that they belong to.
    config.callbacks(
        on_algorithm_init=lambda algorithm, **_: co.broadcast(
            algorithm.env_runner_group
        ),
        on_train_result=lambda algorithm, result, **_: co.turn(algorithm, result),
        on_env_runners_recreated=lambda env_runner_group, **_: co.broadcast(
            env_runner_group
        ),
    )
    sizes = {"train_batch_size_per_learner": 1024, "minibatch_size": 256}
    algorithm = config.training(gamma=1.0, num_epochs=4, **sizes).build_algo()
    for _ in range(iterations):
        result = algorithm.train()
        found = result["env_runners"]["episode_return_mean"]
        loss = result["main"]["main/loss"]
        steps = co.trainer.steps
        print(f"return {found:6.3f}   network: {steps} steps, {loss:.3f}", flush=True)
    network = co.trainer.network.eval()
    shown = state_accuracies(
        fastest_session(network), load_split("digits", "validation")
    )
    print({state: round(value, 3) for state, value in shown.items()})
    algorithm.stop()


if __name__ == "__main__":
    tyro.cli(main)
