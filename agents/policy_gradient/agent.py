"""The paper's agent: an AgentNet trained by policy gradient.

REINFORCE with a baseline, epsilon-greedy exploration that fades, an entropy bonus
that fades slowly (without it the policy collapses to NOP), discount 1. One rollout,
one update; everything stays on the environment's device.

Axes: T rollout steps, B sub-environments, M = T * B decisions, A actions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from agents.base import NetAgent, check_rows
from agents.deep_start import PenaltyWarmUp, set_stop_probability
from agents.policy_gradient.config import PolicyGradientConfig
from agents.policy_gradient.losses import entropy, policy_gradient_loss, value_loss
from agents.policy_gradient.returns import discounted_returns, generalized_advantages
from agents.policy_gradient.rollout import (
    Rollout,
    RolloutState,
    SamplingPolicy,
    collect_rollout,
)
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import check_autoreset, evaluate
from dynalay_gym.networks.policy import Infos
from dynalay_gym.storage.training_state import take
from dynalay_gym.utils.finite import MEND_DATA
from dynalay_gym.utils.schedules import geometric, linear


class PolicyGradientAgent(NetAgent):
    """Learns an AgentNet on a vector environment.

    Args:
        envs: Environment in SAME_STEP mode; `output="torch"` keeps it on its device.
        config: Hyper-parameters.
        seed: Seeds the weights, the exploration and the environment.
        baseline_envs: Second environment over the same split, in DISABLED mode, in
            which `baseline="greedy"` evaluates the policy; not used otherwise.

    Raises:
        ConfigError: An environment is in the wrong autoreset mode, or missing; or a
            rollout has a single decision.
    """

    config: PolicyGradientConfig

    def __init__(
        self,
        envs: VectorEnv,
        config: PolicyGradientConfig,
        *,
        seed: int = 0,
        baseline_envs: VectorEnv | None = None,
    ) -> None:
        check_autoreset(envs, AutoresetMode.SAME_STEP, "the policy gradient")
        if config.needs_baseline_envs and baseline_envs is None:
            raise ConfigError("baseline 'greedy' needs baseline_envs")
        if envs.num_envs * config.num_steps < 2:
            raise ConfigError(
                "a rollout of one decision has no standard deviation; give more than 1 "
                "for --num-envs or --policy-gradient.num-steps"
            )
        self.envs, self.baseline_envs = envs, baseline_envs
        self._state: RolloutState | None = None
        self._warm_up = PenaltyWarmUp(envs, config.penalty_warm_up)
        super().__init__(envs, config, seed)
        if config.initial_stop_probability is not None:
            bias = self.net.policy_head.head.bias
            set_stop_probability(bias, config.initial_stop_probability)

    def begin(self) -> torch.device:
        """Reset the environment if no training has done so; return its device."""
        if self._state is None:
            self._warm_up.set(0.0)
            self._state = RolloutState.of(*self.envs.reset(seed=self._seed))
        return self._state.observations.device

    def train(self, total_timesteps: int, scheduler: LambdaLR) -> dict[str, float]:
        """Collect one rollout and take one optimiser step on it."""
        assert self._state is not None, "begin comes before"
        config, share = self.config, self.taken / total_timesteps
        self._warm_up.set(share)
        policy = SamplingPolicy(self.net, self.generator)
        policy.epsilon = linear(config.epsilon_start, config.epsilon_end, share)
        entropy_coef = geometric(config.entropy_start, config.entropy_end, share)
        rollout = collect_rollout(self.envs, policy, config.num_steps, self._state)
        losses = self.update(rollout, self._state, policy, entropy_coef)
        self.taken += rollout.rewards.numel()
        scheduler.step()
        metrics = {f"train/{name}": value for name, value in losses.items()}
        if rollout.terminations.any():
            metrics["rollout/ep_rew_mean"] = rollout.episode_returns.mean().item()
            lengths = rollout.episode_lengths.float()
            metrics["rollout/ep_len_mean"] = lengths.mean().item()
        return metrics

    def update(
        self,
        rollout: Rollout,
        state: RolloutState,
        policy: SamplingPolicy,
        entropy_coef: float,
    ) -> dict[str, float]:
        """Take one optimiser step on a rollout.

        Args:
            rollout: The decisions to learn from.
            state: What the environment showed after them.
            policy: The policy that made them.
            entropy_coef: Weight of the entropy bonus.

        Returns:
            Losses and schedules, by the name of their metric.

        Raises:
            DivergedError: A number is not finite; no step is taken.
        """
        for name, seen in (
            ("observation", rollout.observations),
            ("last observation", state.observations),
            ("reward", rollout.rewards),
        ):
            self.guard.check(name, seen, remedy=MEND_DATA)
        # One pass of the value network serves the targets and its own loss.
        values = self.net.value(rollout.observations.flatten(0, 1))
        values = values.view_as(rollout.rewards)
        returns, advantages = self._targets(rollout, state, values.detach())
        terms = self.policy_terms(rollout, advantages, policy)
        terms["value_loss"] = value_loss(values.flatten(), returns.flatten())
        loss = terms["policy_loss"] + self.config.value_coef * terms["value_loss"]
        loss = loss - entropy_coef * terms["entropy"]
        self.guard.check("loss", loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        (group,) = self.optimizer.param_groups
        norm = self.clip_gradients(group["params"])
        self.optimizer.step()
        return {name: term.item() for name, term in terms.items()} | {
            "grad_norm": norm,
            "learning_rate": group["lr"],
            "entropy_coef": entropy_coef,
            "epsilon": policy.epsilon,
        }

    def policy_terms(
        self, rollout: Rollout, advantages: Tensor, policy: SamplingPolicy
    ) -> dict[str, Tensor]:
        """Return the policy's terms of the loss; advantages are [T, B]."""
        observations = rollout.observations.flatten(0, 1)
        log_probs = policy.log_probs(observations, rollout.masks.flatten(0, 1))
        chosen = log_probs.gather(1, rollout.actions.reshape(-1, 1)).squeeze(1)
        return {
            "policy_loss": policy_gradient_loss(chosen, advantages.flatten()),
            "entropy": entropy(log_probs).mean(),
        }

    def clip_gradients(self, weights: list[nn.Parameter]) -> float:
        """Scale gradients down to the longest length allowed; return their length.

        Raises:
            DivergedError: The length is not finite.
        """
        norm = nn.utils.clip_grad_norm_(weights, self.config.max_grad_norm)
        self.guard.check("length of the gradient", norm)
        return norm.item()

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam over all weights."""
        rate = self.config.learning_rate
        return torch.optim.Adam(self.net.parameters(), rate, eps=1e-5, fused=True)

    def training_state(self) -> dict[str, Tensor]:
        """Return all that `learn` continues from; see `Resumable`."""
        assert self._state is not None, "learn comes before"
        return super().training_state() | {"earned": self._state.earned}

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` continue; see `Resumable`."""
        check_rows(observations)
        self._state = RolloutState.of(observations, infos)
        device, like = self._state.observations.device, self._state.earned
        earned = take(tensors, "earned", like.dtype, tuple(like.shape))
        self._state.earned = earned.to(device)
        self.load_training(tensors, device)

    def _targets(
        self, rollout: Rollout, state: RolloutState, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return returns and standardised advantages, both [T, B] like the values."""
        with torch.no_grad():
            bootstrap = self.net.value(state.observations)
        rewards, ends = rollout.rewards, rollout.terminations
        returns = discounted_returns(rewards, ends, bootstrap)
        if self.config.baseline == "greedy":
            # What the episode would earn from its start, less what it has earned.
            advantages = returns - (self._greedy_returns(rollout) - rollout.earned)
        else:
            advantages = generalized_advantages(
                rewards, values, ends, bootstrap, gae_lambda=self.config.gae_lambda
            )
        return returns, (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    def _greedy_returns(self, rollout: Rollout) -> Tensor:
        """Return what the greedy policy earns [T, B] on the rollout's samples."""
        assert self.baseline_envs is not None
        columns = rollout.indices.flatten(), rollout.penalties.flatten()
        episodes = torch.stack([column.double() for column in columns], dim=1)
        unique, where = torch.unique(episodes, dim=0, return_inverse=True)
        index, penalty = unique.numpy(force=True).T
        result = evaluate(
            self.baseline_envs,
            self.policy,
            indices=index.astype(np.int64),
            penalty=penalty.astype(np.float32),
        )
        returns = torch.as_tensor(result.returns).to(rollout.rewards)
        return returns[where].view_as(rollout.rewards)
