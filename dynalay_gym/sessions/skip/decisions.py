"""Blocks that are run or skipped one after the other, as an automaton: a binary tree.

A state is which decisions were taken. In level order, state s leads to 2 s + 1 where
the next block runs and to 2 s + 2 where it is skipped; the leaves have none left.

Axes: S states, B blocks, n rows.
"""

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.sessions.states import MOST_STATES, Automaton

STOP, RUN, SKIP = range(3)
ACTION_NAMES = ("stop", "run", "skip")


def skip_states(num_blocks: int) -> Automaton | None:
    """Return the automaton, ``next_state`` [S, 3]; None if S exceeds `MOST_STATES`.

    Args:
        num_blocks: B; S is ``2 ** (B + 1) - 1``.
    """
    num_states = 2 ** (num_blocks + 1) - 1
    if num_states > MOST_STATES:
        return None
    states = np.arange(num_states)[:, None]
    reached = 2 * states + np.array([STOP, RUN, SKIP])
    reached[:, STOP] = states[:, 0]
    return np.where(reached < num_states, reached, states)


def to_state_ids(position: Tensor, ran: Tensor) -> Tensor:
    """Return states, int64 [n].

    Args:
        position: Blocks that are decided on, int64 [n].
        ran: Those of them that ran, bool [n, B].
    """
    state_ids = torch.zeros_like(position)
    for block, did_run in enumerate(ran.unbind(1)):
        reached = 2 * state_ids + torch.where(did_run, RUN, SKIP)
        state_ids = torch.where(block < position, reached, state_ids)
    return state_ids


def from_state_ids(state_ids: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Return position, int64 [n], and which blocks ran, bool [n, B]."""
    number = state_ids + 1
    position = torch.frexp(number.double()).exponent.long() - 1  # floor of log2
    # Behind its first bit, the number has a 0 for each block that ran, 1 if skipped.
    blocks = torch.arange(num_blocks, device=number.device)
    shift = position[:, None] - 1 - blocks
    was_skipped = number[:, None] >> shift.clamp(min=0) & 1
    return position, (shift >= 0) & (was_skipped == 0)
