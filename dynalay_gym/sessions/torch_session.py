"""``LayerSession`` of a ``MainNetwork``.

Axes: n rows (one sample each), m of them acted on, L layers, F pooled features.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.errors import CheckpointError
from dynalay_gym.fixed_point.batch_invariant import put_rows
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.main_layers import LayerState
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.norm import Pattern
from dynalay_gym.sessions.activations import ALL, ActivationStore, Rows, StemStore
from dynalay_gym.sessions.protocol import SessionState, StepCost, tensors_digest
from dynalay_gym.sessions.sweep import TILE, Host, Work, tiles


class TorchSession:
    """Runs a frozen ``MainNetwork``.

    Args:
        model: The main network; it is frozen (evaluation mode, no gradients).
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
    """

    def __init__(
        self,
        model: MainNetwork,
        rtol: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.model = model.freeze()
        self.layers = model.main_layers
        config = model.config
        self.solver = SolverConfig(
            rtol=config.rtol if rtol is None else rtol,
            max_steps=config.max_steps if max_steps is None else max_steps,
        )
        self.num_layers = model.num_layers
        self.num_classes = config.num_classes
        hidden = config.hidden or (0,) * model.num_layers
        self.feature_sizes = tuple(map(sum, zip(config.channels, hidden, strict=True)))
        ends = np.cumsum(self.feature_sizes).tolist()
        self._columns = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.costs = CostTable.of(model)
        self.device = model.head.device

    def begin(self, inputs: Tensor) -> SessionState:
        """Plain pass: every layer applied once, from zero.

        Args:
            inputs: Images [n, C, H, W].

        Returns:
            State of n rows.
        """
        n = len(inputs)
        num_features = sum(self.feature_sizes)
        stem = StemStore(n, unshuffle=self.model.config.unshuffle)
        state = SessionState(
            layers=[stem, *(ActivationStore(n) for _ in self.layers)],
            features=inputs.new_empty(n, num_features),
            logits=inputs.new_empty(n, self.num_classes),
            path=torch.zeros(n, dtype=torch.int64, device=self.device),
            residual=inputs.new_ones(n, self.num_layers),
        )
        self._begin(state, ALL, inputs)
        return state

    def restart(self, state: SessionState, rows: Tensor, inputs: Tensor) -> None:
        """Plain pass over new inputs in some rows of a state.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            inputs: Images [m, C, H, W].
        """
        self._begin(state, rows, inputs)
        state.path.index_fill_(0, rows, 0)
        state.residual.index_fill_(0, rows, 1.0)

    @torch.inference_mode()
    def _begin(self, state: SessionState, rows: Rows, inputs: Tensor) -> None:
        if len(inputs) <= TILE:
            self._begin_tile(state, rows, inputs)
            return
        numbers = torch.arange(len(state.path), device=self.device)[rows]
        for part, images in zip(tiles(numbers), tiles(inputs), strict=True):
            self._begin_tile(state, part, images)

    def _begin_tile(self, state: SessionState, rows: Rows, images: Tensor) -> None:
        last = images.contiguous(memory_format=torch.channels_last)
        is_shared = last.data_ptr() == images.data_ptr()
        images = last.clone() if is_shared and isinstance(rows, slice) else last
        _store(state, 0).put(rows, hidden=images)
        y = self.model.stem_activations(images)
        here = LayerState(y, y)
        for i, layer in enumerate(self.layers):
            here = layer.plain(here, 0)
            _store(state, i + 1).put(rows, visible=here.u)
            features = layer.pool(here)
            _write(state.features[:, self._columns[i]], rows, features)
        _write(state.logits, rows, self.model.answer(features, 0))

    def apply(self, state: SessionState, rows: Tensor, layers: Tensor) -> StepCost:
        """Bring one layer per row to its fixed point and refresh what is above.

        A layer that already sits on its fixed point is checked by one iteration and
        left as it is.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            layers: Chosen layer of each, 1..L, int64 [m]; 0 leaves a row as it is.

        Returns:
            StepCost of the m rows.
        """
        acting = layers.nonzero().flatten()
        if len(acting) < len(layers):
            counts = layers.new_zeros(3, len(layers))
            if len(acting) > 0:
                cost = self.apply(state, rows[acting], layers[acting])
                counts[:, acting] = cost.counts
            return StepCost(counts)
        start = layers.cpu().numpy()
        before = state.path.index_select(0, rows).cpu().numpy()
        bit = 1 << (start - 1)
        again = (before & bit) != 0
        work = Work(rows.cpu().numpy(), start, before & (bit - 1) | bit, again)
        self._sweep(state, work)
        return StepCost(self._index(work.taken))

    def reach(
        self, state: SessionState, rows: Rows, paths: Tensor, *, final: bool = False
    ) -> StepCost:
        """Bring rows from their plain pass to given states, in one sweep.

        What a choice in between would refresh is not run.

        Args:
            state: Changed in place.
            rows: Distinct rows in which nothing is iterated yet, int64 [m] or ``ALL``.
            paths: Which layers shall sit on their fixed point, bit patterns int64 [m].
            final: Whether only answers and costs are wanted; whatever else the state
                says of these rows is void then.

        Returns:
            StepCost of the m rows; zeros where the plain pass is what is asked for.
        """
        assert not bool(state.path[rows].any()), "rows in their plain state"
        target = paths.cpu().numpy()
        where = (
            np.arange(len(target)) if isinstance(rows, slice) else rows.cpu().numpy()
        )
        moving = np.flatnonzero(target)
        target = target[moving]
        start = np.log2(target & -target).astype(np.int64) + 1
        work = Work(where[moving], start, target)
        self._sweep(state, work, final)
        cost = np.zeros((3, len(where)), dtype=np.int64)
        cost[:, moving] = work.taken
        return StepCost(self._index(cost))

    @torch.inference_mode()
    def _sweep(self, state: SessionState, work: Work, final: bool = False) -> None:
        """From the bottom up: per layer, check, refresh and solve the rows that ask.

        Who does what is decided on the host; rows pass in tiles.
        """
        rows = self._index(work.rows)
        residual = state.residual.index_select(0, rows).cpu().numpy()
        for layer in range(1, self.num_layers + 1):
            check, refresh, solve = work.groups(layer)
            for some in tiles(check):
                self._check(state, some, layer, work)
            for some in tiles(refresh):
                self._refresh(state, some, layer, work, final)
            work.macs[refresh] += self.costs.layers[layer - 1].plain
            residual[refresh, layer - 1] = 1.0
            for some in tiles(solve):
                found = self._solve(state, some, layer, work, final)
                residual[some, layer - 1] = found
        put_rows(state.residual, rows, self._index(residual))
        path = self._index(work.target)
        put_rows(state.path, rows, path)
        self._answer(state, rows, path)
        work.macs += self.costs.head

    def residual_curves(self, state: SessionState, row: int) -> list[list[float]]:
        """Residuals along each layer's solve; empty for a plainly applied layer."""
        curves: list[list[float]] = []
        here, path = torch.tensor([row], device=self.device), int(state.path[row])
        for i, layer in enumerate(self.layers):
            activations = state.layers[i + 1].at(here)
            iterated = bool(path >> i & 1)
            curves.append(
                layer.residual_curve(activations, self.solver) if iterated else []
            )
        return curves

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights of the same architecture; states begun before are void.

        Args:
            weights: A ``state_dict`` of a main network, on any device.

        Raises:
            CheckpointError: it belongs to another architecture.
        """
        own = self.model.state_dict()
        if {k: v.shape for k, v in own.items()} != {
            k: v.shape for k, v in weights.items()
        }:  # before anything is copied
            raise CheckpointError(
                "the weights are of another architecture than this environment's "
                "network; give those of a network made from the same checkpoint"
            )
        self.model.load_state_dict(weights)
        self.model.freeze()

    def digest(self) -> str:
        """Hash of weights, architecture and solver settings."""
        about = {"config": self.model.config.to_dict(), "solver": asdict(self.solver)}
        weights = tensors_digest(self.model.state_dict())
        text = json.dumps([weights, about], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _solve(
        self, state: SessionState, some: Host, layer: int, work: Work, final: bool
    ) -> NDArray[np.float32]:
        """Solve the rows at some places; their residuals."""
        where, pattern = self._group(state, some, layer, work)
        below, here = state.layers[layer - 1].at(where), state.layers[layer].at(where)
        new, result = self.layers[layer - 1].iterate(below, here, pattern, self.solver)
        injected = None if final else new.x
        _store(state, layer).put(where, visible=new.y, hidden=new.h, injected=injected)
        self._pool(state, where, layer, new, final)
        macs = self.costs.layers[layer - 1]
        below_iterated = (work.target[some] << 1 >> (layer - 1)) & 1
        work.add(some, np.array(macs.setup)[below_iterated], macs.iteration, result)
        residual: NDArray[np.float32] = result.residual.cpu().numpy()
        return residual

    def _check(self, state: SessionState, some: Host, layer: int, work: Work) -> None:
        here = state.layers[layer].at(self._rows(state, work.rows[some]))
        result = self.layers[layer - 1].check(here, self.solver)
        work.add(some, 0, self.costs.layers[layer - 1].iteration, result)

    def _refresh(
        self, state: SessionState, some: Host, layer: int, work: Work, final: bool
    ) -> None:
        where, pattern = self._group(state, some, layer, work)
        new = self.layers[layer - 1].plain(state.layers[layer - 1].at(where), pattern)
        _store(state, layer).put(where, visible=new.u)
        self._pool(state, where, layer, new, final)

    def _group(
        self, state: SessionState, some: Host, layer: int, work: Work
    ) -> tuple[Rows, Pattern]:
        """Rows at some places, and the pattern of iterated layers below [g]."""
        below = 2 ** (layer - 1) - 1
        pattern = self._index(work.target[some] & below) if below else 0
        return self._rows(state, work.rows[some]), pattern

    def _rows(self, state: SessionState, where: Host) -> Rows:
        """Rows to gather and put, int64 [g]; ``ALL`` if they are, in their order."""
        n = len(state.path)
        if len(where) == n and np.array_equal(where, np.arange(n)):
            return ALL
        return self._index(where)

    def _pool(
        self,
        state: SessionState,
        where: Rows,
        layer: int,
        new: LayerState,
        final: bool = False,
    ) -> None:
        if not final or layer == self.num_layers:
            pooled = self.layers[layer - 1].pool(new)
            _write(state.features[:, self._columns[layer - 1]], where, pooled)

    def _answer(self, state: SessionState, rows: Tensor, path: Tensor) -> None:
        features = state.features[:, self._columns[-1]].index_select(0, rows)
        put_rows(state.logits, rows, self.model.answer(features, path))

    def _index(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _store(state: SessionState, layer: int) -> ActivationStore:
    return cast(ActivationStore, state.layers[layer])


def _write(target: Tensor, rows: Rows, new: Tensor) -> None:
    """Overwrite some rows, or all."""
    if isinstance(rows, slice):
        target.copy_(new)
    else:
        put_rows(target, rows, new)
