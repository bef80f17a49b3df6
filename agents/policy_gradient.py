"""The paper's agent: an AgentNet trained by policy gradient.

REINFORCE with a baseline, epsilon-greedy exploration that fades, an entropy bonus
that fades slowly (without it the policy collapses to NOP), discount 1. One rollout,
one update; everything stays on the environment's device.

Axes: T rollout steps, B sub-environments, M = T * B decisions, A actions.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from agents.base import (
    DivergedError,
    Infos,
    NetPolicy,
    Progress,
    as_tensor,
)
from agents.config import PolicyGradientConfig
from agents.losses import entropy, policy_gradient_loss, value_loss
from agents.net_agent import NetAgent
from agents.returns import discounted_returns, generalized_advantages
from agents.rollout import Rollout, RolloutState, check_same_step, collect_rollout
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import walk
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.optimizer_state import flatten, restore, strip_prefix

LEARNING_RATE_END = 0.1  # share of the step size that is left at the end


class PolicyGradientAgent(NetAgent):
    """Learns an AgentNet on a vector environment.

    Args:
        envs: Environment in SAME_STEP mode; `output="torch"` keeps it on its device.
        config: Hyper-parameters.
        seed: Seeds the weights, the exploration and the environment.
        baseline_envs: Second environment over the same split, in DISABLED mode, on
            which `baseline="greedy"` walks; not used otherwise.

    Raises:
        ConfigError: If an environment is in the wrong autoreset mode, or missing.
    """

    algo = "policy-gradient"

    def __init__(
        self,
        envs: VectorEnv,
        config: PolicyGradientConfig,
        *,
        seed: int = 0,
        baseline_envs: VectorEnv | None = None,
    ) -> None:
        check_same_step(envs, "the policy gradient")
        if config.baseline == "greedy" and baseline_envs is None:
            raise ConfigError("baseline 'greedy' needs baseline_envs")
        self.envs = envs
        self.config = config
        self.baseline_envs = baseline_envs
        self._seed = seed
        self._state: RolloutState | None = None
        self._training: _Training | None = None
        self._resumed = False  # whether the next `learn` goes on from `_training`
        super().__init__(envs, config.hidden, seed)
        self.policy = NetPolicy(self.net)

    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for `total_timesteps` steps; see `Agent.learn`."""
        state = self._begin()
        training = self._begin_training(state.observations.device)
        behaviour = NetPolicy(self.net, greedy=False, generator=training.generator)
        taken, began = training.taken, time.perf_counter()
        resumed = taken
        while taken < total_timesteps:
            share = taken / total_timesteps
            behaviour.epsilon = self._epsilon(share)
            rollout = collect_rollout(
                self.envs, behaviour, self.config.num_steps, state
            )
            losses = self._update(rollout, state, behaviour, training.optimizer, share)
            taken = training.taken = taken + rollout.rewards.numel()
            if writer is not None:
                losses["fps"] = (taken - resumed) / (time.perf_counter() - began)
                writer.scalars(_tagged(rollout, losses), taken)
            if on_progress is not None:
                on_progress(taken)

    def policy_terms(
        self, rollout: Rollout, advantages: Tensor, policy: NetPolicy
    ) -> dict[str, Tensor]:
        """Return the policy's terms of the loss; advantages are [T, B]."""
        observations = rollout.observations.flatten(0, 1)
        log_probs = policy.log_probs(observations, rollout.masks.flatten(0, 1))
        chosen = log_probs.gather(1, rollout.actions.reshape(-1, 1)).squeeze(1)
        return {
            "policy_loss": policy_gradient_loss(chosen, advantages.flatten()),
            "entropy": entropy(log_probs).mean(),
        }

    def _begin(self) -> RolloutState:
        """Reset the environment once; later calls of `learn` go on from there."""
        if self._state is None:
            self._state = RolloutState.begin(self.envs, self._seed)
            self.net.to(self._state.observations.device)
        return self._state

    def training_state(self) -> dict[str, Tensor]:
        """What the training goes on from; see `Resumable`."""
        training, state = self._training, self._state
        assert training is not None and state is not None, "learn comes before"
        tensors = {f"net/{key}": value for key, value in self.net.state_dict().items()}
        return (
            tensors
            | flatten(training.optimizer, "optimizer")
            | {
                "generator": training.generator.get_state(),
                "earned": state.earned,
                "taken": torch.tensor(training.taken),
            }
        )

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` go on; see `Resumable`."""
        self._state = RolloutState.of(observations, infos)
        device = self._state.observations.device
        self._state.earned = tensors["earned"].to(device)
        self.net.to(device)
        self.net.load_state_dict(strip_prefix("net/", tensors))
        self._training = training = self._fresh_training(device)
        restore(training.optimizer, tensors, "optimizer")
        training.generator.set_state(tensors["generator"].cpu())
        training.taken, self._resumed = int(tensors["taken"]), True

    def _begin_training(self, device: torch.device) -> "_Training":
        """Fresh moments and exploration, or those that were loaded."""
        if not self._resumed or self._training is None:
            self._training = self._fresh_training(device)
        self._resumed = False
        return self._training

    def _fresh_training(self, device: torch.device) -> "_Training":
        return _Training(
            optimizer=torch.optim.Adam(self.net.parameters(), eps=1e-5, fused=True),
            generator=torch.Generator(device=device).manual_seed(self._seed),
        )

    def _epsilon(self, share: float) -> float:
        start, end = self.config.epsilon_start, self.config.epsilon_end
        return start + share * (end - start)

    def _entropy_coef(self, share: float) -> float:
        """Fall geometrically, or linearly where one end is 0."""
        start, end = self.config.entropy_start, self.config.entropy_end
        if min(start, end) == 0.0:
            return start + share * (end - start)
        return float(start ** (1.0 - share) * end**share)

    def _update(
        self,
        rollout: Rollout,
        state: RolloutState,
        policy: NetPolicy,
        optimizer: torch.optim.Optimizer,
        share: float,
    ) -> dict[str, float]:
        """Take one optimiser step and return what it saw."""
        config = self.config
        # One pass of the value network serves the targets and its own loss.
        values = self.net.value(rollout.observations.flatten(0, 1))
        values = values.view_as(rollout.rewards)
        returns, advantages = self._targets(rollout, state, values.detach())
        terms = self.policy_terms(rollout, advantages, policy)
        terms["value_loss"] = value_loss(values.flatten(), returns.flatten())
        weight = self._entropy_coef(share)
        loss = terms["policy_loss"] + config.value_coef * terms["value_loss"]
        rate = config.learning_rate * (1.0 - (1.0 - LEARNING_RATE_END) * share)
        (group,) = optimizer.param_groups
        group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        (loss - weight * terms["entropy"]).backward()
        norm = self._clip_gradients(group["params"])
        optimizer.step()
        numbers = {name: term.item() for name, term in terms.items()}
        return numbers | {
            "grad_norm": norm,
            "learning_rate": rate,
            "entropy_coef": weight,
            "epsilon": policy.epsilon,
        }

    def _clip_gradients(self, weights: list[nn.Parameter]) -> float:
        """Scale gradients that are longer than allowed, which few are: their norm."""
        limit = self.config.max_grad_norm
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        length = norm.item()
        if not math.isfinite(length):
            raise DivergedError(self.algo)
        if length > limit:
            nn.utils.clip_grads_with_norm_(weights, limit, norm)
        return length

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
                rewards, values, ends, bootstrap, trace=self.config.trace
            )
        return returns, (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    def _greedy_returns(self, rollout: Rollout) -> Tensor:
        """Return what the greedy policy earns [T, B] on the rollout's samples."""
        assert self.baseline_envs is not None
        episodes = torch.stack(
            [rollout.indices.double(), rollout.penalties.double()], dim=-1
        ).flatten(0, 1)
        unique, where = torch.unique(episodes, dim=0, return_inverse=True)
        episodes = unique.cpu()
        result = walk(
            self.baseline_envs,
            self.policy,
            indices=episodes[:, 0].long().numpy(),
            penalty=episodes[:, 1].float().numpy(),
        )
        returns = as_tensor(result.returns, rollout.rewards.device)
        return returns.float()[where].view_as(rollout.rewards)


@dataclass
class _Training:
    """What one call of `learn` keeps from update to update."""

    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    taken: int = 0


def _tagged(rollout: Rollout, numbers: dict[str, float]) -> dict[str, float]:
    """Return the metrics of an update under Stable-Baselines3's tags."""
    tagged = {f"train/{name}": value for name, value in numbers.items()}
    tagged["time/fps"] = tagged.pop("train/fps")
    if rollout.terminations.any():
        tagged["rollout/ep_rew_mean"] = rollout.episode_returns.mean().item()
        tagged["rollout/ep_len_mean"] = rollout.episode_lengths.float().mean().item()
    return tagged
