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

from dynalay_gym.envs.dynamics import Array, LayerDynamics, Problem, facts_of_states
from dynalay_gym.envs.observation import EpisodeState, squash
from dynalay_gym.envs.session import Rows
from dynalay_gym.envs.transition_table import TransitionTable, build_table


def make_dynamics(problem: Problem, num_rows: int) -> LayerDynamics:
    """Rows of a problem: over its table if it has one, else over the network."""
    if problem.table is None:
        return LayerDynamics(problem, num_rows)
    return TableDynamics(problem, problem.table, num_rows)


class TableDynamics(LayerDynamics):
    """Rows that stand at places of a transition table, in main memory.

    Args:
        problem: What is decided on.
        table: Its transitions.
        num_rows: Number of rows n.
    """

    def __init__(self, problem: Problem, table: TransitionTable, num_rows: int) -> None:
        super().__init__(problem, num_rows, torch.device("cpu"))
        self._read(table)
        self._place = np.zeros(num_rows, dtype=np.int64)
        self._last_state = table.num_states - 1  # S is a power of two
        facts = facts_of_states(table.num_actions - 1)
        self._masks, self._shares = (fact.numpy() for fact in facts)
        self._penalty_seen = np.zeros(num_rows, dtype=np.float32)
        self._recent, self._remaining = self._look_ahead()

    def _name_counts(self) -> None:
        super()._name_counts()
        self._integers = self._counts.numpy()
        names = [field.name for field in fields(EpisodeState)]
        arrays: dict[str, Any] = {n: getattr(self.episode, n).numpy() for n in names}
        self._rows: Any = EpisodeState(**arrays)

    def observe(self) -> NDArray[np.float32]:
        """Observations of all rows, float32 [n, D]."""
        table, rows = self._table["observations"], self._rows
        seen = np.empty((self.num_rows, table.shape[1]), dtype=np.float32)
        table.take(self._place, 0, out=seen, mode="clip")  # "raise" would buffer
        recent = (rows.last_action + 1) * len(self._remaining) + rows.consecutive
        first = self.observer.layout["penalty"].start
        seen[:, first] = self._penalty_seen
        seen[:, first + 1 : -1] = self._recent.take(recent, 0)
        seen[:, -1] = self._remaining.take(rows.decisions)
        return seen

    def prediction(self) -> Tensor:
        """Current answer of all rows, int64 [n]."""
        return torch.from_numpy(self._table["prediction"].take(self._place))

    def correct(self) -> Tensor:
        """Whether the current answer is right, bool [n]."""
        return torch.from_numpy(self._table["correct"].take(self._place))

    def action_mask(self) -> Tensor:
        """Actions that can change something, bool [n, A]."""
        return torch.from_numpy(self._masks.take(self._place & self._last_state, 0))

    def begin(
        self,
        rows: NDArray[np.int64],
        index: NDArray[np.int64],
        penalty: NDArray[np.float32],
    ) -> None:
        """Start episodes; see ``LayerDynamics``."""
        self._place[rows] = index * len(self._shares)
        self._integers[:, rows] = self._fresh.numpy()
        self._rows.index[rows] = index
        if not np.array_equal(self._rows.penalty[rows], penalty):
            self._rows.penalty[rows] = penalty
            self._penalty_seen[rows] = squash(torch.from_numpy(penalty)).numpy()
        self.begun = True

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights and compute its table, if they differ.

        Every part of a network lies below all states, so nothing of the old table can
        be kept. The new one is not stored: training goes through many.
        """
        session, before = self.session, self.session.digest()
        session.set_weights(weights)
        if session.digest() != before:
            table = build_table(session, self.problem.images, self.problem.labels)
            self.problem = replace(self.problem, table=table)
            self._read(table)

    def states(self) -> Tensor:
        """Bit pattern of each row's iterated layers, int64 [n]."""
        return torch.from_numpy(self._place & self._last_state)

    def stand_in(self, states: Tensor) -> None:
        """Bring every row's sample to a state; see ``LayerDynamics``."""
        self._place = self._rows.index * len(self._shares) + states.numpy()
        self._penalty_seen = squash(self.episode.penalty.clone()).numpy()
        self.begun = True

    def _read(self, table: TransitionTable) -> None:
        self._table = {name: part.numpy() for name, part in table.tensors().items()}

    def infos(self) -> dict[str, Array]:
        """Facts of all rows; see ``LayerDynamics``."""
        place, table = self._place, self._table
        index, _, _, decisions, macs, steps, status = self._integers.copy()
        return {
            "index": index,
            "penalty": self._rows.penalty.copy(),
            "macs": macs,
            "solver_steps": steps,
            "solver_status": status,
            "correct": table["correct"].take(place).view(np.int8),
            "prediction": table["prediction"].take(place),
            "decisions": decisions,
            "action_mask": self._masks.take(place & self._last_state, 0).view(np.int8),
        }

    def _apply(self, rows: Rows, actions: Tensor) -> Tensor:
        here, chosen = _numpy_rows(rows), actions.numpy()
        choices = self._place[here] * self.num_actions + chosen
        found = self._table["choices"].take(choices, 0).T
        self._place[here], self._integers[4:, here] = found[0], found[1:4]
        self._rows.advance(here, chosen)
        return torch.from_numpy(found[4] != 0)

    def _log_score(self, rows: Rows) -> Tensor:
        place = self._place[_numpy_rows(rows)]
        return torch.from_numpy(self._table["log_score"].take(place))

    def _iterated_share(self, rows: Rows) -> Tensor:
        state = self._place[_numpy_rows(rows)] & self._last_state
        return torch.from_numpy(self._shares.take(state))

    def _look_ahead(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is seen of an episode: of all last actions and counts; of decisions."""
        counts = torch.arange(self.problem.max_decisions + 1)
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


def _numpy_rows(rows: Rows) -> NDArray[np.int64] | slice:
    if isinstance(rows, slice):
        return rows
    found: NDArray[np.int64] = rows.numpy()
    return found
