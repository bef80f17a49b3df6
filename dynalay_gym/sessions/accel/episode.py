"""Books of many rows' episodes in one pass; ``envs/walk.py`` says what they are."""

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.vectors import Integers


@compiled
def advance(
    last_action: Integers,
    consecutive: Integers,
    decisions: Integers,
    history: Integers,
    path: Integers,
    rows: Integers,
    actions: Integers,
    again: NDArray[np.bool_],
) -> None:
    """Note one action in each of some rows.

    Args:
        last_action: Last actions of all rows [n]; written.
        consecutive: How often in a row each was chosen [n]; written.
        decisions: Decisions taken [n]; written.
        history: Actions in order [n, max_decisions]; written.
        path: States before the actions [n].
        rows: Distinct rows, int64 [m].
        actions: Their actions, int64 [m].
        again: Written: whether the chosen layer sits on its fixed point already, [m].
    """
    for i in range(len(rows)):
        r, action = rows[i], actions[i]
        again[i] = action > 0 and path[r] >> (action - 1) & 1 != 0
        if decisions[r] < history.shape[1]:
            history[r, decisions[r]] = action
        consecutive[r] = consecutive[r] + 1 if last_action[r] == action else 1
        last_action[r] = action
        decisions[r] += 1


@compiled
def follow(
    plans: Integers,
    num_layers: int,
    history: Integers,
    decisions: Integers,
    path: Integers,
) -> int:
    """Note whole plans of rows that have just started; only NOP ends one early.

    Args:
        plans: Actions in order, int64 [n, P].
        num_layers: Number of layers L.
        history: Written: the actions taken [n, T], -1 after the last one.
        decisions: Written: their number [n].
        path: Written: states that they lead to [n].

    Returns:
        A row that would take an action beyond 0..L; -1 if there is none.
    """
    history[:] = -1
    for i in range(len(plans)):
        state, taken = 0, 0
        while taken < min(plans.shape[1], history.shape[1]):
            action = plans[i, taken]
            if action < 0 or action > num_layers:
                return i
            history[i, taken] = action
            taken += 1
            if action == 0:
                break
            bit = 1 << (action - 1)
            state = state & (bit - 1) | bit
        decisions[i], path[i] = taken, state
    return -1
