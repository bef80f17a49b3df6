"""The exact optimum over everything that can be decided on a sample.

A node is what a policy can tell apart: the network's state, the decisions taken, the
last action and how often in a row it was chosen. The nodes form a tree-like graph that
is the same for all samples; a transition table says what is seen and paid there.

Axes: n samples, m of them chosen, K nodes, A actions, D observation features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.episodes import penalty_at
from dynalay_gym.envs.observation import EpisodeState, shown_penalty
from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.envs.reward import Decision
from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.states import Automaton, useful_actions
from dynalay_gym.sessions.transition_table import (
    CHOICE,
    TransitionTable,
    build_table,
    finite,
)

_BATCH = 1024  # samples whose returns are computed together


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes in the order of their decisions; node 0 is the start.

    Attributes:
        state: The network's state, int64 [K].
        last_action: Last action, int64 [K]; -1 at the start.
        consecutive: How often in a row it was chosen, int64 [K].
        decisions: Decisions taken, int64 [K].
        allowed: Actions that lead to another state, bool [K, A].
        children: Node that an action leads to, int64 [K, A]; -1 where the episode ends
            or the action is not allowed.
    """

    state: Tensor
    last_action: Tensor
    consecutive: Tensor
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


def enumerate_nodes(next_state: Automaton, max_decisions: int) -> Nodes:
    """Follow all allowed actions, level by level, merging nodes with equal keys.

    Args:
        next_state: The network's automaton, int64 [S, A].
        max_decisions: Most decisions of an episode.
    """
    useful = useful_actions(next_state)
    found: list[tuple[int, int, int, int]] = [(0, -1, 0, 0)]
    number = {found[0]: 0}
    children: list[list[int]] = []
    for state, last, consecutive, taken in found:  # grows while it is read
        children.append([-1] * next_state.shape[1])
        for action in range(1, next_state.shape[1]):
            if not useful[state, action] or taken + 1 == max_decisions:
                continue
            count = consecutive + 1 if action == last else 1
            child = (int(next_state[state, action]), action, count, taken + 1)
            if child not in number:
                number[child] = len(found)
                found.append(child)
            children[-1][action] = number[child]
    states, last_actions, consecutives, decisions = torch.tensor(found).unbind(1)
    return Nodes(
        state=states,
        last_action=last_actions,
        consecutive=consecutives,
        decisions=decisions,
        allowed=torch.from_numpy(useful)[states],
        children=torch.tensor(children),
    )


class DecisionTree:
    """What is seen and paid at every node of every sample of a split.

    Attributes:
        nodes: The nodes; the same for all samples.
        num_samples: Samples n of the split.
        penalty_range: Lowest and highest penalty.

    Args:
        problem: What is decided on; its network has finitely many states.
        table: Its transitions.
    """

    def __init__(self, problem: DecisionProblem, table: TransitionTable) -> None:
        session = finite(problem.session, "the exact optimum")
        if problem.recall:
            raise ConfigError(
                "with recall an answer depends on all states that were visited, so the "
                "exact optimum and exact learning cannot be computed; leave recall out"
            )
        self.nodes = enumerate_nodes(session.next_state, problem.max_decisions)
        self.num_samples = len(problem.labels)
        self.penalty_range = problem.penalty_range
        self._problem, self._table = problem, table
        self._num_states = len(session.next_state)
        self._layout = problem.observation_layout
        self._seen_of_episode = self._episode_features()

    def penalties(self, shares: Tensor) -> Tensor:
        """Return penalties as episodes draw them, [m], from shares [m] in [0, 1]."""
        drawn: Tensor = penalty_at(self.penalty_range, shares)
        return drawn

    def observations(self, samples: Tensor, penalty: Tensor) -> Tensor:
        """Return what an agent sees, float32 [m, K, D].

        Args:
            samples: Samples of the split, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        rows, start = self._table_rows(samples), self._layout["penalty"].start
        seen = self._seen_of_episode.repeat(len(samples), 1, 1)
        features = self._table.features[:, :start].index_select(0, rows.flatten())
        seen[:, :, :start] = features.view(*rows.shape, start)
        shown = shown_penalty(penalty, self._problem.penalty_unit)
        seen[:, :, start] = shown[:, None]
        return seen

    def rewards(self, samples: Tensor, penalty: Tensor) -> Tensor:
        """Return what every action is paid, float32 [m, K, A]; 0 where not allowed.

        Args:
            samples: Samples of the split, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        nodes, table, problem = self.nodes, self._table, self._problem
        actions = torch.arange(table.num_actions)
        choice = self._table_rows(samples)[:, :, None] * table.num_actions + actions
        found = dict(zip(CHOICE, table.choices[choice].unbind(-1), strict=True))
        reached = found["table_row"].long()
        last = (nodes.decisions + 1 == problem.max_decisions)[:, None]
        same = actions == nodes.last_action[:, None]
        decision = Decision(
            stop=(last | (actions == 0)).float(),
            correct=found["correct"].float(),
            cost=found["macs"].float() / problem.cost_unit,
            consecutive=(nodes.consecutive[:, None] * same + 1).float(),
            already_iterated=found["already_iterated"].float(),
            iterated=self._iterated_share(reached),
            log_score_gain=found["gain"].int().view(torch.float32),
            penalty=penalty[:, None, None],
        )
        rewards: Tensor = problem.reward(decision)
        return rewards.masked_fill(~nodes.allowed, 0.0)

    def allowed(self, samples: Tensor) -> Tensor:
        """Return which actions can change something, bool [m, K, A].

        It leaves out more than `Nodes.allowed`: a sample's converged layers.

        Args:
            samples: Samples of the split, int64 [m].
        """
        return self._table.useful[self._table_rows(samples)]

    def _table_rows(self, samples: Tensor) -> Tensor:
        """Return rows of the table, int64 [m, K]."""
        return samples[:, None] * self._num_states + self.nodes.state

    def _iterated_share(self, table_rows: Tensor) -> Tensor | float:
        if not self._problem.reward.uses_iterated:
            return 0.0
        return self._table.features[:, self._layout["iterated"]].mean(1)[table_rows]

    def _episode_features(self) -> Tensor:
        """Return the episode's columns of each node's observation, float32 [K, D].

        The network's columns are 0.
        """
        nodes, problem = self.nodes, self._problem
        episode = EpisodeState(
            nodes.num_nodes, problem.num_actions, problem.max_decisions
        )
        episode.last_action = nodes.last_action.numpy()
        episode.consecutive = nodes.consecutive.numpy()
        episode.decisions = nodes.decisions.numpy()
        seen = torch.zeros(
            nodes.num_nodes, self._layout["remaining"].stop, dtype=torch.float32
        )
        start = self._layout["penalty"].start
        seen[:, start:] = torch.from_numpy(episode.features())
        return seen


@dataclass(frozen=True)
class Optimum:
    """The best that can be done on each sample, its label known.

    Attributes:
        returns: Highest sum of rewards, float32 [n].
        plans: Actions that earn it, int64 [n, T]; 0 (NOP) after the last one.
    """

    returns: NDArray[np.float32]
    plans: NDArray[np.int64]


def decision_tree(env: Any) -> DecisionTree:
    """Return all nodes of an environment's split, ready for exact learning.

    Args:
        env: The batched environment (``env.unwrapped`` of a wrapped one).

    Raises:
        ConfigError: The environment has no transition table.
    """
    if env.problem.table is None:
        raise ConfigError(
            'exact learning needs the transition table; pass transitions="table" to '
            "gym.make_vec"
        )
    return DecisionTree(env.problem, env.problem.table)


def optimum(env: Any, penalty: float | None = None) -> Optimum:
    """Find the best sequence of actions of every sample by backward induction.

    Args:
        env: The batched environment (``env.unwrapped`` of a wrapped one). Without a
            transition table one is computed.
        penalty: Weight of compute; the lowest of the environment's if None.

    Returns:
        Optimum of all samples, in their order.

    Raises:
        ConfigError: The network's states are not finite.
    """
    tree, batches = _tree_and_rewards(env, penalty)
    parts = [
        _best(tree.nodes, rewards, tree.allowed(rows)) for rows, rewards in batches
    ]
    returns, plans = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Optimum(returns, plans)


def best_fixed_plan(env: Any, penalty: float | None = None) -> tuple[int, ...]:
    """Return the one sequence of actions that earns most on average; NOP follows.

    Args:
        env: The batched environment; see `optimum`.
        penalty: Weight of compute; the lowest of the environment's if None.
    """
    tree, batches = _tree_and_rewards(env, penalty)
    total = torch.stack([rewards.sum(0).double() for _, rewards in batches]).sum(0)
    mean = (total / tree.num_samples)[None]
    _, plans = _best(tree.nodes, mean, tree.nodes.allowed[None])
    return tuple(action for action in plans[0].tolist() if action)


def _tree_and_rewards(
    env: Any, penalty: float | None
) -> tuple[DecisionTree, Iterator[tuple[Tensor, Tensor]]]:
    """Return the tree, and all samples in turn: int64 [m], and rewards [m, K, A]."""
    problem, table = env.problem, env.problem.table
    if table is None:
        session = finite(problem.session, "the exact optimum")
        table = build_table(session, problem.inputs, problem.labels)
    tree = DecisionTree(problem, table)
    price = problem.penalty_range[0] if penalty is None else penalty
    parts = torch.arange(tree.num_samples).split(_BATCH)
    return tree, (
        (rows, tree.rewards(rows, torch.full((len(rows),), price, dtype=torch.float32)))
        for rows in parts
    )


def _best(nodes: Nodes, rewards: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest return [m] and its actions [m, T].

    Args:
        nodes: The nodes.
        rewards: What every action is paid, [m, K, A].
        allowed: Actions to choose from, bool [m, K, A].
    """
    values = rewards.new_zeros(len(rewards), nodes.num_nodes + 1)  # [-1]: the end
    choice = torch.zeros(len(rewards), nodes.num_nodes, dtype=torch.int64)
    for level in reversed(nodes.levels):
        earned = rewards[:, level] + values[:, nodes.children[level]]
        earned = earned.masked_fill(~allowed[:, level], -torch.inf)
        values[:, level], choice[:, level] = earned.max(-1)
    plan, node = [], torch.zeros(len(rewards), 1, dtype=torch.int64)
    for _ in nodes.levels:
        action = choice.gather(1, node.clamp(min=0)).masked_fill(node < 0, 0)
        plan.append(action)
        node = nodes.children[node.clamp(min=0), action].masked_fill(node < 0, -1)
    return values[:, 0], torch.cat(plan, 1)
