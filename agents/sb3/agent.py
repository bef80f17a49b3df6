"""Stable-Baselines3's algorithms behind our interface, with our metric tags.

The one file (beside the adapter) that imports stable_baselines3. Networks this small
are fastest on the host, whatever the environment's device.

Axes: N sub-environments, D observation features, A actions.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor, nn

from agents.base import Progress, check_rows, remedy, sizes
from agents.config import PolicyConfig
from agents.deep_start import PenaltyWarmUp, set_stop_probability
from agents.sb3.config import PPOConfig, SB3Config
from agents.sb3.state import algorithm_state, load_algorithm_state, load_for_learn
from dynalay_gym.errors import ConfigError, DivergedError
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.networks.policy import GreedyNetPolicy, Infos
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.training_state import load_training_state, training_state
from dynalay_gym.utils.device import torch_defaults
from dynalay_gym.utils.finite import MEND_DATA, FiniteGuard
from dynalay_gym.utils.schedules import LEARNING_RATE_END, linear

# PyTorch's words for logits, for probabilities (under -O) and for a step size.
_OVERFLOWS = "Expected parameter", "probability tensor", "without overflow"


class SB3Agent:
    """One of SB3's algorithms on a vector environment, discount 1.

    Args:
        envs: Environment in SAME_STEP mode.
        config: Hyper-parameters; their class chooses the algorithm.
        seed: Seeds the weights, the exploration and the environment.

    Raises:
        ConfigError: The environment is in the wrong autoreset mode, or
            Stable-Baselines3 refuses the options.
    """

    @torch_defaults(device=None)
    def __init__(self, envs: VectorEnv, config: SB3Config, *, seed: int = 0) -> None:
        sizes(envs)
        self.config = config
        self.model = _build(VecMonitor(SB3VecEnv(envs)), config, seed)
        self.policy = GreedyNetPolicy(scoring_net(self.model), name=config.algo)
        optimizer: Any = self.module.optimizer
        self._guard = FiniteGuard(self.module, optimizer, remedy(config))
        self._on_policy = isinstance(self.model, OnPolicyAlgorithm)
        self._loaded: Mapping[str, Tensor] | None = None
        share = 0.0
        if isinstance(config, PolicyConfig):  # DQN has no probabilities to start from
            share = config.penalty_warm_up
            if config.initial_stop_probability is not None:
                policy: Any = self.model.policy
                bias = policy.action_net.bias
                set_stop_probability(bias, config.initial_stop_probability)
        self._warm_up = PenaltyWarmUp(envs, share)

    @property
    def module(self) -> nn.Module:
        """The networks: their state dict is what is saved."""
        return self.model.policy

    @torch.enable_grad()  # whatever the caller has set
    @torch_defaults(device=None)
    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for `total_timesteps` steps; see `Agent.learn`."""
        model: Any = self.model
        formats: list[KVWriter] = [] if writer is None else [_MetricBridge(writer)]
        self.model.set_logger(Logger(folder=None, output_formats=formats))
        if total_timesteps == 0:
            return
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            self._warm_up.set(0.0)  # SB3 resets before its callback is asked
        if loaded is not None:
            total_timesteps -= self.model.num_timesteps
            load_for_learn(self.model, loaded)
        try:
            model.learn(
                total_timesteps,
                callback=_Report(self.config, self._guard, self._warm_up, on_progress),
                log_interval=None if self._on_policy else self.config.log_interval,
                reset_num_timesteps=loaded is None,
            )
        except (ValueError, RuntimeError) as error:
            if not any(words in str(error) for words in _OVERFLOWS):
                raise
            self._guard.check_weights()
            what = "a number is not finite"
            raise DivergedError(f"{what}; {remedy(self.config)}") from None

    def training_state(self) -> dict[str, Tensor]:
        """Return what `learn` continues from; see `Resumable`.

        DQN's replay buffer is part of it: tens of megabytes in its default size.
        """
        model: Any = self.model
        networks = training_state(self.module, model.policy.optimizer)
        return networks | algorithm_state(model)

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` continue; see `Resumable`."""
        check_rows(observations)
        model: Any = self.model
        load_training_state(tensors, self.module, model.policy.optimizer)
        load_algorithm_state(model, tensors, observations, infos)
        self._loaded = tensors


def scoring_net(model: BaseAlgorithm) -> nn.Sequential:
    """Return the perceptron that scores the actions; it shares the model's weights.

    Its outputs are the logits of PPO's and A2C's policy, or DQN's Q values.
    """
    policy: Any = model.policy
    if hasattr(policy, "q_net"):
        return nn.Sequential(*policy.q_net.q_net)
    return nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)


def _build(envs: VecMonitor, config: SB3Config, seed: int) -> BaseAlgorithm:
    """Return the algorithm that the config belongs to.

    Raises:
        ConfigError: Stable-Baselines3 refuses the options.
    """
    ours = {each.name for kind in (SB3Config, PolicyConfig) for each in fields(kind)}
    options = {key: value for key, value in asdict(config).items() if key not in ours}
    if isinstance(config, PPOConfig):
        rate = config.learning_rate
        options["learning_rate"] = lambda left: (
            rate * linear(LEARNING_RATE_END, 1, left)
        )
        rollout = config.num_kept(envs.num_envs)
        if rollout < 2:
            raise ConfigError(
                "ppo learns from 2 decisions or more; give more than 1 for --num-envs "
                "or --ppo.n-steps"
            )
        options["batch_size"] = min(config.batch_size, rollout)
    options |= {"policy_kwargs": {"net_arch": list(config.hidden)}, "seed": seed}
    make: Any = getattr(stable_baselines3, config.sb3_class)
    try:
        model: BaseAlgorithm = make(
            "MlpPolicy", envs, gamma=1.0, device="cpu", **options
        )
    except AssertionError as error:
        raise ConfigError(f"--algo {config.algo}: {error}") from None
    return model


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
    """Reports the timesteps, and stops SB3 where a number is no longer finite.

    It sets the penalty of the next rollout's episodes, too.
    """

    def __init__(
        self,
        config: SB3Config,
        guard: FiniteGuard,
        warm_up: PenaltyWarmUp,
        on_progress: Progress | None,
    ) -> None:
        super().__init__()
        self._config, self._guard, self._warm_up = config, guard, warm_up
        self._on_progress = on_progress

    def _on_training_start(self) -> None:
        model: Any = self.model
        self._check("observation", model._last_obs)

    def _on_step(self) -> bool:
        self._check("observation", self.locals["new_obs"])
        self._check("reward", self.locals["rewards"])
        return True

    def _check(self, name: str, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            self._guard.check(name, torch.as_tensor(values), remedy=MEND_DATA)

    def _on_rollout_start(self) -> None:
        self._check_learning()
        self._warm_up.set(self.num_timesteps / self.locals["total_timesteps"])
        if self.num_timesteps > 0:  # the last rollout has been learned from
            self._report()

    def _on_rollout_end(self) -> None:
        """Let it record its metrics, counted from the beginning of the training.

        Its own count begins anew in a resumed training; DQN counts episodes.
        """
        model: Any = self.model
        if isinstance(model, OnPolicyAlgorithm):
            rollouts = self.num_timesteps // (model.n_steps * model.n_envs)
            if rollouts % self._config.log_interval == 0:
                model.dump_logs(rollouts)

    def _on_training_end(self) -> None:
        self._check_learning()
        self._report()

    def _check_learning(self) -> None:
        """Check what the last updates led to, before anybody sees it."""
        self._guard.check_weights()
        for name, value in self.logger.name_to_value.items():
            if name.endswith("loss"):
                self._guard.check(name, torch.as_tensor(value))

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.num_timesteps)
