"""Stable-Baselines3's PPO, A2C and DQN behind our interface, with our metric tags.

The one file (beside the adapter) that imports stable_baselines3. Networks this small
are fastest on the host, whatever the environment's device.

Axes: N sub-environments, D observation features, A actions.
"""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor, nn

from agents.base import (
    Array,
    DivergedError,
    Infos,
    Progress,
    as_numpy,
    as_tensor,
    like,
    sizes,
)
from agents.config import DQNConfig, PPOConfig, SB3Config
from agents.random_states import random_states, set_random_states
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.optimizer_state import flatten, restore, strip_prefix

DEVICE = "cpu"
LOG_INTERVALS = {"ppo": 1, "a2c": 10, "dqn": 1000}  # rollouts; episodes for DQN


class SB3Agent:
    """One of SB3's algorithms on a vector environment, discount 1.

    Args:
        envs: Environment in SAME_STEP mode.
        config: Hyper-parameters; their class chooses the algorithm.
        seed: Seeds the weights, the exploration and the environment.

    Raises:
        ConfigError: If the environment is in the wrong autoreset mode.
    """

    def __init__(
        self,
        envs: VectorEnv,
        config: SB3Config,
        *,
        seed: int = 0,
    ) -> None:
        observation_size, num_actions = sizes(envs)
        self.config = config
        self.model = _build(VecMonitor(SB3VecEnv(envs)), config, seed)
        self._resumed: Mapping[str, Tensor] | None = None
        widths = (observation_size, *config.hidden, num_actions)
        self.policy = SB3Policy(self.algo, self.model, widths)

    @property
    def algo(self) -> str:
        """Name of the algorithm, as on the command line."""
        return type(self.model).__name__.lower()

    @property
    def module(self) -> nn.Module:
        """The network(s): their state dict is what is saved."""
        return self.model.policy

    @property
    def scorer(self) -> nn.Sequential:
        """The perceptron that scores the actions; shares its weights with the model."""
        policy: Any = self.model.policy
        if isinstance(self.model, DQN):
            return nn.Sequential(*policy.q_net.q_net)
        return nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)

    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for `total_timesteps` steps; see `Agent.learn`."""
        formats: list[KVWriter] = [] if writer is None else [_MetricBridge(writer)]
        self.model.set_logger(Logger(folder=None, output_formats=formats))
        if total_timesteps == 0:
            return
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            total_timesteps -= self.model.num_timesteps
            set_random_states(resumed)
        try:
            self.model.learn(
                total_timesteps,
                callback=_Report(self.algo, on_progress),
                log_interval=LOG_INTERVALS[self.algo],
                reset_num_timesteps=resumed is None,
            )
        except ValueError as error:
            # torch.distributions' words for logits that are not finite
            if "Expected parameter" in str(error):
                raise DivergedError(self.algo) from None
            raise

    def training_state(self) -> dict[str, Tensor]:
        """What the training goes on from; see `Resumable`.

        PPO and A2C go on to the bit. DQN does not: its replay buffer (and the stream
        of its random actions) is not kept, so it fills anew.
        """
        model: Any = self.model
        tensors = {f"net/{k}": v for k, v in self.module.state_dict().items()}
        tensors |= flatten(model.policy.optimizer, "optimizer") | random_states()
        counts = [model.num_timesteps, model._n_updates, model._episode_num]
        return tensors | {"counts": torch.tensor(counts)}

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` go on; see `Resumable`."""
        model: Any = self.model
        self.module.load_state_dict(strip_prefix("net/", tensors))
        restore(model.policy.optimizer, tensors, "optimizer")
        counts = [int(count) for count in tensors["counts"]]
        model.num_timesteps, model._n_updates, model._episode_num = counts
        model._last_obs = as_numpy(observations)
        model._last_episode_starts = as_numpy(infos["decisions"]) == 0
        monitor: Any = model.env  # its sums begin anew: the first mean return is low
        monitor.episode_returns = np.zeros(monitor.num_envs, dtype=np.float32)
        monitor.episode_lengths = np.zeros(monitor.num_envs, dtype=np.int32)
        self._resumed = tensors


class SB3Policy:
    """The greedy policy of an SB3 model; masked actions are never taken.

    Args:
        name: Label of the policy in tables.
        model: The model; shared, so that training it changes the policy.
        widths: Features, hidden layers, actions: the widths of its network.
    """

    def __init__(
        self, name: str, model: BaseAlgorithm, widths: tuple[int, ...]
    ) -> None:
        self.name = name
        self._model = model
        self._widths = widths

    @property
    def macs_per_decision(self) -> int:
        """Multiply-adds of one choice for one input, the value network left out."""
        return sum(a * b for a, b in pairwise(self._widths))

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        mask = as_tensor(infos["action_mask"], DEVICE).bool()
        with torch.no_grad():
            scores = self.scores(as_tensor(observations, DEVICE))
        actions = scores.masked_fill(~mask, -torch.inf).argmax(dim=-1)
        return like(actions, observations)

    def scores(self, observations: Tensor) -> Tensor:
        """Return log-probabilities, or Q values, [N, A] of observations [N, D]."""
        policy: Any = self._model.policy
        policy.set_training_mode(False)
        scores: Tensor
        if isinstance(self._model, DQN):
            scores = policy.q_net(observations)
        else:
            scores = policy.get_distribution(observations).distribution.logits
        return scores


class _MetricBridge(KVWriter):
    """Hands SB3's records to our writer under the same tags."""

    def __init__(self, writer: MetricWriter) -> None:
        self._writer = writer

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        numbers = {
            key: float(value)
            for key, value in key_values.items()
            if isinstance(value, int | float) or hasattr(value, "item")
        }
        self._writer.scalars(numbers, step)

    def close(self) -> None:
        """Leave the writer open: it belongs to the run, not to SB3."""


class _Report(BaseCallback):
    """Tells our progress bar how far SB3 is, and stops it where weights are lost."""

    def __init__(self, algo: str, on_progress: Progress | None) -> None:
        super().__init__()
        self._algo = algo
        self._on_progress = on_progress

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        weights = self.model.policy.parameters()
        if not all(weight.isfinite().all() for weight in weights):
            raise DivergedError(self._algo)

        if self.num_timesteps > 0:  # the last rollout has been learned from
            self._tell()

    def _on_training_end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.num_timesteps)


def _build(envs: VecMonitor, config: SB3Config, seed: int) -> BaseAlgorithm:
    """Return the algorithm that the config belongs to."""
    options = asdict(config)
    hidden = list(options.pop("hidden"))
    del options["total_timesteps"]  # an argument of learn
    options |= {"gamma": 1.0, "seed": seed, "device": DEVICE}
    if isinstance(config, DQNConfig):
        return DQN("MlpPolicy", envs, policy_kwargs={"net_arch": hidden}, **options)
    kind = PPO if isinstance(config, PPOConfig) else A2C
    nets = {"net_arch": {"pi": hidden, "vf": hidden}}
    return kind("MlpPolicy", envs, policy_kwargs=nets, **options)
