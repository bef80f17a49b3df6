"""The environment logic without Gymnasium, for n rows.

`DynaLayVectorEnv` wraps it, and `DynaLayEnv` is one row of that.

Axes: n rows, m of them chosen, A actions, F network features, D = F + A + 3.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.observation import (
    ALL,
    EpisodeState,
    Integers,
    Rows,
    observation_layout,
)
from dynalay_gym.envs.reward import Decision, LayerReward
from dynalay_gym.sessions.protocol import NetworkSession, begin_macs
from dynalay_gym.sessions.transition_table import TransitionTable, finite, true_log_prob


@dataclass(frozen=True, kw_only=True)
class DecisionProblem:
    """Everything that defines the decision process except the number of rows.

    Attributes:
        session: The network.
        inputs: Samples [N, ...] on the session's device.
        labels: Their classes, int64 [N], there too.
        reward: Pays for each decision.
        max_decisions: After so many decisions the answer is given anyway.
        penalty_range: Lowest and highest penalty of an episode.
        cost_unit: Multiply-adds that count as cost 1: mean extra ones of *always*.
        alpha: Weight of a right answer.
        split: Name of the split.
        table: Precomputed transitions, used instead of running the network; None if
            live.
        difficulty: How hard each sample is, int64 [N]; None if nobody knows.
        penalty_unit: Penalty that observations show as 1/2.
        recall: Whether the answer is that of the most confident state visited.
    """

    session: NetworkSession
    inputs: Tensor
    labels: Tensor
    reward: LayerReward
    max_decisions: int
    penalty_range: tuple[float, float]
    cost_unit: float
    alpha: float
    split: str
    table: TransitionTable | None = None
    difficulty: Tensor | None = None
    penalty_unit: float = 1.0
    recall: bool = False

    @property
    def num_actions(self) -> int:
        """Actions A."""
        return len(self.session.action_names)

    @property
    def observation_layout(self) -> dict[str, slice]:
        """Where each part of a flat observation lies."""
        return observation_layout(self.session.feature_layout, self.num_actions)


# What `Process.infos` tells of each row; the last one only if the split knows it.
INFO_KEYS = (
    "index",
    "penalty",
    "macs",
    "solver_steps",
    "solver_status",
    "correct",
    "prediction",
    "decisions",
    "action_mask",
    "difficulty",
)


class Outcome(NamedTuple):
    """What an action in each of m rows took and changed.

    Attributes:
        macs: Multiply-adds, int64 [m].
        solver_steps: Iterations, int64 [m].
        status: Worst `SolverStatus`, int64 [m].
        already_iterated: Whether its work was done already, bool [m].
        log_score_gain: Change of the true class's log-probability, float32 [m].
    """

    macs: Integers
    solver_steps: Integers
    status: Integers
    already_iterated: NDArray[Any]
    log_score_gain: NDArray[np.float32]


class Process(ABC):
    """n rows that are decided on, one episode each.

    Rows are distinct numbers, int64 [m], or ALL (a slice). Observations are tensors,
    everything else is NumPy in main memory.

    Attributes:
        problem: What is decided on.
        episode: Where each row stands in its episode.
        prediction: Current answer, int64 [n].
        correct: Whether it is right, int8 [n].
        action_mask: Actions that can change something, int8 [n, A].
        has_reset: Whether all rows have started an episode.

    Args:
        problem: What is decided on.
        num_rows: Rows n.
    """

    def __init__(self, problem: DecisionProblem, num_rows: int) -> None:
        self.problem, self.num_rows = problem, num_rows
        num_actions = problem.num_actions
        self.episode = EpisodeState(
            num_rows, num_actions, problem.max_decisions, problem.penalty_unit
        )
        self.prediction = np.zeros(num_rows, dtype=np.int64)
        self.correct = np.zeros(num_rows, dtype=np.int8)
        self.action_mask = np.zeros((num_rows, num_actions), dtype=np.int8)
        self.has_reset = False
        self._labels = problem.labels.cpu().numpy()
        self._plain_macs = begin_macs(problem.session, problem.inputs)
        layout = problem.observation_layout
        known = problem.difficulty
        self._difficulty = None if known is None else known.cpu().numpy()
        self._num_features = layout["penalty"].start
        self._width = layout["remaining"].stop
        if problem.reward.uses_iterated:
            self._iterated = layout["iterated"]

    def begin(self, rows: Rows, index: Integers, penalty: NDArray[np.float32]) -> None:
        """Start an episode in some rows: the plain pass over their samples.

        Args:
            rows: Rows to start, all of them the first time.
            index: Their samples, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        self.episode.begin(rows, index, penalty, self._plain_macs[index])
        self._begin(rows, index)
        self._recall(rows)
        self.has_reset = True

    def step(
        self, rows: Rows, actions: Integers
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Take one decision in each of some rows; only these run anything.

        Args:
            rows: The rows.
            actions: Their actions, int64 [m] in 0..A-1.

        Returns:
            Rewards, float32 [m], and whether the episode ended, bool [m].
        """
        outcome = self._apply(rows, actions)
        self._recall(rows)
        iterated = np.zeros(1, dtype=np.float32)
        if self.problem.reward.uses_iterated:
            iterated = self._iterated_share(rows)
        stop = self.episode.advance(rows, actions, *outcome[:3])
        decision = Decision(
            stop=stop.astype(np.float32),
            correct=self.correct[rows].astype(np.float32),
            cost=outcome.macs.astype(np.float32) / np.float32(self.problem.cost_unit),
            consecutive=self.episode.consecutive[rows].astype(np.float32),
            already_iterated=outcome.already_iterated.astype(np.float32),
            iterated=iterated,
            log_score_gain=outcome.log_score_gain,
            penalty=self.episode.penalty[rows],
        )
        with np.errstate(all="ignore"):  # a penalty may be of any size
            return self.problem.reward(decision), stop

    def observe(self, rows: Rows = ALL) -> Tensor:
        """Return observations of some rows, float32 [m, D], in new memory."""
        seen = self._features(rows)
        columns = seen[:, self._num_features :]
        if seen.is_cpu:
            self.episode.features(rows, out=columns.numpy())
        else:
            columns.copy_(torch.from_numpy(self.episode.features(rows)))
        return seen

    def infos(self) -> dict[str, NDArray[Any]]:
        """Return what is known of all rows' last step, [n] each (the mask [n, A])."""
        episode = self.episode
        parts: list[NDArray[Any]] = [episode.index, episode.penalty, episode.macs]
        parts += [episode.solver_steps, episode.status, self.correct]
        parts += [self.prediction, episode.decisions, self.action_mask]
        if self._difficulty is not None:
            parts.append(self._difficulty[episode.index])
        return dict(zip(INFO_KEYS, [part.copy() for part in parts], strict=False))

    def _recall(self, rows: Rows) -> None:
        """Answer with the most confident state that rows have visited, if asked for."""
        if not self.problem.recall:
            return
        episode = self.episode
        column = self.problem.observation_layout["max_prob"].start
        sure = self._features(rows)[:, column].numpy(force=True)
        is_best = sure > episode.best_prob[rows]
        best = np.where(is_best, self.prediction[rows], episode.best_answer[rows])
        episode.best_prob[rows] = np.where(is_best, sure, episode.best_prob[rows])
        episode.best_answer[rows] = self.prediction[rows] = best
        self.correct[rows] = best == self._labels[episode.index[rows]]

    def _iterated_share(self, rows: Rows) -> NDArray[np.float32]:
        """Return the mean of the feature ``iterated``, [m]."""
        seen = self._features(rows)[:, self._iterated]
        share: NDArray[np.float32] = seen.mean(1).cpu().numpy()
        return share

    @abstractmethod
    def _begin(self, rows: Rows, index: Integers) -> None:
        """Run the plain pass of rows over their samples, int64 [m]."""

    @abstractmethod
    def _apply(self, rows: Rows, actions: Integers) -> Outcome:
        """Carry actions out; update `prediction`, `correct` and `action_mask`."""

    @abstractmethod
    def _features(self, rows: Rows) -> Tensor:
        """Return new memory, float32 [m, D], with the first F columns filled in."""

    @abstractmethod
    def state_ids(self) -> Integers:
        """Return the network's state in every row, int64 [n]; see `FiniteStates`."""

    @abstractmethod
    def set_states(self, state_ids: Integers) -> None:
        """Bring every row's sample to a state; episodes stay where they are.

        Args:
            state_ids: States, int64 [n].
        """

    @abstractmethod
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights; rows stay in the same states."""


class LiveProcess(Process):
    """Rows whose network runs.

    Args:
        problem: What is decided on.
        num_rows: Rows n.
    """

    def __init__(self, problem: DecisionProblem, num_rows: int) -> None:
        super().__init__(problem, num_rows)
        self.session, self.device = problem.session, problem.session.device
        self.state: Any = None
        self._rows = np.arange(num_rows)
        self._seen = torch.zeros(num_rows, self._num_features, device=self.device)
        self._log_score = np.zeros(num_rows, dtype=np.float32)

    def _begin(self, rows: Rows, index: Integers) -> None:
        inputs = self.problem.inputs.index_select(0, self._tensor(index))
        if self.state is None:
            assert len(index) == self.num_rows, "the first reset starts all rows"
            self.state = self.session.begin(inputs)
        else:
            self.session.restart(self.state, self._tensor(self._rows[rows]), inputs)
        self._look(self._rows[rows])

    def _apply(self, rows: Rows, actions: Integers) -> Outcome:
        numbers = self._rows[rows]
        before = self._log_score[numbers]
        cost = self.session.apply(
            self.state, self._tensor(numbers), self._tensor(actions)
        )
        moved = numbers[actions > 0]
        if len(moved) > 0:
            self._look(moved)
        return Outcome(
            cost.macs.cpu().numpy(),
            cost.solver_steps.cpu().numpy(),
            cost.status.cpu().numpy(),
            cost.already_iterated.cpu().numpy(),
            self._log_score[numbers] - before,
        )

    def _look(self, rows: Integers) -> None:
        """Read features and answers of rows whose network has changed."""
        where, index = self._tensor(rows), self.episode.index[rows]
        self._seen.index_copy_(0, where, self.session.features(self.state, where))
        logits = self.session.logits(self.state, where)
        answers = logits.argmax(1).cpu().numpy()
        self.prediction[rows] = answers
        self.correct[rows] = answers == self._labels[index]
        useful = self.session.useful_actions(self.state, where)
        self.action_mask[rows] = useful.cpu().numpy()
        if self.problem.reward.uses_log_score:
            labels = self.problem.labels[self._tensor(index)]
            self._log_score[rows] = true_log_prob(logits, labels).cpu().numpy()

    def _features(self, rows: Rows) -> Tensor:
        known = self._seen
        if not isinstance(rows, slice):
            known = known.index_select(0, self._tensor(rows))
        seen = known.new_empty(len(known), self._width)
        seen[:, : self._num_features] = known
        return seen

    def state_ids(self) -> Integers:
        """Return the network's state in every row, int64 [n]."""
        session = finite(self.session, "reading the states of rows")
        state_ids: Integers = session.state_ids(self.state).cpu().numpy()
        return state_ids

    def set_states(self, state_ids: Integers) -> None:
        """Bring every row's sample to a state; see `Process.set_states`."""
        session = finite(self.session, "bringing rows to a state")
        index = self._tensor(self.episode.index)
        self.state = session.begin(self.problem.inputs.index_select(0, index))
        rows = self._tensor(self._rows)
        session.reach(self.state, rows, self._tensor(state_ids))
        self._look(self._rows)
        self._recall(ALL)
        self.has_reset = True

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights, as if an episode had begun with them."""
        state_ids = self.state_ids() if self.has_reset else None
        self.session.load_weights(weights)
        if state_ids is not None:
            self.set_states(state_ids)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
