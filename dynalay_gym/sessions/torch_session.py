"""A main network as a session, in plain PyTorch: the reference.

Choosing a layer brings it to its fixed point; every layer above it is applied once,
from zero, on its new input. So what a row holds depends on its input and on *which*
layers sit on their fixed point, its state. A layer that sits there already is checked
by one iteration and left as it is.

Axes: n rows (one input each), m of them chosen, L layers, D pooled features.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.errors import CheckpointError
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.main_layers import LayerState
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.checks import (
    check_actions,
    check_inputs,
    check_rows,
    check_states,
)
from dynalay_gym.sessions.features import SOFTMAX_LAYOUT, network_features
from dynalay_gym.sessions.main_state import LayerBuffer, MainState
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.states import layer_levels, layer_states, useful_actions
from dynalay_gym.utils.digest import tensors_digest

Work = tuple[Tensor | int, SolveResult | None]


class TorchSession:
    """Runs a main network on any device; see `NetworkSession` for the methods.

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
        self.network = copy.deepcopy(network).freeze()
        config = network.config
        self.in_shape, self.in_dtype = config.in_shape, torch.float32
        self.solver = SolverConfig(
            rtol=config.rtol if rtol is None else rtol,
            max_steps=config.max_steps if max_steps is None else max_steps,
        )
        self.costs = CostTable.of(network)
        self.num_layers = network.num_layers
        self.num_classes = config.num_classes
        self.plain_macs = self.costs.plain_pass
        self.device = network.head.device
        self.full_plan: tuple[int, ...] = tuple(range(1, self.num_layers + 1))
        names = (f"layer {layer}" for layer in self.full_plan)
        self.action_names: tuple[str, ...] = ("stop", *names)
        hidden = config.hidden or (0,) * self.num_layers
        widths = [sum(pair) for pair in zip(config.channels, hidden, strict=True)]
        layout = {f"activations/{i}": width for i, width in enumerate(widths)}
        layout |= SOFTMAX_LAYOUT
        layout |= dict.fromkeys(("residual", "iterated"), self.num_layers)
        self.feature_layout: Mapping[str, int] = layout
        self._columns = torch.arange(sum(widths), device=self.device).split(widths)
        self.next_state = layer_states(self.num_layers)
        levels = torch.from_numpy(layer_levels(self.num_layers))
        self._iterated = levels.bool().to(self.device)
        self._already = F.pad(self._iterated, (1, 0))  # action 0 finds nothing done
        self._next_state = torch.from_numpy(self.next_state).to(self.device)
        useful = torch.from_numpy(useful_actions(self.next_state))
        self._useful = useful.to(self.device)

    @torch.no_grad()
    def begin(self, inputs: Tensor) -> MainState:
        """Run the plain pass over images [n, C, H, W]; see `NetworkSession.begin`."""
        state = self._new_state(len(inputs))
        self.restart(state, torch.arange(len(inputs), device=self.device), inputs)
        return state

    @torch.no_grad()
    def restart(self, state: MainState, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.state_id))
        check_inputs(inputs, (len(rows), *self.in_shape), self.in_dtype)
        images = inputs.contiguous(memory_format=torch.channels_last)
        # Of the stem only h is used later; y is stored because `read` expects one.
        below = self.network.stem(images)
        state.layers[0].write(
            rows, len(state.state_id), visible=below.y, hidden=below.h
        )
        for layer, module in enumerate(self.network.main_layers, start=1):
            below = module.plain(below, 0)
            self._keep(state, rows, layer, below, visible=below.u)
        state.state_id[rows] = 0
        state.residual[rows] = 1.0
        self._answer(state, rows)

    @torch.no_grad()
    def apply(self, state: MainState, rows: Tensor, actions: Tensor) -> StepCost:
        """Bring one layer per row to its fixed point; see `NetworkSession.apply`."""
        check_rows(rows, len(state.state_id))
        check_actions(actions, len(rows), self.num_layers + 1)
        before = state.state_id[rows]
        target = self._next_state[before, actions]
        already = self._already[before, actions]
        return self._sweep(state, rows, actions, target, already)

    @torch.no_grad()
    def reach(self, state: MainState, rows: Tensor, state_ids: Tensor) -> StepCost:
        """Bring rows from state 0 to given states; see `FiniteStates.reach`."""
        check_rows(rows, len(state.state_id))
        check_states(state_ids, len(rows), len(self.next_state))
        assert not bool(state.state_id[rows].any()), "rows start in state 0"
        iterated = self._iterated[state_ids]
        lowest = torch.where(iterated.any(1), iterated.int().argmax(1) + 1, 0)
        already = torch.zeros_like(lowest, dtype=torch.bool)
        return self._sweep(state, rows, lowest, state_ids, already)

    def features(self, state: MainState, rows: Tensor) -> Tensor:
        """Return what an observer sees; see `NetworkSession.features`."""
        parts = state.pooled, state.logits, state.residual, state.state_id
        picked = [part.index_select(0, rows) for part in parts]
        pooled, logits, residual, state_id = picked
        iterated = self._iterated.index_select(0, state_id)
        return network_features(pooled, logits, residual, iterated)

    def logits(self, state: MainState, rows: Tensor) -> Tensor:
        """Return the current answers, float32 [m, K]."""
        return state.logits.index_select(0, rows)

    def useful_actions(self, state: MainState, rows: Tensor) -> Tensor:
        """Return which actions can change something, bool [m, A]."""
        return self._useful.index_select(0, state.state_id.index_select(0, rows))

    def state_ids(self, state: MainState) -> Tensor:
        """Return the state of every row, int64 [n]."""
        return state.state_id.clone()

    def maps(self, state: MainState, rows: Tensor) -> dict[str, Tensor]:
        """Return the visible activations of each layer, by name [m, C, H, W]."""
        layers = range(self.num_layers)
        return {f"map/{i}": state.layers[i + 1].read(rows).y for i in layers}

    @torch.no_grad()
    def residual_curves(self, state: MainState, row: int) -> dict[str, list[float]]:
        """Return the residuals of each solve; empty for a plainly applied layer."""
        curves, where = {}, torch.tensor([row], device=self.device)
        iterated = self._iterated[state.state_id[row]].tolist()
        for i, layer in enumerate(self.network.main_layers):
            held = state.layers[i + 1].read(where)
            curve = layer.residual_curve(held, self.solver) if iterated[i] else []
            curves[self.action_names[i + 1]] = curve
        return curves

    def fingerprint(self) -> str:
        """Return a hash of weights, architecture and solver settings."""
        about = {"config": self.network.config.to_dict(), "solver": asdict(self.solver)}
        weights = tensors_digest(self.network.state_dict())
        text = json.dumps([weights, about], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; see `Savable.to_saved`."""
        options = {
            "config": self.network.config.to_dict(),
            "rtol": self.solver.rtol,
            "max_steps": self.solver.max_steps,
        }
        return "main-network", options, self.network.state_dict()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        own = self.network.state_dict()
        shapes, given = ({k: v.shape for k, v in w.items()} for w in (own, weights))
        if shapes != given:
            raise CheckpointError(
                "the weights are of another architecture than this environment's "
                "network; give those of a network made from the same checkpoint"
            )
        self.network.load_state_dict(weights)
        self.network.freeze()

    def _new_state(self, num_rows: int) -> MainState:
        """Return memory for some rows."""
        n, device = num_rows, self.device
        return MainState(
            layers=self._new_layers(n),
            pooled=torch.zeros(n, sum(map(len, self._columns)), device=device),
            logits=torch.zeros(n, self.num_classes, device=device),
            state_id=torch.zeros(n, dtype=torch.int64, device=device),
            residual=torch.ones(n, self.num_layers, device=device),
        )

    def _new_layers(self, num_rows: int) -> Sequence[LayerBuffer]:
        return [LayerBuffer() for _ in range(self.num_layers + 1)]

    def _sweep(
        self,
        state: MainState,
        rows: Tensor,
        lowest: Tensor,
        target: Tensor,
        already: Tensor,
    ) -> StepCost:
        """Go through the layers bottom up: check, refresh or solve what each row asks.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            lowest: Lowest layer that each row works on, int64 [m]; 0 for none.
            target: State that each row is brought to, int64 [m].
            already: Whether the lowest layer is checked only, bool [m].
        """
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        for layer in range(1, self.num_layers + 1):
            starts, above = lowest == layer, (lowest > 0) & (lowest < layer)
            wanted = self._iterated[target, layer - 1] & (starts | above)
            for chosen, work in (
                (starts & already, self._check),
                (above, self._refresh),
                (wanted & ~(starts & already), self._solve),
            ):
                some = chosen.nonzero()[:, 0]
                if len(some) == 0:
                    continue
                macs, result = work(state, rows[some], layer, target[some])
                cost[0, some] += macs
                if result is not None:
                    iteration = self.costs.layers[layer - 1].iteration
                    cost[0, some] += iteration * result.num_steps
                    cost[1, some] += result.num_steps
                    cost[2, some] = torch.maximum(cost[2, some], result.status)
        moved = (lowest > 0).nonzero()[:, 0]
        if len(moved) > 0:
            state.state_id[rows[moved]] = target[moved]
            self._answer(state, rows[moved])
            cost[0, moved] += self.costs.head
        macs, steps, status = cost
        return StepCost(macs, steps, status, already)

    # Each of these works on layer `layer` of some rows, int64 [g], that are brought to
    # states `target`, and returns multiply-adds (iterations apart) and a solve, if any.

    def _check(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Work:
        """Apply the map once at the fixed point; the state stays as it is."""
        held = state.layers[layer].read(rows)
        return 0, self.network.main_layers[layer - 1].check(held, self.solver)

    def _refresh(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Work:
        """Apply the layer once, from zero, on its new input."""
        pattern = target % 2 ** (layer - 1)
        below = state.layers[layer - 1].read(rows)
        new = self.network.main_layers[layer - 1].plain(below, pattern)
        self._keep(state, rows, layer, new, visible=new.u)
        state.residual[rows, layer - 1] = 1.0
        return self.costs.layers[layer - 1].plain, None

    def _solve(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Work:
        """Bring the layer, plainly applied so far, to its fixed point."""
        pattern = target % 2 ** (layer - 1)
        below, held = (state.layers[i].read(rows) for i in (layer - 1, layer))
        module = self.network.main_layers[layer - 1]
        new, result = module.iterate(below, held, pattern, self.solver)
        maps = {"visible": new.y, "hidden": new.h, "injected": new.x}
        self._keep(state, rows, layer, new, **maps)
        state.residual[rows, layer - 1] = result.residual
        setup = torch.tensor(self.costs.layers[layer - 1].setup, device=self.device)
        below_iterated = (target << 1) >> (layer - 1) & 1  # 0 below layer 1
        return setup[below_iterated], result

    def _keep(
        self,
        state: MainState,
        rows: Tensor,
        layer: int,
        new: LayerState,
        **maps: Tensor | None,
    ) -> None:
        """Write a layer's maps and their global averages."""
        state.layers[layer].write(rows, len(state.state_id), **maps)
        pooled = self.network.main_layers[layer - 1].pool(new)
        state.pooled[rows[:, None], self._columns[layer - 1]] = pooled

    def _answer(self, state: MainState, rows: Tensor) -> None:
        top = state.pooled[rows[:, None], self._columns[-1]]
        state.logits[rows] = self.network.answer(top, state.state_id[rows])
