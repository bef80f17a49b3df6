"""What an agent sees: the network's features, then where the episode stands.

Axes: n rows, m of them chosen, A actions, F network features, D = F + A + 3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Rows = Integers | slice  # distinct rows, int64 [m], or ALL of them
ALL = slice(None)


def observation_layout(
    feature_layout: Mapping[str, int], num_actions: int
) -> dict[str, slice]:
    """Return where each part of a flat observation lies.

    Args:
        feature_layout: Name and width of the network's parts, which come first.
        num_actions: Actions A.

    Returns:
        Columns by name, in order; those of the episode begin at ``penalty``.
    """
    widths = dict(feature_layout)
    widths |= {"penalty": 1, "last_action": num_actions, "consecutive": 1}
    widths |= {"remaining": 1}
    ends = np.cumsum(list(widths.values())).tolist()
    return {
        name: slice(end - width, end)
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }


# All that an episode state keeps of each row.
_ROW_ARRAYS = (
    "index",
    "penalty",
    "last_action",
    "consecutive",
    "decisions",
    "macs",
    "solver_steps",
    "status",
    "history",
    "best_prob",
    "best_answer",
)


def shown_penalty(penalty: Any, penalty_unit: float) -> Any:
    """Return what observations show of penalties, penalty / (unit + penalty).

    Args:
        penalty: Array or tensor of penalties.
        penalty_unit: Penalty that is shown as 1/2, above 0.
    """
    return penalty / (penalty_unit + penalty)


def episode_width(num_actions: int) -> int:
    """Return how many columns of an observation belong to the episode."""
    return num_actions + 3


class EpisodeState:
    """Where each of n rows stands in its episode, in main memory.

    Attributes:
        index: Sample of the split, int64 [n].
        penalty: Weight of compute, float32 [n].
        last_action: Last action, int64 [n]; -1 after a reset.
        consecutive: How often in a row it was chosen, int64 [n].
        decisions: Decisions taken, int64 [n].
        macs: Multiply-adds of the last step (of the plain pass after a reset),
            int64 [n].
        solver_steps: Iterations of the last step, int64 [n].
        status: Worst `SolverStatus` of the last step, int64 [n].
        history: Actions in order, int64 [n, max_decisions]; -1 where none was taken.
        best_prob: Probability of the most confident answer so far, float32 [n]; -1 if
            nobody asks for it (recall).
        best_answer: That answer, int64 [n].

    Args:
        num_rows: Rows n.
        num_actions: Actions A.
        max_decisions: Most decisions of an episode.
        penalty_unit: Penalty that is shown as 1/2.
    """

    def __init__(
        self,
        num_rows: int,
        num_actions: int,
        max_decisions: int,
        penalty_unit: float = 1.0,
    ) -> None:
        self.max_decisions, self.penalty_unit = max_decisions, penalty_unit
        self._numbers = np.arange(num_rows)
        self.index = np.zeros(num_rows, dtype=np.int64)
        self.penalty = np.zeros(num_rows, dtype=np.float32)
        self.last_action = np.full(num_rows, -1)
        self.consecutive = np.zeros_like(self.index)
        self.decisions = np.zeros_like(self.index)
        self.macs = np.zeros_like(self.index)
        self.solver_steps = np.zeros_like(self.index)
        self.status = np.zeros_like(self.index)
        self.history = np.full((num_rows, max_decisions), -1)
        self.best_prob = np.full(num_rows, -1, dtype=np.float32)
        self.best_answer = np.zeros_like(self.index)
        # Looked up: one-hot actions (row 0 for none), and counts as shares.
        self._one_hot = np.eye(num_actions + 1, dtype=np.float32)[:, 1:]
        shares = np.arange(max_decisions + 1) / np.float32(max_decisions)
        self._shares = shares.astype(np.float32)
        self._remaining = 1 - self._shares

    def begin(
        self,
        rows: Rows,
        index: Integers,
        penalty: NDArray[np.float32],
        macs: Integers,
    ) -> None:
        """Start an episode in some rows.

        Args:
            rows: Distinct rows, int64 [m], or ALL.
            index: Their samples, int64 [m].
            penalty: Their penalties, float32 [m].
            macs: Multiply-adds of their plain passes, int64 [m].
        """
        self.index[rows], self.penalty[rows] = index, penalty
        self.last_action[rows], self.history[rows] = -1, -1
        self.best_prob[rows] = -1
        self.consecutive[rows], self.decisions[rows] = 0, 0
        self.macs[rows] = macs
        self.solver_steps[rows], self.status[rows] = 0, 0

    def advance(
        self,
        rows: Rows,
        actions: Integers,
        macs: Integers,
        solver_steps: Integers,
        status: Integers,
    ) -> NDArray[np.bool_]:
        """Record one action in each of some rows.

        Args:
            rows: Distinct rows, int64 [m], or ALL.
            actions: Their actions, int64 [m].
            macs: What each took, int64 [m].
            solver_steps: Iterations, int64 [m].
            status: Solver status, int64 [m].

        Returns:
            Whether the answer is given now, bool [m].
        """
        decisions = self.decisions[rows] + 1
        self.history[self._numbers[rows], decisions - 1] = actions
        same = self.last_action[rows] == actions
        self.consecutive[rows] = self.consecutive[rows] * same + 1
        self.last_action[rows], self.decisions[rows] = actions, decisions
        self.macs[rows], self.solver_steps[rows] = macs, solver_steps
        self.status[rows] = status
        stops: NDArray[np.bool_] = (actions == 0) | (decisions >= self.max_decisions)
        return stops

    def features(
        self, rows: Rows = ALL, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return an observation's columns from ``penalty`` on.

        Args:
            rows: Distinct rows, int64 [m], or ALL.
            out: Where to write them, float32 [m, A + 3]; new memory if None.

        Returns:
            float32 [m, A + 3], each entry in [0, 1].
        """
        penalty = self.penalty[rows]
        seen = out
        if seen is None:
            width = episode_width(self._one_hot.shape[1])
            seen = np.empty((len(penalty), width), dtype=np.float32)
        seen[:, 0] = shown_penalty(penalty, self.penalty_unit)
        seen[:, 1:-2] = self._one_hot.take(self.last_action[rows] + 1, 0)
        seen[:, -2] = self._shares.take(self.consecutive[rows])
        seen[:, -1] = self._remaining.take(self.decisions[rows])
        return seen

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that is kept of each row, by name; no copies."""
        return {name: getattr(self, name) for name in _ROW_ARRAYS}
