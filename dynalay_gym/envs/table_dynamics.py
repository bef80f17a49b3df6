"""The decision process over a table: no network runs, every number is looked up.

What is looked up is so little that calls weigh more than bytes, and NumPy's calls are
the lightest: the rows live in main memory, seen by both libraries.
Axes: n rows, m of them acted on, A actions, D observation features.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.dynamics import Array, DecisionProblem, LayerDynamics
from dynalay_gym.envs.observation import EpisodeState, squash
from dynalay_gym.envs.reward import Decision
from dynalay_gym.envs.transition_table import CHOICE, TransitionTable, build_table
from dynalay_gym.envs.walk import NOP
from dynalay_gym.sessions.activations import ALL, Rows

Where = NDArray[np.int64] | slice  # distinct rows [m], or ``ALL``

# Rows of the block of integers: what ``LayerWalk`` counts, then what is seen at the
# place. From ``_TAKEN`` on they are a choice's first columns, written in one operation.
_TAKEN, _NUM_COUNTS, _NUM_INTEGERS = 4, 7, 10
_NUM_WRITTEN = _NUM_INTEGERS - _TAKEN
_TOLD = (0, 3, 4, 5, 6, 8, 9)  # rows that infos tell
_MACS, _CORRECT, _AGAIN, _GAIN = map(CHOICE.index, ("macs", "correct", "again", "gain"))


class TableDynamics(LayerDynamics):
    """Rows that stand at places of a transition table, in main memory.

    Args:
        problem: What is decided on.
        table: Its transitions.
        num_rows: Number of rows n.
    """

    def __init__(
        self, problem: DecisionProblem, table: TransitionTable, num_rows: int
    ) -> None:
        # The base class counts in the upper part of it.
        self._block = torch.zeros(_NUM_INTEGERS, num_rows, dtype=torch.int64)
        super().__init__(problem, num_rows, torch.device("cpu"))
        self._read(table)
        self._last_state = table.num_states - 1  # S is a power of two
        self._masks = self._useful.numpy().view(np.int8)
        self._shares = self._share.numpy()
        self._fresh_array = self._fresh.numpy()
        self._penalty_seen = np.zeros(num_rows, dtype=np.float32)
        self._seen = np.zeros((num_rows, self.observer.size), dtype=np.float32)
        self._recent, self._remaining = self._look_ahead()

    def _name_counts(self) -> None:
        self._counts = self._block[:_NUM_COUNTS]
        super()._name_counts()
        self._integers = self._block.numpy()
        self._place, self._prediction, self._correct = self._integers[_NUM_COUNTS:]
        names = [field.name for field in fields(EpisodeState)]
        arrays: dict[str, Any] = {n: getattr(self.episode, n).numpy() for n in names}
        self._rows: Any = EpisodeState(**arrays)

    def begin(
        self,
        rows: NDArray[np.int64],
        index: NDArray[np.int64],
        penalty: NDArray[np.float32],
    ) -> None:
        """Start episodes; see ``LayerDynamics``."""
        place = index * len(self._shares)
        stay = self._table["choices"].take(place * self.num_actions, 0, mode="clip")
        start = np.empty((_NUM_INTEGERS, len(rows)), dtype=np.int64)
        start[_TAKEN:] = stay.T[:_NUM_WRITTEN]
        start[: _TAKEN + 1], start[0] = self._fresh_array[: _TAKEN + 1], index
        for kept, new in zip(self._integers, start, strict=True):
            kept[rows] = new  # faster than all at once
        if (self._rows.penalty[rows] != penalty).any():
            self._rows.penalty[rows] = penalty
            self._penalty_seen[rows] = squash(torch.from_numpy(penalty)).numpy()
        self._look(rows)
        self.begun = True

    def step(self, rows: Rows, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take one decision in each of the given rows; see ``LayerDynamics``."""
        assert self.begun, "begin comes before step"
        here, chosen = _numpy_rows(rows), actions.numpy()
        choices = self._place[here] * self.num_actions + chosen
        found = self._table["choices"].take(choices, 0, mode="clip").T
        self._integers[_TAKEN:, here] = found[:_NUM_WRITTEN]
        self._rows.advance(here, chosen)
        self._look(here)
        stop = self._rows.decisions[here] >= self.observer.max_decisions
        stop |= chosen == NOP
        with np.errstate(over="ignore", invalid="ignore"):  # as tensors do
            rewards = self.problem.reward(self._decision(here, stop, found))
        return torch.from_numpy(rewards), torch.from_numpy(stop)

    def observe(self) -> NDArray[np.float32]:
        """Observations of all rows, float32 [n, D]."""
        return self._seen.copy()

    def prediction(self) -> Tensor:
        """Current answer of all rows, int64 [n]."""
        return torch.from_numpy(self._prediction.copy())

    def correct(self) -> Tensor:
        """Whether the current answer is right, bool [n]."""
        return torch.from_numpy(self._correct != 0)

    def action_mask(self) -> Tensor:
        """Actions that can change something, bool [n, A]."""
        return torch.from_numpy(self._masks.take(self._state(), 0)).bool()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights and compute its table, if they differ.

        Every part of a network lies below all states, so nothing of the old table can
        be kept. The new one is not stored: training goes through many.
        """
        session, before = self.session, self.session.digest()
        session.set_weights(weights)
        if session.digest() != before:
            table = build_table(session, self.problem.inputs, self.problem.labels)
            self.problem = replace(self.problem, table=table)
            self._read(table)
            if self.begun:
                self.stand_in(self.states())

    def states(self) -> Tensor:
        """Bit pattern of each row's iterated layers, int64 [n]."""
        return torch.from_numpy(self._state())

    def stand_in(self, states: Tensor) -> None:
        """Bring every row's sample to a state; see ``LayerDynamics``."""
        self._place[:] = self._rows.index * len(self._shares) + states.numpy()
        self._prediction[:] = self._table["prediction"][self._place]
        self._correct[:] = self._table["correct"][self._place]
        self._penalty_seen = squash(self.episode.penalty.clone()).numpy()
        self._look(ALL)
        self.begun = True

    def _read(self, table: TransitionTable) -> None:
        self._table = {name: part.numpy() for name, part in table.tensors().items()}

    def infos(self) -> dict[str, Array]:
        """Facts of all rows; see ``LayerDynamics``."""
        told = self._integers.take(_TOLD, 0)
        index, decisions, macs, steps, status, prediction, correct = told
        return {
            "index": index,
            "penalty": self._rows.penalty.copy(),
            "macs": macs,
            "solver_steps": steps,
            "solver_status": status,
            "correct": correct.astype(np.int8),
            "prediction": prediction,
            "decisions": decisions,
            "action_mask": self._masks.take(self._state(), 0),
        }

    def _state(self) -> NDArray[np.int64]:
        """Which layers sit on their fixed point, as a bit pattern, int64 [n]."""
        state: NDArray[np.int64] = self._place & self._last_state
        return state

    def _decision(
        self, here: Where, stop: NDArray[np.bool_], found: NDArray[Any]
    ) -> Decision:
        """What the rows did, given the columns of their choices."""
        taken = found.astype(np.float32)
        return Decision(
            stop=stop.astype(np.float32),
            correct=taken[_CORRECT],
            cost=taken[_MACS] / np.float32(self.problem.cost_unit),
            consecutive=self._rows.consecutive[here].astype(np.float32),
            again=taken[_AGAIN],
            iterated=self._shares.take(self._place[here] & self._last_state),
            log_score_gain=found[_GAIN].astype(np.int32).view(np.float32),
            penalty=self._rows.penalty[here],
        )

    def _look(self, here: Where) -> None:
        """Observe rows that have moved; the others' observations stay."""
        if isinstance(here, slice):
            self._put_together(self._seen, here)
            return
        seen = np.empty((len(here), self.observer.size), dtype=np.float32)
        self._put_together(seen, here)
        _as_records(self._seen)[here] = _as_records(seen)

    def _put_together(self, seen: NDArray[np.float32], here: Where) -> None:
        """Write the rows' observations to ``seen``, contiguous float32 [m, D]."""
        rows, first = self._rows, self.observer.layout["penalty"].start
        # The mode "raise" would go by way of another buffer.
        self._table["observations"].take(self._place[here], 0, out=seen, mode="clip")
        recent = (rows.last_action[here] + 1) * len(self._remaining)
        recent += rows.consecutive[here]
        seen[:, first] = self._penalty_seen[here]
        seen[:, first + 1 : -1] = self._recent.take(recent, 0)
        seen[:, -1] = self._remaining.take(rows.decisions[here])

    def _look_ahead(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is seen of an episode: of all last actions and counts; of decisions."""
        counts = torch.arange(self.observer.max_decisions + 1)
        actions = torch.arange(-1, self.num_actions).repeat_interleave(len(counts))
        each = counts.repeat(self.num_actions + 1)
        every = EpisodeState(
            index=each,
            penalty=torch.zeros(len(each)),
            last_action=actions,
            consecutive=each,
            decisions=each,
        )
        _, last_action, consecutive, remaining = self.observer.episode_parts(every)
        recent = torch.cat([last_action, consecutive], 1)
        return recent.numpy(), remaining[: len(counts), 0].numpy()


def _numpy_rows(rows: Rows) -> Where:
    if isinstance(rows, slice):
        return rows
    found: NDArray[np.int64] = rows.numpy()
    return found


def _as_records(rows: NDArray[np.float32]) -> NDArray[np.void]:
    """Contiguous rows [m, D] as m records, which NumPy copies whole."""
    records: NDArray[np.void] = rows.view(f"V{rows.strides[0]}")[:, 0]
    return records


def make_dynamics(problem: DecisionProblem, num_rows: int) -> LayerDynamics:
    """Rows of a problem: over its table if it has one, else over the network."""
    if problem.table is None:
        return LayerDynamics(problem, num_rows)
    return TableDynamics(problem, problem.table, num_rows)
