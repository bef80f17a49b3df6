"""A residual network as a session: its blocks are run or skipped, bottom up.

The plain pass is the shortcuts alone. Running the next block puts its branch in, and
takes the new map through the shortcuts above it to a new answer; skipping it moves on
to the block above. What is not decided on when a row stops stays skipped. Where the
block is a fixed-point layer, it can be iterated instead: it runs with its inner
activations at their fixed point.

Axes: n rows (one input each), m of them chosen, B blocks.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.networks.checkpoint import kind_of
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import run_block
from dynalay_gym.sessions.checks import (
    check_actions,
    check_inputs,
    check_rows,
    check_states,
    check_weights,
)
from dynalay_gym.sessions.features import SOFTMAX_LAYOUT, skip_features
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.skip.decisions import (
    ACTION_NAMES,
    ITERATE,
    MIXED_ACTION_NAMES,
    RUN,
    STOP,
    DecisionStates,
)
from dynalay_gym.sessions.skip.state import SkipState, branch_runs
from dynalay_gym.storage.digest import tensors_digest
from dynalay_gym.utils.device import torch_defaults


class SkipSession:
    """Runs a residual network on any device; see `NetworkSession` for the methods.

    With more blocks than `MOST_STATES` allows it has no `next_state`, and is no
    `FiniteStates`.

    Args:
        network: The residual network; the session works on a frozen copy of it.
    """

    action_names: tuple[str, ...]
    full_plan: tuple[int, ...] = (RUN,)
    default_reward = "three-term"  # the paper's charges a repeated action more

    def __init__(self, network: ResidualNetwork | GatedNetwork) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        config = network.config
        self.in_shape, self.in_dtype = config.in_shape, torch.float32
        self.num_classes = config.num_classes
        self.device = next(network.parameters()).device
        blocks, sizes = self.network.blocks, self.network.block_sizes
        self.num_blocks, can_iterate = len(blocks), _freeze(blocks)
        self._can_iterate = torch.tensor(can_iterate, device=self.device)
        is_mixed = any(can_iterate)
        self.action_names = MIXED_ACTION_NAMES if is_mixed else ACTION_NAMES
        self.most_decisions = self.num_blocks + 1
        self._shapes = [
            (b.in_channels, s, s) for b, s in zip(blocks, sizes, strict=True)
        ]
        top = -(-sizes[-1] // blocks[-1].stride)
        self._shapes.append((blocks[-1].out_channels, top, top))
        shortcuts = sum(b.macs(s).shortcut for b, s in zip(blocks, sizes, strict=True))
        self.plain_macs = network.stem_macs + shortcuts + network.head_macs
        layout = {
            "activations": max(shape[0] for shape in self._shapes),
            **SOFTMAX_LAYOUT,
            "next_block": self.num_blocks,
            "iterated": self.num_blocks,
        }
        if is_mixed:
            layout["solved"] = sum(can_iterate)
        self.feature_layout: Mapping[str, int] = layout
        self._num_gates = [0] * self.num_blocks
        self._states = DecisionStates(can_iterate)
        next_state = self._states.next_state()
        if next_state is not None:
            self.next_state = next_state

    @torch.no_grad()
    def begin(self, inputs: Tensor) -> SkipState:
        """Run the plain pass over images [n, C, H, W]; see `NetworkSession.begin`."""
        sizes = len(inputs), self.num_classes, self.device
        state = SkipState.empty(self._shapes, self._num_gates, *sizes)
        self.restart(state, torch.arange(len(inputs), device=self.device), inputs)
        return state

    @torch.no_grad()
    def restart(self, state: SkipState, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.position))
        check_inputs(inputs, (len(rows), *self.in_shape), self.in_dtype)
        if len(rows) == 0:
            return
        state.write(0, rows, self.network.stem(inputs.contiguous()))
        state.position[rows], state.taken[rows] = 0, STOP
        lowest = torch.zeros_like(rows)
        self._sweep(state, rows, lowest, state.taken[rows])
        self._arrive(state, rows)

    @torch.no_grad()
    def apply(self, state: SkipState, rows: Tensor, actions: Tensor) -> StepCost:
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
    def reach(self, state: SkipState, rows: Tensor, state_ids: Tensor) -> StepCost:
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

    def features(self, state: SkipState, rows: Tensor) -> Tensor:
        """Return what an observer sees; see `NetworkSession.features`."""
        check_rows(rows, len(state.position))
        position, taken = state.position[rows], state.taken[rows]
        pooled, logits = state.pooled[rows, position], state.logits[rows]
        next_block = self._one_hot(position)
        seen = skip_features(pooled, logits, next_block, branch_runs(taken))
        solved = taken[:, self._can_iterate] == ITERATE
        return torch.cat([seen, solved.float()], 1)

    def logits(self, state: SkipState, rows: Tensor) -> Tensor:
        """Return the current answers, float32 [m, K]."""
        check_rows(rows, len(state.position))
        return state.logits[rows]

    def useful_actions(self, state: SkipState, rows: Tensor) -> Tensor:
        """Return which actions can change something, bool [m, A]."""
        check_rows(rows, len(state.position))
        position = state.position[rows]
        goes_on = position < self.num_blocks
        solves = (self._one_hot(position) & self._can_iterate).any(1)
        useful = torch.stack([torch.ones_like(goes_on), goes_on, goes_on, solves], 1)
        return useful[:, : len(self.action_names)]

    def state_ids(self, state: SkipState) -> Tensor:
        """Return the state of every row, int64 [n]."""
        return self._states.to_ids(state.position, state.taken)

    def maps(self, state: SkipState, rows: Tensor) -> dict[str, Tensor]:
        """Return the size of what enters each block and the head, [m, C, H, W]."""
        check_rows(rows, len(state.position))
        return {f"map/{i}": each[rows].abs() for i, each in enumerate(state.maps)}

    def residual_curves(self, state: SkipState, row: int) -> dict[str, list[float]]:
        """Return nothing: the residuals of a solve are not kept."""
        return {}

    def fingerprint(self) -> str:
        """Return a hash of weights and architecture."""
        kind, options, weights = self.to_saved()
        text = json.dumps([kind, options, tensors_digest(weights)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; see `Savable.to_saved`."""
        options = {"config": self.network.config.to_dict()}
        return kind_of(self.network), options, self.network.state_dict()

    @torch_defaults()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        check_weights(weights, self.network.state_dict())
        self.network.load_state_dict(weights)  # which stays frozen

    def _sweep(
        self, state: SkipState, rows: Tensor, lowest: Tensor, taken: Tensor
    ) -> Tensor:
        """Go through the blocks bottom up, then answer.

        Args:
            state: Maps and answers are changed in place, decisions are not.
            rows: Distinct rows, int64 [m].
            lowest: Lowest block of each row whose output changes, int64 [m]; B changes
                nothing.
            taken: The action at each block, int64 [m, B].

        Returns:
            MACs, iterations and worst status of each row, int64 [3, m].
        """
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        for level, block in enumerate(self.network.blocks):
            action = taken[:, level]
            for iterates in (False,) if block.recurrence is None else (False, True):
                chosen = (lowest <= level) & ((action == ITERATE) == iterates)
                some = chosen.nonzero()[:, 0]
                if len(some) > 0:
                    runs = branch_runs(action[some])
                    own = self._pass(state, level, rows[some], runs, iterates)
                    cost[:2, some] += own[:2]
                    cost[2, some] = torch.maximum(cost[2, some], own[2])
        changed = (lowest < self.num_blocks).nonzero()[:, 0]
        if len(changed) > 0:
            top = state.maps[-1].index_select(0, rows[changed])
            state.logits[rows[changed]] = self.network.answer(top)
            cost[0, changed] += self.network.head_macs
        return cost

    def _pass(
        self, state: SkipState, level: int, rows: Tensor, runs: Tensor, iterates: bool
    ) -> Tensor:
        """Take some rows through a block; return their cost as `_sweep` does."""
        block, x = self.network.blocks[level], state.maps[level].index_select(0, rows)
        scale, channels, looked = self._factors(state, level, rows, x, runs)
        out, cost = run_block(block, x, scale, channels, iterates)
        state.write(level + 1, rows, out)
        cost[0] += looked
        return cost

    def _factors(
        self, state: SkipState, level: int, rows: Tensor, x: Tensor, runs: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | int]:
        """Return by how much branch and inner channels of some rows are multiplied.

        Args:
            state: Not changed.
            level: Number of the block, from 0.
            rows: Rows, int64 [m].
            x: What enters the block, [m, C, H, W].
            runs: Whether its branch runs, bool [m].

        Returns:
            Factors as `run_block` takes them, and the MACs [m] of finding them.
        """
        return runs.float(), None, 0

    def _arrive(self, state: SkipState, rows: Tensor) -> Tensor | int:
        """Look at the next block of rows that have come to it; return MACs, [m]."""
        return 0

    def _lowest(self, taken: Tensor) -> Tensor:
        """Return the lowest block that runs, int64 [m]; B where none does."""
        ran = branch_runs(taken)
        return torch.where(ran.any(1), ran.int().argmax(1), self.num_blocks)

    def _one_hot(self, position: Tensor) -> Tensor:
        """Return which block comes next, bool [m, B]; none where all are decided on."""
        return position[:, None] == torch.arange(self.num_blocks, device=self.device)


def _freeze(blocks: Sequence[ResidualBlock]) -> list[bool]:
    """Compute the contractions of blocks once; return which of them have one."""
    layers = [block.recurrence for block in blocks]
    for layer in layers:
        if layer is not None:
            layer.freeze()
    return [layer is not None for layer in layers]
