"""``LayerSession`` of a ``MainNetwork`` on a processor: compiled, row by row.

It does what ``TorchSession`` does; only roundings differ. A row's program runs from
end to end before the next one's, so nothing of a row depends on the others, and the
processors' cores share the rows.

Axes: n rows (one sample each), m of them acted on, L layers, S numbers of a row's maps.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.networks.main_layers import LayerState
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel import network
from dynalay_gym.sessions.accel.pack import Place, is_packable, pack
from dynalay_gym.sessions.activations import Rows
from dynalay_gym.sessions.protocol import SessionState, StepCost, row_numbers
from dynalay_gym.sessions.sweep import Host
from dynalay_gym.sessions.torch_session import TorchSession

# A thread costs more than it brings below so many rows or multiply-adds of their plain
# pass.
_ROWS_OF_A_THREAD, _MACS_OF_A_THREAD = 4, 2_000_000


Kernel = Callable[..., None]


@dataclass(frozen=True)
class MapViews:
    """One layer's maps in the memory of all rows.

    Attributes:
        maps: Memory of every row [n, S]; its image first.
        place: Where the layer's maps are.
        unshuffle: Factor that makes a hidden stream of the image below layer 1; 0 of a
            layer.
    """

    maps: Tensor
    place: Place
    unshuffle: int = 0

    def clone(self) -> "MapViews":
        """Independent copy."""
        return replace(self, maps=self.maps.clone())

    @property
    def y(self) -> Tensor:
        """Visible activations of all rows [n, C, H, W]."""
        return torch.relu(self._view(self.place.visible, self.place.shape))

    def at(self, rows: Rows) -> LayerState:
        """Some rows, int64 [m], or all (a slice); copies."""
        visible, hidden, injected = (
            self._view(at, shape)[rows].clone()
            for at, shape in (
                (self.place.visible, self.place.shape),
                (self.place.hidden, self.place.hidden_shape),
                (self.place.injected, self.place.hidden_shape),
            )
        )
        if self.unshuffle:
            hidden = F.pixel_unshuffle(hidden, self.unshuffle)
        return LayerState(torch.relu(visible), visible, hidden, injected)

    def _view(self, at: int, shape: tuple[int, int]) -> Tensor:
        side, channels = shape
        numbers = self.maps[:, at : at + side * side * channels]
        return numbers.view(-1, side, side, channels).permute(0, 3, 1, 2)


@dataclass
class CompiledState(SessionState):
    """Networks in progress whose maps stand side by side.

    Attributes:
        maps: Memory of every row [n, S].
        layers: Views of it.
    """

    layers: Sequence[MapViews]
    maps: Tensor

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What the compiled functions change: the same memory."""
        parts = self.maps, self.features, self.logits, self.residual, self.path
        return tuple(part.numpy() for part in parts)

    def __getstate__(self) -> dict[str, Any]:
        """All but the arrays: those of a copy are made anew, in its own memory."""
        return {k: v for k, v in vars(self).items() if k != "arrays"}

    def clone(self) -> "CompiledState":
        """Independent copy."""
        maps = self.maps.clone()
        return CompiledState(
            layers=[replace(layer, maps=maps) for layer in self.layers],
            features=self.features.clone(),
            logits=self.logits.clone(),
            path=self.path.clone(),
            residual=self.residual.clone(),
            maps=maps,
        )


class CompiledSession(TorchSession):
    """Runs a frozen ``MainNetwork`` on the CPU.

    Args:
        model: The main network, float32; it is frozen (evaluation mode, no gradients).
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
    """

    def __init__(
        self,
        model: MainNetwork,
        rtol: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(model, rtol, max_steps)
        self._packed: object = None
        self._pack()

    def _pack(self) -> None:
        """Pack the weights, unless they are those of the last time it was frozen."""
        frozen = self.model._kept
        if frozen is None or frozen is not self._packed:
            self._net, self._places, self._size = pack(self.model, self.solver)
            self._packed = frozen

    def begin(self, inputs: Tensor) -> SessionState:
        """Plain pass: every layer applied once, from zero.

        Args:
            inputs: Images [n, C, H, W].

        Returns:
            State of n rows.
        """
        n, config = len(inputs), self.model.config
        # Memory of NumPy's that nobody has touched yet takes no time.
        maps = torch.from_numpy(np.zeros((n, self._size), dtype=np.float32))
        image = Place(0, 0, 0, *[(config.in_shape[1], config.in_shape[0])] * 2)
        state = CompiledState(
            layers=[
                MapViews(maps, image, config.unshuffle),
                *(MapViews(maps, place) for place in self._places),
            ],
            features=torch.empty(n, sum(self.feature_sizes)),
            logits=torch.empty(n, self.num_classes),
            path=torch.empty(n, dtype=torch.int64),
            residual=torch.empty(n, self.num_layers),
            maps=maps,
        )
        self._begin(state, slice(None), inputs)
        return state

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights of the same architecture; states begun before are void."""
        super().set_weights(weights)
        self._pack()

    def apply(self, state: SessionState, rows: Tensor, layers: Tensor) -> StepCost:
        """Bring one layer per row to its fixed point and refresh what is above.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            layers: Chosen layer of each, 1..L, int64 [m]; 0 leaves a row as it is.

        Returns:
            StepCost of the m rows.
        """
        _check(layers, self.num_layers, "layers")
        return self._bring(state, rows.numpy(), layers.numpy(), are_layers=True)

    def reach(
        self, state: SessionState, rows: Rows, paths: Tensor, *, final: bool = False
    ) -> StepCost:
        """Bring rows from their plain pass to given states; see ``TorchSession``.

        Args:
            state: Changed in place.
            rows: Rows in which nothing is iterated yet, int64 [m] or ``ALL``.
            paths: Bit patterns of the states, int64 [m].
            final: Nothing is saved by it here.

        Returns:
            StepCost of the m rows; zeros where the plain pass is what is asked for.
        """
        _check(paths, 2**self.num_layers - 1, "states")
        where = row_numbers(state, rows)
        assert not state.path.numpy()[where].any(), "rows in their plain state"
        return self._bring(state, where, paths.numpy(), are_layers=False)

    def restart(self, state: SessionState, rows: Tensor, inputs: Tensor) -> None:
        """Plain pass over new inputs in some rows of a state.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            inputs: Images [m, C, H, W].
        """
        self._begin(state, rows, inputs)

    def _begin(self, state: SessionState, rows: Rows, inputs: Tensor) -> None:
        arrays, where = _arrays(state), row_numbers(state, rows)
        expected = len(where), *self.model.config.in_shape
        if tuple(inputs.shape) != expected or inputs.dtype != torch.float32:
            raise ValueError(
                f"images must be float32 of shape {expected}, not {inputs.dtype} of "
                f"shape {tuple(inputs.shape)}"
            )
        pixels = inputs.detach().permute(0, 2, 3, 1).flatten(1).numpy()
        images = np.ascontiguousarray(pixels)
        self._pack()
        kernel: Kernel = network.begin

        def run(some: slice) -> None:
            kernel(self._net, *arrays, where[some], images[some])

        self._share(run, len(where))

    def _share(self, run: Callable[[slice], None], num_rows: int) -> None:
        """Run rows in as many threads as PyTorch may use, and pay."""
        least = max(_ROWS_OF_A_THREAD, _MACS_OF_A_THREAD // self.costs.plain_pass)
        threads = min(torch.get_num_threads(), num_rows // least)
        if threads <= 1:
            run(slice(None))
            return
        # Rows differ in what they take; smaller shares even that out.
        size = -(-num_rows // (2 * threads))
        shares = [slice(at, at + size) for at in range(0, num_rows, size)]
        list(_pool(torch.get_num_threads(), os.getpid()).map(run, shares))

    def _bring(
        self, state: SessionState, rows: Host, goals: Host, *, are_layers: bool
    ) -> StepCost:
        """Bring rows to layers or states [m]; see ``network.bring``."""
        arrays, cost = _arrays(state), np.empty((3, len(rows)), dtype=np.int64)
        kernel: Kernel = network.bring

        def run(some: slice) -> None:
            parts = rows[some], goals[some], are_layers
            kernel(self._net, *arrays, *parts, *cost[:, some])

        self._share(run, len(rows))
        return StepCost(torch.from_numpy(cost))


def fastest_session(
    model: MainNetwork, rtol: float | None = None, max_steps: int | None = None
) -> TorchSession:
    """The fastest session of a network where it is; arguments as there."""
    is_here = model.head.device.type == "cpu" and model.head.dtype == torch.float32
    session = CompiledSession if is_here and is_packable(model) else TorchSession
    return session(model, rtol, max_steps)


def _check(numbers: Tensor, most: int, what: str) -> None:
    """Compiled functions do not look where an index leads; so it is looked at here."""
    # A negative number is a huge one without its sign.
    if numbers.numpy().view(np.uint64).max(initial=0) > most:
        raise ValueError(f"{what} must lie in 0..{most}, not {numbers.tolist()}")


def _arrays(state: SessionState) -> tuple[NDArray[Any], ...]:
    assert isinstance(state, CompiledState), "a state that this session began"
    return state.arrays


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one does not inherit its parent's."""
    return ThreadPoolExecutor(num_threads, f"dynalay-{process}")
