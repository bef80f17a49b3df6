"""A main network's session on a CPU: compiled, row by row.

It does what `TorchSession` does; only rounding differs. Each row is finished before the
next one starts, so no row depends on the others, and threads can share the rows.

Axes: n rows (one input each), m of them acted on, S numbers of a row's memory.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import binding
from torch import Tensor

from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.compiler import code_version
from dynalay_gym.sessions.accel.network import Rows, sweep_rows
from dynalay_gym.sessions.accel.pack import Layout, is_packable, pack
from dynalay_gym.sessions.accel.vectors import Numbers
from dynalay_gym.sessions.checks import check_actions, check_inputs, check_rows
from dynalay_gym.sessions.main_state import LayerBuffer, MainState
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.utils.device import torch_defaults

# A thread costs more than it brings below so many rows or multiply-adds of their plain
# pass.
_ROWS_PER_THREAD, _MACS_PER_THREAD = 4, 2_000_000
_NO_TARGETS = torch.empty(0, dtype=torch.int64, device="cpu")
_NO_IMAGES = np.empty((0, 0), dtype=np.float32)


def applies_to(network: MainNetwork) -> bool:
    """Return whether `CompiledSession` can run a network where it is."""
    weight = network.head_norm.weight
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and not numba.config.DISABLE_JIT and is_packable(network)


@dataclass(frozen=True)
class RowMaps(Sequence[LayerBuffer]):
    """All layers' maps of all rows; item l is a view of layer l's, item 0 is empty.

    Attributes:
        maps: What the compiled functions work on, float32 [n, S].
        layout: What a row of it holds.
    """

    maps: Tensor
    layout: Layout

    def __deepcopy__(self, memo: Any) -> "RowMaps":
        return RowMaps(self.maps.clone(), self.layout)

    def __len__(self) -> int:
        """Return the number of items, L + 1."""
        return len(self.layout.maps)

    def __getitem__(self, layer: Any) -> Any:
        """Return views of a layer's maps."""
        places = self.layout.maps[layer]
        return LayerBuffer(*(place and place.view(self.maps) for place in places))


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
        self._net, self._layout = pack(self.network, self.solver, self.next_state)

    def restart(self, state: MainState, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.state_id))
        check_inputs(inputs, (len(rows), *self.in_shape), self.in_dtype)
        pixels = inputs.detach().permute(0, 2, 3, 1).contiguous().flatten(1)
        self._sweep(state, rows, rows, _NO_TARGETS, rows, pixels.numpy())

    def apply(self, state: MainState, rows: Tensor, actions: Tensor) -> StepCost:
        """Bring one layer per row to its fixed point; see `NetworkSession.apply`."""
        check_rows(rows, len(state.state_id))
        check_actions(actions, len(rows), self.num_layers + 1)
        return self._sweep(state, rows, actions, _NO_TARGETS, actions)

    def fingerprint(self) -> str:
        """Return a hash of weights, settings, kernels and the processor's name."""
        parts = super().fingerprint(), code_version(), binding.get_host_cpu_name()
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @torch_defaults()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        super().load_weights(weights)
        self._net, self._layout = pack(self.network, self.solver, self.next_state)

    def _new_layers(self, num_rows: int) -> RowMaps:
        maps = np.empty((num_rows, self._layout.size), dtype=np.float32)
        return RowMaps(torch.from_numpy(maps), self._layout)

    def _sweep(
        self,
        state: MainState,
        rows: Tensor,
        lowest: Tensor,
        target: Tensor,
        already: Tensor,
        images: Numbers = _NO_IMAGES,
    ) -> StepCost:
        """Run `sweep_rows` over the rows, split among PyTorch's threads; see there.

        Returns:
            The costs. Empty `target`: the transition of `lowest` is used. Non-empty
            `images`: plain pass. `already` is ignored; the kernel computes it.
        """
        layers, m = state.layers, len(rows)
        if not isinstance(layers, RowMaps) or layers.layout != self._layout:
            raise ValueError("the state is not one that this session began")
        parts = layers.maps, state.pooled, state.logits, state.residual, state.state_id
        all_rows = Rows(*(part.numpy() for part in parts))
        asked = [part.contiguous().numpy() for part in (rows, lowest, target)]
        cost = torch.empty((m, 4), dtype=torch.int64, device="cpu")
        per_row = *asked, images, cost.numpy()
        least = max(_ROWS_PER_THREAD, _MACS_PER_THREAD // self.plain_macs)
        threads = min(torch.get_num_threads(), m // least)
        if threads <= 1:
            sweep_rows(self._net, all_rows, *per_row)
        else:
            size = -(-m // (2 * threads))  # rows differ; smaller shares even that out

            def run(first: int) -> None:
                share = (part[first : first + size] for part in per_row)
                sweep_rows(self._net, all_rows, *share)

            list(
                _pool(torch.get_num_threads(), os.getpid()).map(run, range(0, m, size))
            )
        macs, steps, status, already = cost.unbind(1)
        return StepCost(macs, steps, status, already.bool())


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked one does not inherit them."""
    return ThreadPoolExecutor(num_threads, f"dynalay-{process}")
