"""All that can be decided on a sample: the tree of nodes, from the transition table.

A node is what a policy can tell apart: the network's state, the decisions taken and the
last action. Choosing the same layer twice in a row is pointless and masked, so an
allowed choice is always the first of its kind in a row.

Axes: m samples, K nodes, S = 2^L states, A = L + 1 actions, D observation features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynalay_gym.envs.dynamics import DecisionProblem
from dynalay_gym.envs.observation import ActivationObserver, EpisodeState, squash
from dynalay_gym.envs.reward import Decision
from dynalay_gym.envs.transition_table import CHOICE, TransitionTable
from dynalay_gym.envs.walk import NOP, facts_of_states


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes in the order of their decisions; node 0 is the start.

    Attributes:
        state: Which layers sit on their fixed points, int64 [K].
        last_action: Last action, int64 [K]; -1 at the start.
        decisions: Decisions taken, int64 [K].
        allowed: Actions that can change something, bool [K, A].
        children: Node that an action leads to, int64 [K, A]; -1 where the episode ends
            or the action is not allowed.
    """

    state: Tensor
    last_action: Tensor
    decisions: Tensor
    allowed: Tensor
    children: Tensor

    @property
    def num_nodes(self) -> int:
        """Nodes K."""
        return len(self.state)

    @property
    def levels(self) -> list[slice]:
        """Nodes of 0, 1, ... decisions; each level is a range of them."""
        ends = torch.bincount(self.decisions).cumsum(0).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def enumerate_nodes(num_layers: int, max_decisions: int) -> Nodes:
    """Walk through all allowed choices, level by level; equal nodes are one."""
    mask, _ = facts_of_states(num_layers)
    found: list[tuple[int, int, int]] = [(0, -1, 0)]  # state, last action, decisions
    number = {found[0]: 0}
    children: list[list[int]] = []
    for state, _, taken in found:  # grows while it is walked
        children.append([-1] * (num_layers + 1))
        for layer in range(1, num_layers + 1):
            if not mask[state, layer] or taken + 1 == max_decisions:
                continue
            child = (reached_state(state, layer), layer, taken + 1)
            if child not in number:
                number[child] = len(found)
                found.append(child)
            children[-1][layer] = number[child]
    states_of, last_actions, decisions = torch.tensor(found).unbind(1)
    return Nodes(
        state=states_of,
        last_action=last_actions,
        decisions=decisions,
        allowed=mask[states_of],
        children=torch.tensor(children),
    )


def reached_state(state: int, layer: int) -> int:
    """State after a choice: bit ``layer - 1`` is set, those above it are cleared."""
    bit = 1 << (layer - 1)
    return state & (bit - 1) | bit


class DecisionTree:
    """What is seen and paid at every node of every sample of a split.

    Attributes:
        nodes: The nodes; the same for all samples.
        num_samples: Samples of the split.
        penalty_range: Lowest and highest penalty.

    Args:
        problem: What is decided on.
        table: Its transitions.
    """

    def __init__(self, problem: DecisionProblem, table: TransitionTable) -> None:
        self.nodes = enumerate_nodes(table.num_actions - 1, problem.max_decisions)
        self.num_samples = len(problem.labels)
        self.penalty_range = problem.penalty_range
        self._problem, self._table = problem, table
        self._seen_of_episode = self._episode_parts()
        _, self._shares = facts_of_states(table.num_actions - 1)

    def observations(self, samples: Tensor, penalty: Tensor) -> Tensor:
        """What an agent sees, float32 [m, K, D].

        Args:
            samples: Samples of the split, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        places = self._places(samples).flatten()
        seen = self._table.observations.index_select(0, places)
        seen = seen.view(len(samples), self.nodes.num_nodes, -1)
        width = self._seen_of_episode.shape[1]
        seen[:, :, -width - 1] = squash(penalty)[:, None]
        seen[:, :, -width:] = self._seen_of_episode
        return seen

    def rewards(self, samples: Tensor, penalty: Tensor) -> Tensor:
        """What every choice is paid, float32 [m, K, A]; 0 where it is not allowed.

        Args:
            samples: Samples of the split, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        nodes, table = self.nodes, self._table
        num_actions = table.num_actions
        places = self._places(samples)[:, :, None]
        choices = places * num_actions + torch.arange(num_actions)
        found = table.choices[choices]
        macs, reached, again = (
            found[..., CHOICE.index(name)].long() for name in ("macs", "place", "again")
        )
        last = (nodes.decisions + 1 == self._problem.max_decisions)[:, None]
        stop = last | (torch.arange(num_actions) == NOP)
        decision = Decision(
            stop=stop.expand_as(reached),
            correct=table.correct[reached],
            cost=macs / self._problem.cost_unit,
            consecutive=torch.ones_like(reached),
            again=again != 0,
            iterated=self._shares[reached % table.num_states],
            log_score_gain=table.log_score[reached] - table.log_score[places],
            penalty=penalty[:, None, None].expand_as(reached),
        )
        rewards: Tensor = self._problem.reward(decision).float()
        return rewards.masked_fill(~nodes.allowed, 0.0)

    def _places(self, samples: Tensor) -> Tensor:
        """Places in the table, int64 [m, K]."""
        return samples[:, None] * self._table.num_states + self.nodes.state

    def _episode_parts(self) -> Tensor:
        """What is seen of the episode beside the penalty, float32 [K, A + 2]."""
        nodes, problem = self.nodes, self._problem
        episode = EpisodeState(
            index=nodes.state,
            penalty=torch.zeros(nodes.num_nodes),
            last_action=nodes.last_action,
            consecutive=(nodes.decisions > 0).long(),
            decisions=nodes.decisions,
        )
        sizes = problem.session.feature_sizes
        observer = ActivationObserver(sizes, problem.max_decisions)
        return torch.cat(observer.episode_parts(episode)[1:], 1)
