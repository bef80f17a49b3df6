"""An AgentNet learned from the transition table: nothing is sampled but the inputs.

Policy iteration. The network's scores make a soft policy; backward induction over all
nodes of a minibatch of inputs gives the exact value of every choice under it; the
scores are regressed on these values. Inputs that look alike share their scores, so the
regression takes the expectation that a policy of the observation needs.

An environment whose table may change says so after a pass over its inputs; the tree is
then read from it again.

Axes: m inputs of a minibatch, K nodes, A actions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from agents.base import NetAgent, sizes
from agents.exact.config import ExactConfig
from agents.exact.values import action_values, advantage_loss, soft_policy, visits
from dynalay_gym.envs.oracle import decision_tree
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import Infos
from dynalay_gym.utils.finite import MEND_DATA
from dynalay_gym.utils.schedules import geometric

SCALE = 0.05  # return per nat: log-probabilities times this are the scores
MEMORY_LIMIT = 4 * 2**30  # bytes that one update may take


class ExactAgent(NetAgent):
    """Learns an AgentNet from an environment's transition table.

    One timestep is one node of one input. After training the network's probabilities
    are softmax(values / SCALE) up to what the network can express.

    Args:
        envs: Environment with `transitions="table"`; it is read, not stepped. If it
            has `advance` (`CoTrainingEnv`), every pass is counted there, and a changed
            table is read again.
        config: Hyper-parameters.
        seed: Seeds the weights, the order of inputs and the penalties drawn.

    Raises:
        ConfigError: The environment has no transition table, or an update would take
            more memory than `MEMORY_LIMIT`.
    """

    config: ExactConfig

    def __init__(self, envs: VectorEnv, config: ExactConfig, *, seed: int = 0) -> None:
        self._envs = envs
        self._read_table()
        check_memory(self.tree.nodes.num_nodes, sizes(envs), config)
        super().__init__(envs, config, seed)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam over all weights but those of the value network."""
        weights = [*self.net.torso.parameters(), *self.net.policy_head.parameters()]
        return torch.optim.Adam(weights, self.config.learning_rate, fused=True)

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` continue, from the environment's table as it is now.

        See `Resumable`. Nothing is stepped, so neither observations nor infos are used.
        """
        self._read_table()
        self.load_training(tensors, "cpu")

    def _read_table(self) -> None:
        base: Any = self._envs.unwrapped
        self.tree = decision_tree(base)

    def train(self, total_timesteps: int, scheduler: LambdaLR) -> dict[str, float]:
        """Learn from every input once, or until the last timestep."""
        config, first = self.config, self.taken
        ends = config.temperature_start, config.temperature_end
        updates: list[dict[str, Tensor]] = []
        order = torch.randperm(self.tree.num_samples, generator=self.generator)
        for samples in order.split(config.batch_size):
            temperature = geometric(*ends, self.taken / total_timesteps)
            updates.append(self.update(samples, temperature))
            self.taken += len(samples) * self.tree.nodes.num_nodes
            scheduler.step()
            if self.taken >= total_timesteps:
                break
        metrics = {
            name: torch.stack([each[name] for each in updates]).mean().item()
            for name in updates[0]
        }
        self.guard.check_weights()  # before a main network learns from them
        if hasattr(self._envs, "advance") and self._envs.advance(self.taken - first):
            self._read_table()
        rate = float(scheduler.get_last_lr()[0])
        return metrics | {"train/learning_rate": rate, "train/temperature": temperature}

    def update(self, samples: Tensor, temperature: float) -> dict[str, Tensor]:
        """Take one optimiser step on some inputs.

        Args:
            samples: The inputs, int64 [m].
            temperature: Of the soft policy that is evaluated.

        Returns:
            The loss, and return and length of the soft policy's episodes, by tag.

        Raises:
            DivergedError: A number is not finite; no step is taken.
        """
        drawn = torch.rand(len(samples), generator=self.generator)
        nodes, penalty = self.tree.nodes, self.tree.penalties(drawn)
        observations = self.tree.observations(samples, penalty)
        rewards = self.tree.rewards(samples, penalty)
        for name, values in (("observation", observations), ("reward", rewards)):
            self.guard.check(name, values, samples=samples, remedy=MEND_DATA)
        log_probs = self.net(observations.flatten(0, 1)).view_as(rewards)
        scores = SCALE * log_probs
        allowed = self.tree.allowed(samples)
        policy = soft_policy(scores.detach(), allowed, temperature)
        values = action_values(rewards, nodes.children, nodes.levels, policy)
        reached = visits(policy, nodes.children, nodes.levels)
        loss = advantage_loss(scores, values, allowed, reached)
        self.guard.check("loss", loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {
            "train/value_loss": loss.detach(),
            "rollout/ep_rew_mean": (policy[:, 0] * values[:, 0]).sum(-1).mean(),
            "rollout/ep_len_mean": reached.sum(-1).mean(),
        }


def update_bytes(num_nodes: int, shape: tuple[int, int], config: ExactConfig) -> int:
    """Return the memory that one update takes, in bytes.

    Per node of an input, in float32: its observation twice (as it is and centred); what
    the layers put out, with its gradient; and eight more numbers for every action.

    Args:
        num_nodes: Nodes K.
        shape: Features of an observation, and actions.
        config: Batch size and widths of the network.
    """
    num_features, num_actions = shape
    numbers = 2 * num_features + 4 * sum(config.hidden) + 8 * num_actions
    return 4 * config.batch_size * num_nodes * numbers


def check_memory(num_nodes: int, shape: tuple[int, int], config: ExactConfig) -> None:
    """Raise ConfigError if an update would take more than `MEMORY_LIMIT`."""
    needed = update_bytes(num_nodes, shape, config)
    if needed > MEMORY_LIMIT:
        raise ConfigError(
            f"an update of exact learning takes {needed / 2**30:.1f} GiB ({num_nodes} "
            f"nodes of {config.batch_size} inputs), at most {MEMORY_LIMIT / 2**30:.0f} "
            "are allowed; lower --exact.batch-size, or max_decisions"
        )
