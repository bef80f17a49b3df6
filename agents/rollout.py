"""Rollouts: a policy walks a vector environment, everything stays on its device.

Axes: T rollout steps, B sub-environments, D observation features, A actions.
Needs an environment in SAME_STEP mode, in which top-level infos belong to the new
episode and `final_info` to the step that ended the old one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.base import Infos, NetPolicy, as_numpy, as_tensor
from dynalay_gym.errors import ConfigError


@dataclass(frozen=True)
class Rollout:
    """T steps of B sub-environments, time-major.

    Attributes:
        observations: Float32 [T, B, D], before each step.
        masks: Bool [T, B, A], the actions allowed there.
        actions: Int64 [T, B].
        rewards: Float32 [T, B].
        terminations: Bool [T, B].
        indices: Int64 [T, B], sample of the episode that step t belongs to.
        penalties: Float32 [T, B], penalty of that episode.
        earned: Float32 [T, B], rewards of that episode before step t.
        lengths: Int64 [T, B], decisions of that episode up to and with step t.
    """

    observations: Tensor
    masks: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    indices: Tensor
    penalties: Tensor
    earned: Tensor
    lengths: Tensor

    @property
    def episode_returns(self) -> Tensor:
        """Returns [E] of the episodes that ended within the rollout."""
        return (self.earned + self.rewards)[self.terminations]

    @property
    def episode_lengths(self) -> Tensor:
        """Decisions [E] of the episodes that ended within the rollout."""
        return self.lengths[self.terminations]


@dataclass
class RolloutState:
    """Where the next rollout goes on: what the environments returned last."""

    observations: Tensor
    infos: Infos
    earned: Tensor
    numpy: bool  # the environment speaks numpy, so actions must be converted

    @classmethod
    def begin(cls, envs: VectorEnv, seed: int) -> "RolloutState":
        """Reset all sub-environments with a seed."""
        return cls.of(*envs.reset(seed=seed))

    @classmethod
    def of(cls, observations: Any, infos: Infos) -> "RolloutState":
        """Go on from observations [B, D] of rows that have earned nothing yet."""
        tensor = torch.as_tensor(observations)
        earned = torch.zeros(len(tensor), device=tensor.device)
        numpy = not isinstance(observations, Tensor)
        return cls(observations=tensor, infos=infos, earned=earned, numpy=numpy)


def check_same_step(envs: VectorEnv, user: str) -> None:
    """Raise ConfigError unless the environment resets within the step that ends."""
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ConfigError(
            f"{user} needs an environment that resets in the same step, got {mode}; "
            "pass autoreset_mode='SameStep' to gym.make_vec"
        )


def collect_rollout(
    envs: VectorEnv, policy: NetPolicy, num_steps: int, state: RolloutState
) -> Rollout:
    """Walk `num_steps` steps and leave `state` where the walk stopped.

    Args:
        envs: Environment in SAME_STEP mode; with `output="torch"` nothing leaves its
            device.
        policy: Chooses the actions.
        num_steps: T, at least 1.
        state: From `RolloutState.begin` or from the rollout before; updated in place.
    """
    steps = [_step(envs, policy, state) for _ in range(num_steps)]
    device = state.observations.device
    # Stacked first and converted then: a call costs more than what it works on.
    rows = {name: _stack([s[name] for s in steps], device) for name in steps[0]}
    rows |= {"masks": rows["masks"].bool(), "lengths": rows["lengths"] + 1}
    return Rollout(**rows)


def _step(envs: VectorEnv, policy: NetPolicy, state: RolloutState) -> dict[str, Any]:
    """Take one step, advance the state, and return the step's row of the rollout."""
    device = state.observations.device
    actions = policy.act(state.observations, state.infos)
    observations, rewards, terminations, _, infos = envs.step(
        as_numpy(actions) if state.numpy else actions
    )
    row = {
        "observations": state.observations,
        "masks": state.infos["action_mask"],
        "actions": actions,
        "rewards": as_tensor(rewards, device).float(),
        "terminations": as_tensor(terminations, device),
        "indices": state.infos["index"],
        "penalties": state.infos["penalty"],
        "earned": state.earned,
        "lengths": state.infos["decisions"],
    }
    total = state.earned + row["rewards"]
    state.observations = as_tensor(observations, device)
    state.infos = infos
    state.earned = total.masked_fill_(row["terminations"], 0.0)
    return row


def _stack(parts: list[Any], device: torch.device) -> Tensor:
    """Arrays or tensors of T steps as one tensor [T, ...] on the device."""
    stack: Any = torch.stack if isinstance(parts[0], Tensor) else np.stack
    return as_tensor(stack(parts), device)
