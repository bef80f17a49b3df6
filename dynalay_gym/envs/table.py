"""The decision process over a transition table: no network runs, all is looked up.

Axes: n rows, m of them chosen, A actions, S states, F network features.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.observation import ALL, Integers, Rows, episode_width
from dynalay_gym.envs.process import (
    DecisionProblem,
    LiveProcess,
    Outcome,
    Process,
)
from dynalay_gym.sessions.measure import row_bytes
from dynalay_gym.sessions.transition_table import (
    CHOICE,
    TransitionTable,
    build_table,
    finite,
)
from dynalay_gym.utils.device import torch_defaults
from dynalay_gym.utils.memory import check_memory

_MACS, _STEPS, _STATUS, _TABLE_ROW, _PREDICTION, _CORRECT, _ALREADY, _GAIN = range(
    len(CHOICE)
)

_FEW_ROWS = 1024  # always allowed
_NO_GAIN = np.zeros(1, dtype=np.float32)  # for all rows, where no reward reads it


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
        self._table_row = np.zeros(num_rows, dtype=np.int64)
        assert problem.table is not None, "make_process looks for the table"
        self._read(problem.table)

    def _begin(self, rows: Rows, index: Integers) -> None:
        self._arrive(rows, index * self._num_states)

    def _apply(self, rows: Rows, actions: Integers) -> Outcome:
        choice = self._table_row[rows] * self._num_actions + actions
        found = self._choices.take(choice, 0).T
        self._table_row[rows] = reached = found[_TABLE_ROW]
        self.prediction[rows], self.correct[rows] = found[_PREDICTION], found[_CORRECT]
        self.action_mask[rows] = self._useful.take(reached, 0)
        gain = _NO_GAIN
        if self.problem.reward.uses_log_score:
            gain = found[_GAIN].astype(np.int32).view(np.float32)
        taken = found[_MACS], found[_STEPS], found[_STATUS], found[_ALREADY]
        return Outcome(*taken, gain)

    def _arrive(self, rows: Rows, table_row: Integers) -> None:
        """Put rows at rows of the table, int64 [m]."""
        self._table_row[rows] = table_row
        self.prediction[rows] = self._prediction[table_row]
        self.correct[rows] = self._correct[table_row]
        self.action_mask[rows] = self._useful.take(table_row, 0)

    def _features(self, rows: Rows) -> Tensor:
        table_row = self._table_row[rows]
        return torch.from_numpy(self._seen.take(table_row, 0))

    def state_ids(self) -> Integers:
        """Return the network's state in every row, int64 [n]."""
        state_ids: Integers = self._table_row % self._num_states
        return state_ids

    def set_states(self, state_ids: Integers) -> None:
        """Bring every row's sample to a state; see `Process.set_states`."""
        table_row = self.episode.index * self._num_states + state_ids
        self._arrive(ALL, table_row)
        self._recall(ALL)
        self.has_reset = True

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights and compute its table, if they differ.

        Every state depends on every weight below it, so nothing of the old table can
        be kept. The new one is not stored on disk: a training goes through many.
        """
        self.session.load_weights(weights)
        if self.session.fingerprint() == self._fingerprint:
            return
        inputs, labels = self.problem.inputs, self.problem.labels
        padding = episode_width(self._num_actions)
        table = build_table(self.session, inputs, labels, padding)
        self.problem = replace(self.problem, table=table)
        self._read(table)
        if self.has_reset:
            self.set_states(self.state_ids())

    def _read(self, table: TransitionTable) -> None:
        # Of the table, not of the session before: another environment may share it.
        self._fingerprint = self.session.fingerprint()
        self._seen = table.features.numpy()  # as wide as an observation
        self._choices = table.choices.numpy()
        self._prediction = table.prediction.numpy()
        self._correct = table.correct.numpy()
        self._useful = table.useful.numpy()


@torch_defaults()
def make_process(problem: DecisionProblem, num_rows: int) -> Process:
    """Return rows of a problem: over its table if it has one, else over the network.

    Raises:
        ConfigError: So many rows do not fit into memory.
    """
    _check_memory(problem, num_rows)
    if problem.table is None:
        return LiveProcess(problem, num_rows)
    return TableProcess(problem, num_rows)


def _check_memory(problem: DecisionProblem, num_rows: int) -> None:
    """Raise ConfigError for more rows than fit into memory; few are not looked at."""
    if num_rows <= _FEW_ROWS:
        return
    width = problem.observation_layout["remaining"].stop
    # Spaces, observations and what the last step returned; the network in progress, and
    # what it takes while it runs (measured: 1.1 to 2.3 of what it keeps).
    needed = 40 * width + 8 * problem.max_decisions + 200
    if problem.table is None:
        needed += int(2.5 * row_bytes(problem.session, problem.inputs[:1]))
    remedy = "give fewer (num_envs, --num-envs)"
    check_memory(num_rows * needed, f"{num_rows:,} rows", remedy, problem.inputs.device)
