"""A gated network as a session: its gates advise, the actions decide.

A block that is run is multiplied as its gates say, and only its open channels run. A
branch that its gate would have left out, and that runs all the same, counts in full.
Skipping what the gates have shut, and running the rest, is the network itself.

Axes: n rows, m of them chosen, B blocks.
"""

import torch
from torch import Tensor

from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.sessions.checks import check_rows
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.sessions.skip.state import SkipState


class GatedSession(SkipSession):
    """Runs a gated network; see `SkipSession`.

    The gates of a block are found when a row comes to it, and seen: the feature
    ``gate`` is the factor of the next branch, 0 where the gate is shut or no block is
    left.

    Args:
        network: The gated network; the session works on a frozen copy of it.
    """

    network: GatedNetwork

    def __init__(self, network: GatedNetwork) -> None:
        super().__init__(network)
        inner = [block.inner_channels for block in network.blocks]
        has_channels = network.gate_config.channels
        self._num_gates = [1 + num * has_channels for num in inner]
        self.plain_macs += network.gate_macs(0)
        self.feature_layout = {**self.feature_layout, "gate": 1}

    def features(self, state: SkipState, rows: Tensor) -> Tensor:
        """Return what an observer sees; see `NetworkSession.features`."""
        check_rows(rows, len(state.position))
        first = torch.stack([gates[rows, 0] for gates in state.gates], 1)
        gate = (first * self._one_hot(state.position[rows])).sum(1, keepdim=True)
        return torch.cat([super().features(state, rows), gate.nan_to_num(nan=1.0)], 1)

    def _arrive(self, state: SkipState, rows: Tensor) -> Tensor:
        """Find the gates of the next block; return MACs, int64 [m]."""
        macs = torch.zeros_like(rows)
        position = state.position[rows]
        for level in range(self.num_blocks):
            some = (position == level).nonzero()[:, 0]
            if len(some) > 0:
                x = state.maps[level].index_select(0, rows[some])
                state.gates[level][rows[some]] = self._look(level, x)
                macs[some] = self.network.gate_macs(level)
        return macs

    def _factors(
        self, state: SkipState, level: int, rows: Tensor, x: Tensor, runs: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | int]:
        """Return what the gates say; see `SkipSession._factors`."""
        gates = state.gates[level][rows]
        # A row that stands elsewhere is brought past this block in one sweep.
        new = runs & (state.position[rows] != level)
        if bool(new.any()):
            gates[new] = self._look(level, x[new])
        scale = torch.where(gates[:, 0] > 0, gates[:, 0], 1.0) * runs
        channels = gates[:, 1:] if gates.shape[1] > 1 else None
        return scale, channels, new * self.network.gate_macs(level)

    def _look(self, level: int, x: Tensor) -> Tensor:
        """Return the gates of a block's branch and inner channels, [m, G]."""
        gate = self.network.gate(level, x)
        parts = [gate.layer[:, None]]
        return torch.cat(parts if gate.channels is None else [*parts, gate.channels], 1)
