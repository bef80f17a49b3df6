"""The decision process over a transition table: no network runs, all is looked up.

Axes: n rows, m of them chosen, A actions, S states, F network features.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.observation import Integers
from dynalay_gym.envs.process import (
    DecisionProblem,
    LiveProcess,
    Outcome,
    Process,
)
from dynalay_gym.sessions.states import useful_actions
from dynalay_gym.sessions.transition_table import (
    CHOICE,
    TransitionTable,
    build_table,
    finite,
)

_MACS, _STEPS, _STATUS, _TABLE_ROW, _PREDICTION, _CORRECT, _ALREADY, _GAIN = range(
    len(CHOICE)
)


class TableProcess(Process):
    """Rows that stand at rows of a transition table.

    Args:
        problem: What is decided on, with its table.
        num_rows: Rows n.
    """

    def __init__(self, problem: DecisionProblem, num_rows: int) -> None:
        super().__init__(problem, num_rows)
        self.session = finite(problem.session, "a transition table")
        self._num_states, self._num_actions = self.session.next_state.shape
        self._useful = useful_actions(self.session.next_state).astype(np.int8)
        self._table_row = np.zeros(num_rows, dtype=np.int64)
        assert problem.table is not None, "make_process looks for the table"
        self._read(problem.table)

    def _begin(self, rows: Integers, index: Integers) -> None:
        self._arrive(rows, index * self._num_states)

    def _apply(self, rows: Integers, actions: Integers) -> Outcome:
        choice = self._table_row[rows] * self._num_actions + actions
        found = self._choices.take(choice, 0).T
        self._table_row[rows] = reached = found[_TABLE_ROW]
        self.prediction[rows], self.correct[rows] = found[_PREDICTION], found[_CORRECT]
        self.action_mask[rows] = self._useful.take(reached % self._num_states, 0)
        gain = found[_GAIN].astype(np.int32).view(np.float32)
        macs, steps, status, already = found[[_MACS, _STEPS, _STATUS, _ALREADY]]
        return Outcome(macs, steps, status, already, gain)

    def _arrive(self, rows: Integers, table_row: Integers) -> None:
        """Put rows at rows of the table, int64 [m]."""
        self._table_row[rows] = table_row
        self.prediction[rows] = self._prediction[table_row]
        self.correct[rows] = self._correct[table_row]
        self.action_mask[rows] = self._useful.take(table_row % self._num_states, 0)

    def _features(self, rows: Integers | None) -> Tensor:
        table_row = self._table_row if rows is None else self._table_row[rows]
        seen = np.empty((len(table_row), self._width), dtype=np.float32)
        seen[:, : self._num_features] = self._features_of.take(table_row, 0)
        return torch.from_numpy(seen)

    def state_ids(self) -> Integers:
        """Return the network's state in every row, int64 [n]."""
        return self._table_row % self._num_states

    def set_states(self, state_ids: Integers) -> None:
        """Bring every row's sample to a state; see `Process.set_states`."""
        table_row = self.episode.index * self._num_states + state_ids
        self._arrive(np.arange(self.num_rows), table_row)
        self.has_reset = True

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights and compute its table, if they differ.

        Every state depends on every weight below it, so nothing of the old table can
        be kept. The new one is not stored on disk: a training goes through many.
        """
        before = self.session.fingerprint()
        self.session.load_weights(weights)
        if self.session.fingerprint() == before:
            return
        table = build_table(self.session, self.problem.inputs, self.problem.labels)
        self.problem = replace(self.problem, table=table)
        self._read(table)
        if self.has_reset:
            self.set_states(self.state_ids())

    def _read(self, table: TransitionTable) -> None:
        self._features_of = table.features.numpy()
        self._choices = table.choices.numpy()
        self._prediction = table.prediction.numpy()
        self._correct = table.correct.numpy()


def make_process(problem: DecisionProblem, num_rows: int) -> Process:
    """Return rows of a problem: over its table if it has one, else over the network."""
    if problem.table is None:
        return LiveProcess(problem, num_rows)
    return TableProcess(problem, num_rows)
