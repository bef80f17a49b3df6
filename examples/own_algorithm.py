"""Plug your own algorithm into a DynaLay environment: plain torch, no agent library.

REINFORCE. Four rows try every image at once and the mean return of the other three is
the baseline, so no value network is needed. What was learned is then compared with
reference policies of the package. Axes: N rows (one image each), A actions.

    python examples/own_algorithm.py
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.reference_policies import SweepPolicy
from dynalay_gym.networks.policy import GreedyNetPolicy

TRIES = 4  # rows that try the same image
Choose = Callable[[Tensor, dict[str, Any]], Tensor]


def make(num_envs: int, split: str, autoreset_mode: str = "SameStep") -> Any:
    """Return a vector environment that returns tensors."""
    envs = gym.make_vec(
        "dynalay_gym:DynaLay/Digits-v0",
        num_envs=num_envs,
        split=split,
        autoreset_mode=autoreset_mode,
        output="torch",
        device="cpu",
    )
    return envs.unwrapped


def play(envs: Any, samples: Tensor, choose: Choose) -> Tensor:
    """Play one episode per row on the given samples [N]; return the returns [N]."""
    observations, infos = envs.reset(options={"index": samples.numpy()})
    returns, playing = torch.zeros(len(samples)), torch.ones(len(samples)).bool()
    for _ in range(envs.max_decisions):
        actions = choose(observations, infos)
        observations, rewards, terminations, _, infos = envs.step(actions)
        returns += rewards * playing  # a row that ended is in its next episode
        playing &= ~terminations
    return returns


def policy(net: nn.Module, observations: Tensor, infos: dict[str, Any]) -> Categorical:
    """Return the distribution over the actions that can change something."""
    allowed = infos["action_mask"].bool()
    return Categorical(logits=net(observations).masked_fill(~allowed, -torch.inf))


def update(envs: Any, net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Take one REINFORCE step; return the mean return."""
    steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def choose(observations: Tensor, infos: dict[str, Any]) -> Tensor:
        chances = policy(net, observations, infos)
        actions: Tensor = chances.sample()
        counted = infos["decisions"] == len(steps)  # still the row's first episode
        steps.append((chances.log_prob(actions), chances.entropy(), counted))
        return actions

    samples = torch.randint(envs.num_samples, (envs.num_envs // TRIES,))
    returns = play(envs, samples.repeat_interleave(TRIES), choose).view(-1, TRIES)
    others = (returns.sum(1, keepdim=True) - returns) / (TRIES - 1)
    log_probs, entropies, counted = map(torch.stack, zip(*steps, strict=True))
    gain = log_probs * (returns - others).flatten() + 0.02 * entropies
    optimizer.zero_grad()
    (-gain[counted].mean()).backward()
    optimizer.step()
    return returns.mean().item()


def main(updates: int = 200, seed: int = 0) -> None:
    """Learn, then compare with stopping at once and with iterating every layer."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # networks this small are slower with more
    envs = make(256, "agent")
    envs.reset(seed=seed)
    features, num_actions = envs.single_observation_space.shape[0], envs.num_actions
    net = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, num_actions))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    total = 0.0
    for number in range(1, updates + 1):
        total += update(envs, net, optimizer)
        if number % 20 == 0:
            print(f"update {number:4}   mean return of the last 20: {total / 20:.3f}")
            total = 0.0
    test = make(256, "test", autoreset_mode="Disabled")
    for each in (
        SweepPolicy(test, (), name="nop"),
        SweepPolicy(test, test.full_plan, name="always"),
        GreedyNetPolicy(net, name="learned"),  # the most probable action
    ):
        mean_return = evaluate(test, each).mean_return
        print(f"test return of {each.name}: {mean_return:.3f}")


if __name__ == "__main__":
    tyro.cli(main)
