"""Numbers that are not finite, put into a training at a chosen moment.

Each learner is trained on a small problem. An injection turns one number of a quantity
into NaN or infinity when that quantity comes up for the n-th time; what is counted is
whether the training stops, and how many optimiser steps it takes from then on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper
from helpers.networks import (
    make_vec,
    own_split,
    random_images,
    random_model,
    tiny_config,
)
from helpers.problems import NeedEnv
from torch import Tensor, nn
from torch.nn import functional as F

from agents.exact.config import ExactConfig
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.envs.process import LiveProcess
from dynalay_gym.errors import DivergedError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import GreedyNetPolicy
from dynalay_gym.networks.training import MainTrainer, TrainingConfig

AGENTS = {
    "policy-gradient": PolicyGradientConfig(num_steps=4, hidden=(8,)),
    "exact": ExactConfig(batch_size=6, hidden=(8,)),
    "ppo": PPOConfig(n_steps=8, batch_size=32, n_epochs=2, hidden=(8,)),
    "a2c": A2CConfig(n_steps=4, hidden=(8,)),
    "dqn": DQNConfig(learning_starts=64, batch_size=16, buffer_size=512, hidden=(8,)),
}
STEPS = 384  # of an agent, in 16 rows
SEEN = ("observation", "reward", "loss", "gradient", "weight")
QUANTITIES = dict.fromkeys(AGENTS, SEEN) | {
    "main": ("image", "loss", "gradient", "weight"),
    "co": ("image", *SEEN),
}
FAR = 10**9  # a moment that does not come


@dataclass
class Injection:
    """One number of a quantity that is not finite.

    Attributes:
        quantity: What it is a number of.
        value: NaN or an infinity.
        at: When it comes, counted in the times that the quantity is looked at.
        count: How often the quantity was looked at.
        steps: Optimiser steps of the whole training.
        applied: Those that followed the injection.
    """

    quantity: str
    value: float
    at: int
    count: int = 0
    steps: int = 0
    applied: int = 0

    @property
    def fired(self) -> bool:
        """Whether it has happened."""
        return self.count >= self.at

    def into(self, quantity: str, values: Any) -> Any:
        """Return the values of a quantity, one of them replaced if it is the moment."""
        if quantity != self.quantity:
            return values
        self.count += 1
        if self.count != self.at:
            return values
        if isinstance(values, np.ndarray):
            return self.into_array(values)
        if values.dim() == 0:
            return values * self.value
        return torch.from_numpy(self.into_array(values.detach().numpy()))

    def into_array(self, values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.reshape(-1)[0] = self.value
        return values

    def watch(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Count the optimiser's steps, and put it into gradients and weights."""
        weight = next(module.parameters())

        def break_weight() -> None:
            with torch.no_grad():
                weight.copy_(self.into("weight", weight))

        def after_step(*_: Any) -> None:
            self.steps += 1
            self.applied += self.fired
            break_weight()

        break_weight()
        optimizer.register_step_post_hook(after_step)
        weight.register_hook(lambda grad: self.into("gradient", grad))


class Injected(VectorWrapper):
    """An environment whose observations or rewards are injected into."""

    def __init__(self, envs: Any, injection: Injection) -> None:
        super().__init__(envs)
        self.injection = injection

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        seen, infos = self.env.reset(**options)
        return self.injection.into("observation", seen), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        seen, rewards, *ends, infos = self.env.step(actions)
        seen = self.injection.into("observation", seen)
        rewards = self.injection.into("reward", rewards)
        return seen, rewards, ends[0], ends[1], infos


def run(learner: str, injection: Injection) -> tuple[DivergedError | None, nn.Module]:
    """Train; return what stopped it, if anything did, and what was trained."""
    with pytest.MonkeyPatch.context() as patch:
        _inject_losses(injection, patch)
        make = {"main": _main, "co": _co}.get(learner, _agent)
        learn, module, optimizer = make(learner, injection, patch)
        injection.watch(module, optimizer)
        try:
            learn()
        except DivergedError as error:
            return error, module
    return None, module


def _inject_losses(injection: Injection, patch: pytest.MonkeyPatch) -> None:
    for name in ("cross_entropy", "mse_loss", "smooth_l1_loss"):
        _wrap(patch, F, name, "loss", injection)
    _wrap(patch, "agents.policy_gradient.agent", "value_loss", "loss", injection)
    _wrap(patch, "agents.exact.agent", "advantage_loss", "loss", injection)


def _wrap(
    patch: pytest.MonkeyPatch, owner: Any, name: str, quantity: str, to: Injection
) -> None:
    """Let what a function returns be injected into."""
    if isinstance(owner, str):
        owner = __import__(owner, fromlist=["agent"])
    inner = getattr(owner, name)

    def outer(*args: Any, **options: Any) -> Any:
        return to.into(quantity, inner(*args, **options))

    patch.setattr(owner, name, outer)


def _agent(learner: str, injection: Injection, patch: pytest.MonkeyPatch) -> Any:
    config: Any = AGENTS[learner]
    if learner == "exact":
        agent: Any = make_agent(make_vec(1, transitions="table"), config)
        for name in ("observation", "reward"):
            _wrap(patch, agent.tree, f"{name}s", name, injection)
        agent._loaded = True  # the optimiser stays
        total = 3 * 24 * agent.tree.nodes.num_nodes
        return lambda: agent.learn(total), agent.module, agent.optimizer
    envs = Injected(NeedEnv(output=config.output), injection)
    agent = make_agent(envs, config)
    if learner == "policy-gradient":
        agent._loaded = True  # the optimiser stays
        return lambda: agent.learn(STEPS), agent.module, agent.optimizer
    return lambda: agent.learn(STEPS), agent.module, agent.module.optimizer


def _main(learner: str, injection: Injection, patch: pytest.MonkeyPatch) -> Any:
    torch.manual_seed(0)
    split = own_split(random_images(tiny_config(), 24))
    _wrap_images(split, injection)
    options = TrainingConfig(epochs=2, batch_size=8, paths="mixed")
    trainer = MainTrainer(random_model(tiny_config()), split, options)

    def learn() -> None:
        for _ in range(2):
            trainer.train_epoch(lambda step, loss: None)

    return learn, trainer.network, trainer.optimizer


def _co(learner: str, injection: Injection, patch: pytest.MonkeyPatch) -> Any:
    torch.manual_seed(0)
    split = own_split(random_images(tiny_config(), 24))
    config = CoTrainingConfig(batch_size=8, replay_size=8)
    trainer = CoTrainer(make_vec(2).problem, split, config, seed=0)
    _wrap_images(trainer.problem, injection)
    _wrap(patch, LiveProcess, "observe", "observation", injection)
    step = LiveProcess.step

    def paid(*args: Any) -> Any:
        rewards, ends = step(*args)
        return injection.into("reward", rewards), ends

    patch.setattr(LiveProcess, "step", paid)
    net = AgentNet(make_vec(2).single_observation_space.shape[0], 4, (8,))
    policy = GreedyNetPolicy(net, name="fixed")

    def learn() -> None:
        for decisions in (16, 32, 48):
            trainer.turn(policy, decisions)

    return learn, trainer.network, trainer._optimizer


class _Images:
    """Images [N, C, H, W] that are injected into where training picks some."""

    def __init__(self, images: Tensor, injection: Injection) -> None:
        self._images, self._injection, self.device = images, injection, images.device

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: Tensor) -> Tensor:
        found: Tensor = self._injection.into("image", self._images[rows])
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._images, name)


def _wrap_images(owner: Any, injection: Injection) -> None:
    object.__setattr__(owner, "inputs", _Images(owner.inputs, injection))


def moments(learner: str, quantity: str) -> dict[str, int]:
    """Return the first, a middle and the last moment of a quantity in a training."""
    clean = Injection(quantity, 1.0, FAR)
    error, _ = run(learner, clean)
    assert error is None and clean.steps > 2, (learner, clean.steps)
    assert clean.count > 2, (learner, quantity, clean.count)
    return {"first": 1, "middle": (clean.count + 1) // 2, "last": clean.count}
