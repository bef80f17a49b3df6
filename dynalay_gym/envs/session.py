"""A batched network run as a state machine; no Gymnasium.

Axes: n rows (one sample each), L layers, K classes, F pooled features.
A row's state depends only on *which* layers sit on their fixed point: choosing layer l
brings it there, and everything above is applied plainly, from zero, on its new input.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from dynalay_gym.errors import CheckpointError
from dynalay_gym.models.costs import CostTable
from dynalay_gym.models.fixed_point import SolveResult
from dynalay_gym.models.implicit import SolverConfig
from dynalay_gym.models.main_layers import LayerState
from dynalay_gym.models.main_model import MainModel, pool

ALL = slice(None)
Rows = Tensor | slice  # distinct rows, int64 [m], or ``ALL`` of them


@dataclass
class SessionState:
    """Networks in progress, one per row.

    Attributes:
        layers: Activations below layer 1 (the stem's), then of layers 1..L.
        features: Pooled activations per layer, [n, F_l].
        logits: Current answer [n, K].
        iterated: Whether a layer sits on its fixed point, bool [n, L].
        residual: Relative residual of its last solve, float [n, L]; 1 if only plain.
    """

    layers: list[LayerState]
    features: list[Tensor]
    logits: Tensor
    iterated: Tensor
    residual: Tensor

    def put(self, rows: Tensor, other: "SessionState") -> None:
        """Overwrite rows (int64 [m]) by the m rows of another state."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            put_rows(mine, rows, theirs)
        for mine_f, theirs_f in zip(self.features, other.features, strict=True):
            mine_f[rows] = theirs_f
        self.logits[rows] = other.logits
        self.iterated[rows] = other.iterated
        self.residual[rows] = other.residual

    def summary(self, rows: Tensor) -> "SessionState":
        """What an observer reads of some rows (int64 [m]): all but the maps."""
        return SessionState(
            layers=[],
            features=[features[rows] for features in self.features],
            logits=self.logits[rows],
            iterated=self.iterated[rows],
            residual=self.residual[rows],
        )


@dataclass(frozen=True)
class StepCost:
    """What a choice took, per chosen row.

    Attributes:
        macs: Multiply-adds executed, int64 [m].
        solver_steps: Iterations taken, int64 [m].
        status: ``SolverStatus`` values, int64 [m].
    """

    macs: Tensor
    solver_steps: Tensor
    status: Tensor


class LayerSession(Protocol):
    """All that an environment asks of a network."""

    num_layers: int
    num_classes: int
    feature_sizes: tuple[int, ...]
    costs: CostTable
    device: torch.device
    solver: SolverConfig

    def begin(self, inputs: Tensor) -> SessionState:
        """Plain pass over new inputs."""

    def apply(self, state: SessionState, rows: Tensor, layers: Tensor) -> StepCost:
        """Bring layer ``layers[i]`` of row ``rows[i]`` to its fixed point."""

    def residual_curves(self, state: SessionState, row: int) -> list[list[float]]:
        """Residuals along each layer's solve; empty for a plainly applied layer."""

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; states begun before are void."""

    def digest(self) -> str:
        """Hash of the network and its solver: equal ones do the same."""


class MainModelSession:
    """Runs a frozen ``MainModel``.

    Args:
        model: The main network; it is frozen (evaluation mode, no gradients).
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
    """

    def __init__(
        self,
        model: MainModel,
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
        self.costs = CostTable.of(model)
        self.device = model.head.device
        self._bits = 2 ** torch.arange(model.num_layers, device=self.device)

    @torch.no_grad()
    def begin(self, inputs: Tensor) -> SessionState:
        """Plain pass: every layer applied once, from zero.

        Args:
            inputs: Images [n, C, H, W].

        Returns:
            State of n rows.
        """
        n = len(inputs)
        state = self.model.stem(inputs)
        layers, nothing = [own_memory(state)], inputs.new_zeros(n, dtype=torch.int64)
        for layer in self.layers:
            state = layer.plain(state, nothing)
            layers.append(own_memory(state))
        return SessionState(
            layers=layers,
            features=[pool(state) for state in layers[1:]],
            logits=self.model.classify(state, nothing),
            iterated=torch.zeros(
                n, self.num_layers, dtype=torch.bool, device=self.device
            ),
            residual=torch.ones(n, self.num_layers, device=self.device),
        )

    @torch.no_grad()
    def apply(self, state: SessionState, rows: Tensor, layers: Tensor) -> StepCost:
        """Bring one layer per row to its fixed point and refresh what is above.

        One sweep from the bottom up: at each layer the rows that chose it are solved
        and the rows that chose a lower one get one plain application. A layer that
        already sits on its fixed point is checked by one iteration and left as it is.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            layers: Chosen layer of each, 1..L, int64 [m].

        Returns:
            StepCost of the m rows.
        """
        macs = torch.zeros_like(layers)
        steps, status = torch.zeros_like(layers), torch.zeros_like(layers)
        for layer in range(1, self.num_layers + 1):
            chosen = (layers == layer).nonzero().flatten()
            if chosen.numel() > 0:
                here = rows[chosen]
                again = state.iterated[here, layer - 1]
                taken, status[chosen] = self._choose(state, here, layer, again)
                below = self._below_iterated(state, here, layer)
                macs[chosen] = self.costs.choice(layer, below, again, taken)
                steps[chosen] = taken
            self._refresh(state, rows[layers < layer], layer)
        self._answer(state, rows)
        return StepCost(macs, steps, status)

    def residual_curves(self, state: SessionState, row: int) -> list[list[float]]:
        """Residuals along each layer's solve; empty for a plainly applied layer."""
        curves: list[list[float]] = []
        for i, layer in enumerate(self.layers):
            here = take_rows(state.layers[i + 1], torch.tensor([row]))
            iterated = bool(state.iterated[row, i])
            curves.append(layer.residual_curve(here, self.solver) if iterated else [])
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

    def _choose(
        self, state: SessionState, rows: Tensor, layer: int, again: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve the rows that sit elsewhere, check the others: steps and status."""
        num_steps, status = torch.zeros_like(rows), torch.zeros_like(rows)
        for checking, part in ((False, ~again), (True, again)):
            some = rows[part]
            if some.numel() == 0:
                continue
            here = take_rows(state.layers[layer], some)
            if checking:
                result = self.layers[layer - 1].check(here, self.solver)
            else:
                result = self._solve(state, some, layer, here)
            num_steps[part], status[part] = result.num_steps, result.status
        return num_steps, status

    def _solve(
        self, state: SessionState, rows: Tensor, layer: int, here: LayerState
    ) -> SolveResult:
        below = take_rows(state.layers[layer - 1], rows)
        pattern = self._pattern(state, rows, layer - 1)
        module = self.layers[layer - 1]
        new, result = module.iterate(below, here, pattern, self.solver)
        put_rows(state.layers[layer], rows, new)
        state.features[layer - 1][rows] = pool(new)
        state.iterated[rows, layer - 1] = True
        state.residual[rows, layer - 1] = result.residual
        return result

    def _refresh(self, state: SessionState, rows: Tensor, layer: int) -> None:
        if rows.numel() == 0:
            return
        below = take_rows(state.layers[layer - 1], rows)
        new = self.layers[layer - 1].plain(below, self._pattern(state, rows, layer - 1))
        put_rows(state.layers[layer], rows, new)
        state.features[layer - 1][rows] = pool(new)
        state.iterated[rows, layer - 1] = False
        state.residual[rows, layer - 1] = 1.0

    def _answer(self, state: SessionState, rows: Tensor) -> None:
        top = take_rows(state.layers[-1], rows)
        path = self._pattern(state, rows, self.num_layers)
        state.logits[rows] = self.model.classify(top, path)

    def _pattern(self, state: SessionState, rows: Tensor, count: int) -> Tensor:
        """Bit pattern int64 [m] of the lowest ``count`` layers."""
        return (state.iterated[rows, :count] * self._bits[:count]).sum(1)

    @staticmethod
    def _below_iterated(state: SessionState, rows: Tensor, layer: int) -> Tensor:
        if layer == 1:
            return torch.zeros_like(rows, dtype=torch.bool)
        return state.iterated[rows, layer - 2]


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 of named tensors: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def own_memory(state: LayerState) -> LayerState:
    """Give every part memory of its own, so that rows can be written."""
    return LayerState(
        *(part.clone(memory_format=torch.contiguous_format) for part in state)
    )


def take_rows(state: LayerState, rows: Tensor) -> LayerState:
    """Gather rows (int64 [m]) of a layer's state."""
    return LayerState(*(part.index_select(0, rows) for part in state))


def put_rows(state: LayerState, rows: Tensor, new: LayerState) -> None:
    """Scatter m new rows into a layer's state."""
    for part, new_part in zip(state, new, strict=True):
        part.index_copy_(0, rows, new_part)
