"""A residual network as a session: its blocks are run or skipped, bottom up.

The plain pass is the shortcuts alone. Running the next block puts its branch in, and
takes the new map through the shortcuts above it to a new answer; skipping it moves on
to the block above. What is not decided on when a row stops stays skipped. Where the
block is a fixed-point layer, it can be iterated instead: it runs with its inner
activations at their fixed point.

Axes: n rows (one input each), m of them chosen, B blocks.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.networks.checkpoint import kind_of
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import run_block
from dynalay_gym.sessions.checks import check_rows, check_weights
from dynalay_gym.sessions.skip.blocks import BlockSession
from dynalay_gym.sessions.skip.decisions import ITERATE, RUN, SKIP
from dynalay_gym.sessions.skip.state import SkipState, branch_runs
from dynalay_gym.utils.device import torch_defaults


class SkipSession(BlockSession[SkipState]):
    """Runs a residual network on any device; see `BlockSession`.

    Args:
        network: The residual network; the session works on a frozen copy of it.
    """

    def __init__(self, network: ResidualNetwork | GatedNetwork) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        config = network.config
        self.in_shape, self.in_dtype = config.in_shape, torch.float32
        self.num_classes = config.num_classes
        blocks, sizes = self.network.blocks, self.network.block_sizes
        self._shapes = [
            (b.in_channels, s, s) for b, s in zip(blocks, sizes, strict=True)
        ]
        top = -(-sizes[-1] // blocks[-1].stride)
        self._shapes.append((blocks[-1].out_channels, top, top))
        shortcuts = sum(b.macs(s).shortcut for b, s in zip(blocks, sizes, strict=True))
        self.plain_macs = network.stem_macs + shortcuts + network.head_macs
        choices = [(RUN, SKIP, ITERATE)[: 2 + solves] for solves in _freeze(blocks)]
        super().__init__(self.network, choices, max(s[0] for s in self._shapes))
        self._num_gates = [0] * self.num_blocks

    def maps(self, state: SkipState, rows: Tensor) -> dict[str, Tensor]:
        """Return the size of what enters each block and the head, [m, C, H, W]."""
        check_rows(rows, len(state.position))
        return {f"map/{i}": each[rows].abs() for i, each in enumerate(state.maps)}

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; see `Savable.to_saved`."""
        options = {"config": self.network.config.to_dict()}
        return kind_of(self.network), options, self.network.state_dict()

    @torch_defaults()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        check_weights(weights, self.network.state_dict())
        self.network.load_state_dict(weights)  # which stays frozen

    def _empty(self, num_rows: int) -> SkipState:
        sizes = num_rows, self.num_classes, self.device
        return SkipState.empty(self._shapes, self._num_gates, *sizes)

    def _enter(self, state: SkipState, rows: Tensor, inputs: Tensor) -> None:
        state.write(0, rows, self.network.stem(inputs))

    def _answer(self, state: SkipState, rows: Tensor) -> int:
        top = state.maps[-1].index_select(0, rows)
        state.logits[rows] = self.network.answer(top)
        return self.network.head_macs

    def _pass(
        self, state: SkipState, level: int, rows: Tensor, actions: Tensor
    ) -> Tensor:
        """Take some rows through a block; see `BlockSession._pass`."""
        block = self.network.blocks[level]
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        for iterates in (False,) if block.recurrence is None else (False, True):
            some = ((actions == ITERATE) == iterates).nonzero()[:, 0]
            if len(some) > 0:
                x = state.maps[level].index_select(0, rows[some])
                runs = branch_runs(actions[some])
                factors = self._factors(state, level, rows[some], x, runs)
                scale, channels, looked = factors
                out, own = run_block(block, x, scale, channels, iterates)
                state.write(level + 1, rows[some], out)
                own[0] += looked
                cost[:, some] = own
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


def _freeze(blocks: Sequence[ResidualBlock]) -> list[bool]:
    """Compute the contractions of blocks once; return which of them have one."""
    layers = [block.recurrence for block in blocks]
    for layer in layers:
        if layer is not None:
            layer.freeze()
    return [layer is not None for layer in layers]
