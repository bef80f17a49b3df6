"""A main network's session on a processor: compiled, row by row.

It does what `TorchSession` does; only roundings differ. A row is taken from end to end
before the next one, so nothing of a row depends on the others, and the processor's
cores share the rows.

Axes: n rows (one input each), m of them acted on, S numbers of a row's memory.
"""

import copy
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import numba
import numpy as np
import torch
from llvmlite import binding
from torch import Tensor

from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.compiler import code_version
from dynalay_gym.sessions.accel.network import sweep_rows
from dynalay_gym.sessions.accel.pack import Layout, is_packable, pack
from dynalay_gym.sessions.accel.vectors import Numbers
from dynalay_gym.sessions.checks import check_inputs, check_rows
from dynalay_gym.sessions.main_state import LayerBuffer, MainState
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.torch_session import TorchSession

# A thread costs more than it brings below so many rows or multiply-adds of their plain
# pass.
_ROWS_OF_A_THREAD, _MACS_OF_A_THREAD = 4, 2_000_000
_NO_IMAGES = np.empty((0, 0), dtype=np.float32)


def applies_to(network: MainNetwork) -> bool:
    """Return whether `CompiledSession` can run a network where it is."""
    on_cpu = network.head.device.type == "cpu" and network.head.dtype == torch.float32
    return on_cpu and not numba.config.DISABLE_JIT and is_packable(network)


@dataclass
class CompiledState(MainState):
    """Main networks in progress, all maps of a row side by side.

    Attributes:
        layers: Views of `maps`; that of the stem is empty.
        maps: What the compiled functions work on, float32 [n, S].
        layout: What a row of it holds.
    """

    layers: list[LayerBuffer] = field(init=False)
    maps: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        """Make the views."""
        self.layers = [LayerBuffer()]
        for layer in self.layout.maps:
            views = [None if place is None else place.view(self.maps) for place in layer]
            self.layers.append(LayerBuffer(*views))

    def clone(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what the views are made of."""
        parts = self.pooled, self.logits, self.state_id, self.residual
        return type(self), (*parts, self.maps, self.layout)


class CompiledSession(TorchSession):
    """Runs a main network on the CPU, float32; see `applies_to`.

    Args:
        network: The main network; the session works on a frozen copy of it.
        rtol: Relative tolerance of a solve, above 0; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
    """

    def __init__(
        self,
        network: MainNetwork,
        rtol: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(network, rtol, max_steps)
        self._net, self._layout = pack(self.network, self.solver)

    def restart(self, state: MainState, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.state_id))
        check_inputs(inputs, (len(rows), *self.network.config.in_shape), torch.float32)
        pixels = inputs.detach().permute(0, 2, 3, 1).contiguous().flatten(1)
        zeros = torch.zeros_like(rows)
        self._run(state, rows, zeros, zeros, zeros.bool(), pixels.numpy())

    def fingerprint(self) -> str:
        """Return a hash of weights, settings, kernels and the processor."""
        parts = super().fingerprint(), code_version(), binding.get_host_cpu_name()
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        super().load_weights(weights)
        self._net, _ = pack(self.network, self.solver)

    def _new_state(self, num_rows: int) -> CompiledState:
        new = super()._new_state(num_rows)
        maps = np.empty((num_rows, self._layout.size), dtype=np.float32)
        parts = new.pooled, new.logits, new.state_id, new.residual
        return CompiledState(*parts, torch.from_numpy(maps), self._layout)

    def _sweep(
        self,
        state: MainState,
        rows: Tensor,
        lowest: Tensor,
        target: Tensor,
        already: Tensor,
    ) -> StepCost:
        return self._run(state, rows, lowest, target, already, _NO_IMAGES)

    def _run(
        self,
        state: MainState,
        rows: Tensor,
        lowest: Tensor,
        target: Tensor,
        already: Tensor,
        images: Numbers,
    ) -> StepCost:
        """Run rows in as many threads as PyTorch may use, and pay."""
        state = self._check_state(state)
        parts = state.maps, state.pooled, state.logits, state.residual, state.state_id
        arrays = [part.numpy() for part in parts]
        asked = [part.contiguous().numpy() for part in (rows, lowest, target, already)]
        cost = torch.empty((3, len(rows)), dtype=torch.int64)
        written = cost.numpy()

        def run(share: slice) -> None:
            some = (part[share] for part in asked)
            sweep_rows(self._net, *arrays, *some, images[share], *written[:, share])

        least = max(_ROWS_OF_A_THREAD, _MACS_OF_A_THREAD // self.plain_macs)
        threads = min(torch.get_num_threads(), len(rows) // least)
        if threads <= 1:
            run(slice(None))
        else:
            # Rows differ in what they take; smaller shares even that out.
            size = -(-len(rows) // (2 * threads))
            shares = [slice(at, at + size) for at in range(0, len(rows), size)]
            list(_pool(torch.get_num_threads(), os.getpid()).map(run, shares))
        return StepCost(cost[0], cost[1], cost[2], already)

    def _check_state(self, state: MainState) -> CompiledState:
        if not isinstance(state, CompiledState) or state.layout != self._layout:
            raise ValueError("the state is not one that this session began")
        return state


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked one does not inherit them."""
    return ThreadPoolExecutor(num_threads, f"dynalay-{process}")
