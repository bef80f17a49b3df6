"""Co-train the main network under an algorithm of your own: one wrapper, one attribute.

The loop below is REINFORCE, written without a thought of the main network: it steps an
environment and updates a policy. ``CoTrainingEnv`` lets the network learn between its
rollouts, on the main split, through the layers that the policy chooses there.

    python examples/co_training.py
"""

from typing import Any

import gymnasium as gym
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data.splits import load_split

ROWS, STEPS = 128, 8  # rows side by side, steps of a rollout


class Learner:
    """A policy and its REINFORCE update; knows nothing of the main network."""

    def __init__(self, envs: Any) -> None:
        features = envs.single_observation_space.shape[0]
        actions = int(envs.single_action_space.n)
        self.net = nn.Sequential(
            nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, actions)
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-3)

    def choices(self, observations: Tensor, infos: dict[str, Any]) -> Categorical:
        """Return the distribution over the actions that can change something."""
        allowed = infos["action_mask"].bool()
        return Categorical(logits=self.net(observations).masked_fill(~allowed, -1e9))

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Choose greedily, for the samples that the main network learns from."""
        with torch.no_grad():
            return self.choices(observations, infos).probs.argmax(1)

    def rollout(self, envs: Any, observations: Tensor, infos: dict[str, Any]) -> Any:
        """Take STEPS steps and an update; where the rows stand, and the mean return."""
        scores, rewards, ends = [], [], []
        for _ in range(STEPS):
            chances = self.choices(observations, infos)
            actions = chances.sample()
            observations, reward, ended, _, infos = envs.step(actions)
            scores.append(chances.log_prob(actions) + 0.02 * chances.entropy())
            rewards.append(reward)
            ends.append(ended)
        returns, following = [], torch.zeros(ROWS)
        for reward, ended in zip(reversed(rewards), reversed(ends), strict=True):
            following = reward + torch.where(ended, 0.0, following)
            returns.append(following)
        gains = torch.stack(returns[::-1])
        loss = -(torch.stack(scores) * (gains - gains.mean())).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        finished = torch.stack(ends).sum().clamp(min=1)
        return observations, infos, float(torch.stack(rewards).sum() / finished)


def main(updates: int = 60, seed: int = 0) -> None:
    """Train both; print how each fares."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # networks this small are slower with more
    name = "dynalay_gym:DynaLay/Digits-v0"
    plain = gym.make_vec(name, num_envs=ROWS, output="torch", device="cpu")
    base: Any = plain.unwrapped
    config, main_split = (
        CoTrainingConfig(update_ratio=0.125),
        load_split("digits", "main"),
    )
    trainer = CoTrainer(base.problem, main_split, config, seed=seed)
    envs = CoTrainingEnv(plain, trainer, every=STEPS, total=updates * STEPS * ROWS)
    learner: Any = Learner(envs)
    envs.policy = learner
    envs.on_turn = lambda metrics, decisions: losses.append(metrics["main/loss"])
    losses: list[float] = []
    observations, infos = envs.reset(seed=seed)
    for number in range(1, updates + 1):
        observations, infos, earned = learner.rollout(envs, observations, infos)
        if number % 10 == 0:
            print(
                f"update {number:4}   mean return {earned:.3f}   main network: "
                f"{trainer.steps} steps, cross-entropy {losses[-1]:.3f}"
            )


if __name__ == "__main__":
    tyro.cli(main)
