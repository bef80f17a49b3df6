"""Blocks that are decided on in turn, bottom up: what all such sessions share.

A state is which decisions were taken. What is not decided on is *the rest*: it is
skipped, or run as trained. Deciding on the next block brings the row through the blocks
above it to a new answer, if the decision differs from what would have been done anyway.

Axes: n rows (one input each), m of them chosen, B blocks.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dynalay_gym.sessions.checks import (
    check_actions,
    check_inputs,
    check_rows,
    check_states,
)
from dynalay_gym.sessions.features import SOFTMAX_LAYOUT, skip_features
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.skip.decisions import (
    ACTION_NAMES,
    ITERATE,
    MIXED_ACTION_NAMES,
    RUN,
    SKIP,
    STOP,
    DecisionStates,
)
from dynalay_gym.sessions.skip.state import BlockState, branch_runs
from dynalay_gym.storage.digest import tensors_digest

StateT = TypeVar("StateT", bound=BlockState)


class BlockSession(ABC, Generic[StateT]):
    """Decides on a network's blocks; see `NetworkSession` for the methods.

    With more states than `MOST_STATES` it has no `next_state`, and is no
    `FiniteStates`.

    Args:
        network: The network, frozen; this session's own.
        choices: Actions that each block has, B entries.
        width: Channels of the widest activations that enter a block or the head.
        rest: What is done with blocks that are not decided on, RUN or SKIP.
    """

    default_reward = "three-term"  # the paper's charges a repeated action more
    in_shape: tuple[int, ...]
    in_dtype: torch.dtype
    num_classes: int
    plain_macs: int
    device: torch.device
    full_plan: tuple[int, ...] = (RUN,)

    def __init__(
        self,
        network: nn.Module,
        choices: Sequence[Sequence[int]],
        width: int,
        rest: int = SKIP,
    ) -> None:
        self.device = next(network.parameters()).device
        self.num_blocks, self._rest = len(choices), rest
        can_iterate = [ITERATE in actions for actions in choices]
        self._can_iterate = torch.tensor(can_iterate, device=self.device)
        is_mixed = any(can_iterate)
        self.action_names: tuple[str, ...] = (
            MIXED_ACTION_NAMES if is_mixed else ACTION_NAMES
        )
        self.most_decisions = self.num_blocks + 1
        layout = {
            "activations": width,
            **SOFTMAX_LAYOUT,
            "next_block": self.num_blocks,
            "iterated": self.num_blocks,
        }
        if is_mixed:
            layout["solved"] = sum(can_iterate)
        self.feature_layout: Mapping[str, int] = layout
        self._states = DecisionStates(choices)
        useful = [[a == STOP or a in own for a in self._actions] for own in choices]
        useful.append([a == STOP for a in self._actions])  # when all are decided on
        self._useful = torch.tensor(useful, device=self.device)
        next_state = self._states.next_state()
        if next_state is not None:
            self.next_state = next_state

    @torch.no_grad()
    def begin(self, inputs: Tensor) -> StateT:
        """Run the plain pass over inputs [n, ...]; see `NetworkSession.begin`."""
        state = self._empty(len(inputs))
        self.restart(state, torch.arange(len(inputs), device=self.device), inputs)
        return state

    @torch.no_grad()
    def restart(self, state: StateT, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.position))
        check_inputs(inputs, (len(rows), *self.in_shape), self.in_dtype)
        if len(rows) == 0:
            return
        self._enter(state, rows, inputs.contiguous())
        state.position[rows], state.taken[rows] = 0, STOP
        lowest = torch.zeros_like(rows)
        self._sweep(state, rows, lowest, state.taken[rows])
        self._arrive(state, rows)

    @torch.no_grad()
    def apply(self, state: StateT, rows: Tensor, actions: Tensor) -> StepCost:
        """Decide on the next block of each row; see `NetworkSession.apply`."""
        check_rows(rows, len(state.position))
        check_actions(actions, len(rows), len(self.action_names))
        useful = self.useful_actions(state, rows).gather(1, actions[:, None])[:, 0]
        position, moves = state.position[rows], useful & (actions != STOP)
        taken = self._one_hot(position) * (actions * moves)[:, None]
        cost = self._sweep(state, rows, self._lowest(taken), taken)
        state.position[rows] = position + moves
        state.taken[rows] += taken
        cost[0, moves] += self._arrive(state, rows[moves])
        macs, steps, status = cost
        return StepCost(macs, steps, status, already_iterated=~useful)

    @torch.no_grad()
    def reach(self, state: StateT, rows: Tensor, state_ids: Tensor) -> StepCost:
        """Bring rows from state 0 to given states; see `FiniteStates.reach`."""
        check_rows(rows, len(state.position))
        check_states(state_ids, len(rows), len(self.next_state))
        assert not bool(state.position[rows].any()), "rows start in state 0"
        position, taken = self._states.from_ids(state_ids)
        cost = self._sweep(state, rows, self._lowest(taken), taken)
        state.position[rows], state.taken[rows] = position, taken
        moves = position > 0
        cost[0, moves] += self._arrive(state, rows[moves])
        macs, steps, status = cost
        nothing = torch.zeros_like(moves)
        return StepCost(macs, steps, status, already_iterated=nothing)

    def features(self, state: StateT, rows: Tensor) -> Tensor:
        """Return what an observer sees; see `NetworkSession.features`."""
        check_rows(rows, len(state.position))
        position, taken = state.position[rows], state.taken[rows]
        pooled, logits = state.pooled[rows, position], state.logits[rows]
        next_block = self._one_hot(position)
        seen = skip_features(pooled, logits, next_block, branch_runs(taken))
        solved = taken[:, self._can_iterate] == ITERATE
        return torch.cat([seen, solved.float()], 1)

    def logits(self, state: StateT, rows: Tensor) -> Tensor:
        """Return the current answers, float32 [m, K]."""
        check_rows(rows, len(state.position))
        return state.logits[rows]

    def useful_actions(self, state: StateT, rows: Tensor) -> Tensor:
        """Return which actions can change something, bool [m, A]."""
        check_rows(rows, len(state.position))
        return self._useful[state.position[rows]]

    def state_ids(self, state: StateT) -> Tensor:
        """Return the state of every row, int64 [n]."""
        return self._states.to_ids(state.position, state.taken)

    def residual_curves(self, state: StateT, row: int) -> dict[str, list[float]]:
        """Return nothing: the residuals of a solve are not kept."""
        return {}

    def fingerprint(self) -> str:
        """Return a hash of weights and architecture."""
        kind, options, weights = self.to_saved()
        text = json.dumps([kind, options, tensors_digest(weights)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @abstractmethod
    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; see `Savable.to_saved`."""

    @abstractmethod
    def _empty(self, num_rows: int) -> StateT:
        """Return memory for n rows."""

    @abstractmethod
    def _enter(self, state: StateT, rows: Tensor, inputs: Tensor) -> None:
        """Write what inputs [m, ...] are in front of the first block."""

    @abstractmethod
    def _pass(self, state: StateT, level: int, rows: Tensor, actions: Tensor) -> Tensor:
        """Take some rows through a block.

        Args:
            state: Its output is written; decisions are not.
            level: Number of the block, from 0.
            rows: Distinct rows, int64 [m].
            actions: What each does with it, int64 [m]; `STOP` where it is not decided.

        Returns:
            MACs, iterations and worst status of each row, int64 [3, m].
        """

    @abstractmethod
    def _answer(self, state: StateT, rows: Tensor) -> int:
        """Write the answers of some rows; return the MACs of one."""

    def _arrive(self, state: StateT, rows: Tensor) -> Tensor | int:
        """Look at the next block of rows that have come to it; return MACs, [m]."""
        return 0

    def _sweep(
        self, state: StateT, rows: Tensor, lowest: Tensor, taken: Tensor
    ) -> Tensor:
        """Go through the blocks bottom up, then answer.

        Args:
            state: Activations and answers are changed in place, decisions are not.
            rows: Distinct rows, int64 [m].
            lowest: Lowest block of each row whose output changes, int64 [m]; B changes
                nothing.
            taken: The action at each block, int64 [m, B].

        Returns:
            MACs, iterations and worst status of each row, int64 [3, m].
        """
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        for level in range(self.num_blocks):
            some = (lowest <= level).nonzero()[:, 0]
            if len(some) > 0:
                own = self._pass(state, level, rows[some], taken[some, level])
                cost[:2, some] += own[:2]
                cost[2, some] = torch.maximum(cost[2, some], own[2])
        changed = (lowest < self.num_blocks).nonzero()[:, 0]
        if len(changed) > 0:
            cost[0, changed] += self._answer(state, rows[changed])
        return cost

    def _lowest(self, taken: Tensor) -> Tensor:
        """Return the lowest block with which more, or less, is done than otherwise.

        Args:
            taken: The action at each block, int64 [m, B].

        Returns:
            Its number, int64 [m]; B where there is none.
        """
        changed = (taken != STOP) & (taken != self._rest)
        return torch.where(changed.any(1), changed.int().argmax(1), self.num_blocks)

    def _one_hot(self, position: Tensor) -> Tensor:
        """Return which block comes next, bool [m, B]; none where all are decided on."""
        return position[:, None] == torch.arange(self.num_blocks, device=self.device)

    @property
    def _actions(self) -> range:
        return range(len(self.action_names))
