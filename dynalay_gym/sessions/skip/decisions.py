"""Blocks that are run, skipped or iterated in turn, as an automaton: a tree.

A state is which decisions were taken. A level of the tree is a block, with a branch for
each thing that can be done with it: run, skip and, where it can be iterated, iterate.
States are numbered level by level: if no block is iterated, state s leads to 2 s + 1
where the next one runs and to 2 s + 2 where it is skipped. The leaves have none left.

Axes: S states, A actions, B blocks, n rows.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.sessions.states import MOST_STATES, Automaton

STOP, RUN, SKIP, ITERATE = range(4)
ACTION_NAMES = ("stop", "run", "skip")
MIXED_ACTION_NAMES = (*ACTION_NAMES, "iterate")  # where a block can be iterated


class DecisionStates:
    """The states of rows whose blocks are decided on one after the other.

    Args:
        choices: Actions that each block has, ascending, B entries.

    Attributes:
        num_states: S; ``2 ** (B + 1) - 1`` if each has two.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        self._choices = choices
        self._nums = [len(actions) for actions in choices]
        widths = list(accumulate(self._nums, mul, initial=1))  # of each level
        *self._first, self.num_states = accumulate(widths, initial=0)

    def next_state(self) -> Automaton | None:
        """Return the automaton, int64 [S, A]; None if S exceeds `MOST_STATES`.

        An action that the next block does not have leads nowhere.
        """
        if self.num_states > MOST_STATES:
            return None
        states = np.arange(self.num_states)[:, None]
        num_actions = 1 + max(max(actions) for actions in self._choices)
        reached = states.repeat(num_actions, axis=1)
        for level, actions in enumerate(self._choices):
            first, following = self._first[level : level + 2]
            places, num = states[: following - first], len(actions)
            below = following + places * num + np.arange(num)
            reached[first:following, list(actions)] = below
        return reached

    def to_ids(self, position: Tensor, taken: Tensor) -> Tensor:
        """Return states, int64 [n].

        Args:
            position: Blocks that are decided on, int64 [n].
            taken: The action at each of them, int64 [n, B].
        """
        place = torch.zeros_like(position)  # in its level
        for block, actions in enumerate(self._choices):
            branch = torch.zeros_like(place)
            for number, action in enumerate(actions):
                branch[taken[:, block] == action] = number
            reached = place * len(actions) + branch
            place = torch.where(block < position, reached, place)
        return self._firsts(position.device)[position] + place

    def from_ids(self, state_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and actions; see `to_ids`.

        Blocks that are not decided on have the action `STOP`.
        """
        first = self._firsts(state_ids.device)
        position = (state_ids[:, None] >= first).sum(1) - 1
        place, taken = state_ids - first[position], list[Tensor]()
        for block, actions in reversed([*enumerate(self._choices)]):
            is_decided, num = block < position, len(actions)
            action = torch.tensor(actions, device=place.device)[place % num]
            taken.append(torch.where(is_decided, action, STOP))
            place = torch.where(is_decided, place // num, place)
        return position, torch.stack(taken[::-1], 1)

    def _firsts(self, device: torch.device) -> Tensor:
        """Return the first state of each level, int64 [B + 1]."""
        return torch.tensor(self._first, device=device)
