"""What an agent is to the scripts, and what agents that train an AgentNet share.

Axes: N sub-environments, D observation features, A actions.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from agents.config import AgentConfig
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import GreedyNetPolicy, Infos
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.training_state import load_training_state, take, training_state
from dynalay_gym.utils.device import torch_defaults
from dynalay_gym.utils.finite import FiniteGuard
from dynalay_gym.utils.schedules import LEARNING_RATE_END, linear

Progress = Callable[[int], None]


class Agent(Protocol):
    """A policy that learns: what the training script and the saved folder need of it.

    The class is called with an environment, a config and ``seed=``.
    """

    @property
    def config(self) -> Any:
        """Its hyper-parameters, an `AgentConfig`."""

    @property
    def policy(self) -> GreedyNetPolicy:
        """The greedy policy, over the weights as they are now."""

    @property
    def module(self) -> nn.Module:
        """All that it trains: the state dict of this is what is saved."""

    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for about `total_timesteps` steps of one sub-environment each.

        Args:
            total_timesteps: Steps to take, counted over all sub-environments.
            writer: Where the training's metrics go; None drops them.
            on_progress: Called after every rollout with the steps taken so far.

        Raises:
            DivergedError: A number is no longer finite.
        """


@runtime_checkable
class Resumable(Protocol):
    """An agent whose training can be stopped and continued."""

    def training_state(self) -> dict[str, Tensor]:
        """Return all that `learn` continues from, the environment's rows left out.

        Call it from `on_progress`, where a rollout and its update are complete.
        """

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` continue from what `training_state` returned.

        That call's `total_timesteps` counts from the beginning of the training.

        Args:
            tensors: From an agent with the same hyper-parameters.
            observations: What the restored environment shows, [N, D]; None where the
                agent never stepped it.
            infos: The infos that belong to them.
        """


class NetAgent:
    """Base of the agents that train one AgentNet with one optimiser.

    Attributes:
        config: Hyper-parameters.
        net: The network.
        policy: Its greedy policy.
        optimizer: Optimiser of the current training.
        guard: Stops it before a step on numbers that are not finite.
        generator: Random numbers of the current training.
        taken: Timesteps of the current training so far.

    Args:
        envs: Environment with flat observations and discrete actions.
        config: Hyper-parameters.
        seed: Seed of the weights and of the random numbers.
    """

    def __init__(self, envs: VectorEnv, config: AgentConfig, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = AgentNet(*sizes(envs), config.hidden)
        self.policy = GreedyNetPolicy(self.net, name=config.algo)
        self.config = config
        self._seed = seed
        self._reset_training("cpu")
        self._loaded = False  # whether the next `learn` continues a training

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.net

    def make_optimizer(self) -> Optimizer:
        """Return a fresh optimiser over the weights that are trained."""
        raise NotImplementedError

    def begin(self) -> torch.device | str:
        """Prepare for a training; return the device that it runs on."""
        return "cpu"

    def train(self, total_timesteps: int, scheduler: LambdaLR) -> dict[str, float]:
        """Learn for a while.

        Adds what it took to `taken`, and steps the schedule after every update.

        Args:
            total_timesteps: Timesteps at which the training ends.
            scheduler: Schedule of the step size.

        Returns:
            Metrics by tag.

        Raises:
            DivergedError: A number is no longer finite.
        """
        raise NotImplementedError

    @torch.enable_grad()  # whatever the caller has set
    @torch_defaults(device=None)
    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for `total_timesteps`; see `Agent.learn`.

        The step size falls linearly in the timesteps taken, down to a tenth.
        """
        device = self.begin()
        if not self._loaded:
            self._reset_training(device)
        self._loaded = False

        def share_of_learning_rate(_: int) -> float:
            done = min(self.taken / total_timesteps, 1.0)
            return linear(1.0, LEARNING_RATE_END, done)

        scheduler = LambdaLR(self.optimizer, share_of_learning_rate)
        first, start = self.taken, time.perf_counter()
        while self.taken < total_timesteps:
            metrics = self.train(total_timesteps, scheduler)
            self.guard.check_weights()  # nobody reports or saves them otherwise
            seconds = time.perf_counter() - start
            if writer is not None:
                fps = (self.taken - first) / seconds
                writer.scalars(metrics | {"time/fps": fps}, self.taken)
            if on_progress is not None:
                on_progress(self.taken)

    def training_state(self) -> dict[str, Tensor]:
        """Return network, moments, random state and timesteps; see `Resumable`."""
        tensors = training_state(self.net, self.optimizer, self.generator)
        return tensors | {"taken": torch.tensor(self.taken)}

    def load_training(
        self, tensors: Mapping[str, Tensor], device: torch.device | str
    ) -> None:
        """Let the next `learn` continue from `training_state`, on a device."""
        taken = take(tensors, "taken", torch.int64, least=0)
        self._reset_training(device)
        load_training_state(tensors, self.net, self.optimizer, self.generator)
        self.taken, self._loaded = int(taken), True

    def _reset_training(self, device: torch.device | str) -> None:
        self.net.to(device)
        self.optimizer = self.make_optimizer()
        self.guard = FiniteGuard(self.net, self.optimizer, remedy(self.config))
        self.generator = torch.Generator(device=device).manual_seed(self._seed)
        self.taken = 0


def remedy(config: AgentConfig) -> str:
    """Return what a user can do where a training diverges."""
    return f"the training diverged; lower --{config.algo}.learning-rate"


def check_rows(observations: Any) -> None:
    """Raise CheckpointError if a saved training has no rows of the environment."""
    if observations is None:
        raise CheckpointError(
            "the saved training has no rows of the environment; start anew"
        )


def sizes(envs: VectorEnv) -> tuple[int, int]:
    """Return (D, A): features of one observation, number of actions.

    Raises:
        ConfigError: Observations are not flat or actions not discrete.
    """
    observations, actions = envs.single_observation_space, envs.single_action_space
    shape = observations.shape if isinstance(observations, Box) else ()
    if len(shape) != 1 or not isinstance(actions, Discrete):
        raise ConfigError(
            "agents need flat observations and discrete actions; "
            "pass observation='flat' to gym.make_vec"
        )
    return shape[0], int(actions.n)
