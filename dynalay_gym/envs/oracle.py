"""The exact optimum: every plan of every sample, by enumeration.

Choosing a layer clears what was iterated above it, and a layer on its fixed point stays
there, so every reachable answer is reached most cheaply by choosing its layers once,
bottom up. The best of these 2^L plans is the best of all policies, the label known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.envs.decision_tree import DecisionTree
from dynalay_gym.envs.dynamics import DecisionProblem
from dynalay_gym.envs.reward import Decision
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.calibration import StateTable, ascending_plan, state_table


@dataclass(frozen=True)
class PlanTable:
    """What every plan earns on every sample of a split.

    Attributes:
        plans: Layers of each plan, bottom up; NOP follows. Plan 0 is NOP alone, the
            last is *always*, plan ``1 << (k - 1)`` is *layer-k*.
        returns: Sum of rewards, float32 [n, 2^L]; -inf if it takes too many decisions.
        macs: MACs over the plain pass, int64 [n, 2^L].
        correct: Whether the answer is right, bool [n, 2^L].
    """

    plans: tuple[tuple[int, ...], ...]
    returns: NDArray[np.float32]
    macs: NDArray[np.int64]
    correct: NDArray[np.bool_]

    def best(self) -> NDArray[np.int64]:
        """Best plan of each sample, the label known, int64 [n]."""
        best: NDArray[np.int64] = self.returns.argmax(1)
        return best


def plan_table(env: DynaLayVectorEnv, penalty: float | None = None) -> PlanTable:
    """Enumerate all plans over an environment's split.

    Args:
        env: The batched environment (``env.unwrapped`` of a wrapped one).
        penalty: Weight of compute; the lowest of the environment's if None.

    Returns:
        PlanTable of all samples, in their order.
    """
    problem = env.problem
    penalty = problem.penalty_range[0] if penalty is None else penalty
    table = _states(problem)
    plans = tuple(ascending_plan(path) for path in range(table.macs.shape[1]))
    returns = [_plan_returns(problem, table, plan, penalty) for plan in plans]
    return PlanTable(
        plans=plans,
        returns=torch.stack(returns, 1).numpy(),
        macs=table.macs.numpy(),
        correct=table.correct.numpy(),
    )


def decision_tree(env: DynaLayVectorEnv) -> DecisionTree:
    """All nodes of an environment's split, ready for exact learning.

    Args:
        env: The batched environment (``env.unwrapped`` of a wrapped one).

    Raises:
        ConfigError: the environment has no transition table.
    """
    problem = env.problem
    if problem.table is None:
        raise ConfigError(
            'exact learning needs the transition table; pass transitions="table" to '
            "gym.make_vec"
        )
    return DecisionTree(problem, problem.table)


def _states(problem: DecisionProblem) -> StateTable:
    if problem.table is not None:
        return problem.table.states()
    images, labels = problem.inputs, problem.labels
    split = Split(inputs=images, labels=labels, groups=labels, name=problem.split)
    return state_table(problem.session, split)


def _plan_returns(
    problem: DecisionProblem, table: StateTable, plan: tuple[int, ...], penalty: float
) -> Tensor:
    """Sum of an env's rewards along a plan, float32 [n]."""
    limit = problem.max_decisions
    if len(plan) > limit:
        return torch.full((len(table.macs),), -torch.inf)
    total, path = torch.zeros(len(table.macs)), 0
    decisions = [*plan, None][:limit]  # None: NOP, unless the budget ends it before
    for taken, layer in enumerate(decisions, start=1):
        reached = path if layer is None else path | 1 << (layer - 1)
        stop = layer is None or taken == limit
        total += problem.reward(_decision(problem, table, path, reached, stop, penalty))
        path = reached
    return total


def _decision(
    problem: DecisionProblem,
    table: StateTable,
    path: int,
    reached: int,
    stop: bool,
    penalty: float,
) -> Decision:
    n = len(table.macs)
    macs = table.macs[:, reached] - table.macs[:, path]
    return Decision(
        stop=torch.full((n,), stop),
        correct=table.correct[:, reached],
        cost=macs / problem.cost_unit,
        consecutive=torch.ones(n, dtype=torch.int64),
        again=torch.zeros(n, dtype=torch.bool),
        iterated=torch.full((n,), reached.bit_count() / problem.session.num_layers),
        log_score_gain=table.log_score[:, reached] - table.log_score[:, path],
        penalty=torch.full((n,), penalty),
    )
