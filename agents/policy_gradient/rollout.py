"""Rollouts: a stochastic policy steps an environment, all on the environment's device.

Axes: T rollout steps, B sub-environments, D observation features, A actions.
The environment is in SAME_STEP mode: top-level infos belong to the new episode,
`final_info` to the step that ended the old one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import Infos


class SamplingPolicy:
    """Draws actions from an AgentNet's probabilities, a share of them uniformly.

    Args:
        net: The network; shared, so that training it changes the policy.
        generator: Source of the draws, on the network's device.

    Attributes:
        epsilon: Share of uniform exploration, in [0, 1].
    """

    def __init__(self, net: AgentNet, generator: torch.Generator | None = None) -> None:
        self.net, self.generator, self.epsilon = net, generator, 0.0

    def log_probs(self, observations: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities that actions are drawn from, float32 [N, A].

        Args:
            observations: Float32 [N, D].
            mask: Bool or int8 [N, A], not 0 where an action is allowed; at least one
                per row.
        """
        return mix_epsilon(self.net(observations), mask, self.epsilon)

    def act(self, observations: Tensor, mask: Tensor) -> Tensor:
        """Draw one action per row, int64 [N]; see `log_probs`."""
        with torch.inference_mode():
            log_probs = self.log_probs(observations, mask)
        # Outside of inference mode, because a loss reads the actions.
        return sample(log_probs, self.generator)


def mix_epsilon(log_probs: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Mask log-probabilities [N, A] and mix in a uniform share `epsilon`.

    p = (1 - epsilon) * masked p + epsilon / (number of allowed actions): epsilon-greedy
    exploration, applied to a stochastic policy. Masked actions have probability 0.
    """
    forbidden = mask.logical_not()
    masked = log_probs.masked_fill(forbidden, -torch.inf)
    if epsilon == 0.0:
        return masked.log_softmax(dim=-1)
    allowed = mask.float()
    uniform = allowed / allowed.sum(dim=-1, keepdim=True)
    mixed = masked.softmax(dim=-1).lerp(uniform, epsilon)
    if not mixed.requires_grad:
        return mixed.log()
    # log(0) would turn the gradient of the masked entries into 0 / 0.
    return mixed.masked_fill(forbidden, 1.0).log().masked_fill(forbidden, -torch.inf)


def sample(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one index per row [N] from log-probabilities [N, A].

    The first of exponential clocks that tick at the rates p: what torch.multinomial
    does, without its checks, which take longer than the draw.
    """
    clocks = torch.empty_like(log_probs).exponential_(generator=generator)
    return (log_probs - clocks.log_()).argmax(dim=-1)


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
    """What the next rollout starts from: what the environment returned last.

    Attributes:
        observations: Float32 [B, D].
        infos: The infos that came with them.
        earned: Rewards of each row's episode so far, float32 [B].
        numpy: Whether the environment takes NumPy actions.
    """

    observations: Tensor
    infos: Infos
    earned: Tensor
    numpy: bool

    @classmethod
    def of(cls, observations: Any, infos: Infos) -> "RolloutState":
        """Return the state of rows [B, D] that have earned nothing yet."""
        tensor = torch.as_tensor(observations)
        earned = torch.zeros(len(tensor), device=tensor.device)
        numpy = not isinstance(observations, Tensor)
        return cls(observations=tensor, infos=infos, earned=earned, numpy=numpy)


def collect_rollout(
    envs: VectorEnv, policy: SamplingPolicy, num_steps: int, state: RolloutState
) -> Rollout:
    """Take `num_steps` steps in every row.

    Args:
        envs: Environment in SAME_STEP mode; with `output="torch"` nothing leaves its
            device.
        policy: Chooses the actions.
        num_steps: T, at least 1.
        state: From `RolloutState.of` or from the rollout before; updated in place.
    """
    steps = [_step(envs, policy, state) for _ in range(num_steps)]
    device = state.observations.device
    # Stacked first and converted then: a call costs more than what it works on.
    rows = {name: _stack([s[name] for s in steps], device) for name in steps[0]}
    rows |= {"masks": rows["masks"].bool(), "lengths": rows["lengths"] + 1}
    return Rollout(**rows)


def _step(
    envs: VectorEnv, policy: SamplingPolicy, state: RolloutState
) -> dict[str, Any]:
    """Take one step, advance the state, and return the step's row of the rollout."""
    device = state.observations.device
    mask = torch.as_tensor(state.infos["action_mask"], device=device)
    actions = policy.act(state.observations, mask)
    observations, rewards, terminations, _, infos = envs.step(
        actions.numpy(force=True) if state.numpy else actions
    )
    row = {
        "observations": state.observations,
        "masks": mask,
        "actions": actions,
        "rewards": torch.as_tensor(rewards, device=device).float(),
        "terminations": torch.as_tensor(terminations, device=device),
        "indices": state.infos["index"],
        "penalties": state.infos["penalty"],
        "earned": state.earned,
        "lengths": state.infos["decisions"],
    }
    total = state.earned + row["rewards"]
    state.observations = torch.as_tensor(observations, device=device)
    state.infos = infos
    state.earned = total.masked_fill_(row["terminations"], 0.0)
    return row


def _stack(parts: list[Any], device: torch.device) -> Tensor:
    """Return arrays or tensors of T steps as one tensor [T, ...] on the device."""
    stack: Any = torch.stack if isinstance(parts[0], Tensor) else np.stack
    return torch.as_tensor(stack(parts), device=device)
