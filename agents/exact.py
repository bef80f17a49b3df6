"""An AgentNet learned from the transition table: nothing is sampled but the inputs.

Policy iteration. The network's scores make a soft policy; backward induction over all
nodes of a minibatch of inputs gives the exact value of every choice under it; the
scores are regressed on these values. Inputs that look alike share their scores, so the
regression takes the expectation that a policy of the observation needs.

An environment whose table may change says so after a pass over its inputs; the tree is
then made anew from it, and learning goes on.

Axes: m inputs of a minibatch, K nodes, A actions.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.base import DivergedError, Infos, NetPolicy, Progress
from agents.config import ExactConfig
from agents.exact_values import action_values, advantage_loss, soft_policy, visits
from agents.net_agent import NetAgent
from dynalay_gym.envs.oracle import decision_tree
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.optimizer_state import flatten, restore, strip_prefix

LEARNING_RATE_END = 0.1  # share of the step size that is left at the end
SCALE = 0.05  # return per nat: log-probabilities times this are the scores


@runtime_checkable
class Phased(Protocol):
    """An environment whose table may change between two passes over its inputs."""

    def advance(self, decisions: int) -> bool:
        """Take note of what was learned from; whether the table is another now.

        Args:
            decisions: Nodes learned from since the last call.
        """
        ...


class ExactAgent(NetAgent):
    """Learns an AgentNet from an environment's transition table.

    One timestep is one node of one input. After training the network's probabilities
    are softmax(values / SCALE) up to what the network can express.

    Args:
        envs: Environment with `transitions="table"`; it is read, not stepped. If it is
            `Phased`, it is told of every pass, and read again when its table changes.
        config: Hyper-parameters.
        seed: Seeds the weights, the order of inputs and the penalties drawn.

    Raises:
        ConfigError: If the environment has no transition table.
    """

    algo = "exact"

    def __init__(self, envs: VectorEnv, config: ExactConfig, *, seed: int = 0) -> None:
        self._envs = envs
        self._read_table()
        self.config = config
        self._training: _Training | None = None
        self._resumed = False  # whether the next `learn` goes on from `_training`
        self._generator = torch.Generator().manual_seed(seed)
        super().__init__(envs, config.hidden, seed)
        self.policy = NetPolicy(self.net, name=self.algo)

    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for `total_timesteps` nodes; see `Agent.learn`."""
        training = self._begin_training()
        resumed, began = training.taken, time.perf_counter()
        while training.taken < total_timesteps:
            before = training.taken
            numbers = self._pass(training, total_timesteps)
            self._advance(training.taken - before)
            if writer is not None:
                fresh = training.taken - resumed
                numbers["time/fps"] = fresh / (time.perf_counter() - began)
                writer.scalars(numbers, training.taken)
            if on_progress is not None:
                on_progress(training.taken)

    def training_state(self) -> dict[str, Tensor]:
        """What the training goes on from; see `Resumable`."""
        training = self._training
        assert training is not None, "learn comes before"
        tensors = {f"net/{key}": value for key, value in self.net.state_dict().items()}
        return (
            tensors
            | flatten(training.optimizer, "optimizer")
            | {
                "generator": self._generator.get_state(),
                "taken": torch.tensor(training.taken),
            }
        )

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` go on, from the environment's table as it is now.

        See `Resumable`. Nothing is stepped, so neither observations nor infos are used.
        """
        self._read_table()
        self.net.load_state_dict(strip_prefix("net/", tensors))
        self._training = training = self._fresh_training()
        restore(training.optimizer, tensors, "optimizer")
        self._generator.set_state(tensors["generator"].cpu())
        training.taken, self._resumed = int(tensors["taken"]), True

    def _begin_training(self) -> "_Training":
        """Fresh moments, or those that were loaded."""
        if not self._resumed or self._training is None:
            self._training = self._fresh_training()
        self._resumed = False
        return self._training

    def _fresh_training(self) -> "_Training":
        weights = [*self.net.torso.parameters(), *self.net.policy_head.parameters()]
        return _Training(optimizer=torch.optim.Adam(weights, fused=True))

    def _read_table(self) -> None:
        base: Any = self._envs.unwrapped
        self.tree = decision_tree(base)

    def _advance(self, nodes: int) -> None:
        """Tell the environment of a pass; read its table again if that changed it."""
        if isinstance(self._envs, Phased) and self._envs.advance(nodes):
            self._read_table()

    def _pass(self, training: "_Training", total: int) -> dict[str, float]:
        """Learn from every input once, or until `total` nodes: what it saw, by tag."""
        seen: list[dict[str, Tensor]] = []
        for samples in self._minibatches():
            share = min(training.taken / total, 1.0)
            seen.append(self._update(samples, training.optimizer, share))
            training.taken += len(samples) * self.tree.nodes.num_nodes
            if training.taken >= total:
                break
        numbers = _means(seen)
        if not math.isfinite(numbers["train/value_loss"]):
            raise DivergedError(self.algo)
        numbers["train/learning_rate"] = self._learning_rate(share)
        numbers["train/temperature"] = self._temperature(share)
        return numbers

    def _minibatches(self) -> Sequence[Tensor]:
        order = torch.randperm(self.tree.num_samples, generator=self._generator)
        parts: Sequence[Tensor] = order.split(self.config.batch_size)
        return parts

    def _update(
        self, samples: Tensor, optimizer: torch.optim.Optimizer, share: float
    ) -> dict[str, Tensor]:
        """Take one optimiser step on some inputs and return what it saw."""
        nodes, penalty = self.tree.nodes, self._draw_penalties(len(samples))
        observations = self.tree.observations(samples, penalty)
        rewards = self.tree.rewards(samples, penalty)
        log_probs = self.net(observations.flatten(0, 1)).view_as(rewards)
        scores = SCALE * log_probs
        policy = soft_policy(scores.detach(), nodes.allowed, self._temperature(share))
        values = action_values(rewards, nodes.children, nodes.levels, policy)
        reached = visits(policy, nodes.children, nodes.levels)
        loss = advantage_loss(scores, values, nodes.allowed, reached)
        for group in optimizer.param_groups:
            group["lr"] = self._learning_rate(share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {
            "train/value_loss": loss.detach(),
            "rollout/ep_rew_mean": (policy[:, 0] * values[:, 0]).sum(-1).mean(),
            "rollout/ep_len_mean": reached.sum(-1).mean(),
        }

    def _draw_penalties(self, num: int) -> Tensor:
        """Return one penalty per input [num], from the environment's range."""
        low, high = self.tree.penalty_range
        drawn = torch.rand(num, generator=self._generator)
        return low + (high - low) * drawn

    def _learning_rate(self, share: float) -> float:
        """Fall linearly."""
        rate: float = self.config.learning_rate
        return rate * (1.0 - (1.0 - LEARNING_RATE_END) * share)

    def _temperature(self, share: float) -> float:
        """Fall geometrically."""
        start, end = self.config.temperature_start, self.config.temperature_end
        return float(start ** (1.0 - share) * end**share)


@dataclass
class _Training:
    """What one call of `learn` keeps from pass to pass."""

    optimizer: torch.optim.Optimizer
    taken: int = 0


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """Return the mean of every number over some updates."""
    return {
        name: torch.stack([row[name] for row in rows]).mean().item() for name in rows[0]
    }
