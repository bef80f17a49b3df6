"""A main network as a session, in plain PyTorch: the reference.

Choosing a layer iterates it, to its fixed point or by a portion of iterations; every
layer above it is applied once, from zero, on its new input. So what a row holds depends
on its input and on the *level* of each layer, the portions that it has taken: its
state. A layer that is done already is checked by one iteration and left as it is.

Axes: n rows (one input each), m of them chosen, L layers, D pooled features.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.base import LayerState
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.checks import (
    check_actions,
    check_inputs,
    check_rows,
    check_states,
    check_tokens,
    check_weights,
)
from dynalay_gym.sessions.features import network_features, network_layout
from dynalay_gym.sessions.main_state import LayerBuffer, MainState
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.states import Levels
from dynalay_gym.storage.digest import tensors_digest
from dynalay_gym.utils.device import torch_defaults

Steps = int | Sequence[int]  # most iterations of a solve: of all layers, or of each


class TorchSession:
    """Runs a main network on any device; see `NetworkSession` for the methods.

    Args:
        network: The main network; the session works on a frozen copy of it.
        rtol: Relative tolerance of a solve, above 0; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        iterations_per_action: Iterations of a portion, at least 1; None iterates to
            the fixed point at once.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(
        self,
        network: MainNetwork,
        rtol: float | None = None,
        max_steps: Steps | None = None,
        iterations_per_action: int | None = None,
    ) -> None:
        self.network = copy.deepcopy(network).freeze()
        config = network.config
        self.in_shape = config.in_shape
        self.vocabulary = config.vocabulary
        self.in_dtype = torch.float32
        if config.vocabulary is not None:
            self.in_dtype = torch.int64
            self.encode = partial(config.vocabulary.encode, length=config.in_shape[0])
        self.options: dict[str, Any] = {
            "rtol": config.rtol if rtol is None else rtol,
            "max_steps": config.max_steps if max_steps is None else max_steps,
            "iterations_per_action": iterations_per_action,
        }
        self.costs = CostTable.of(network)
        self.num_layers = network.num_layers
        self.num_classes = config.num_classes
        self.plain_macs = self.costs.plain_pass
        self.device = network.head_norm.weight.device
        self.full_plan: tuple[int, ...] = tuple(range(1, self.num_layers + 1))
        layers = (f"layer {layer}" for layer in self.full_plan)
        self.action_names: tuple[str, ...] = ("stop", *layers)
        widths = [layer.num_features for layer in network.main_layers]
        self.feature_layout: Mapping[str, int] = network_layout(widths)
        self._columns = torch.arange(sum(widths), device=self.device).split(widths)
        most = self.options["max_steps"]
        each = (most,) * self.num_layers if isinstance(most, int) else most
        self.solver = SolverConfig(rtol=self.options["rtol"], max_steps=max(each))
        self._states = states = Levels(each, iterations_per_action, self.device)
        self.next_state, self.same_cost = states.next_state, states.same_cost
        self._in_portions = iterations_per_action is not None

    @torch.no_grad()
    def begin(self, inputs: Tensor) -> MainState:
        """Run the plain pass over images [n, C, H, W]; see `NetworkSession.begin`."""
        layers, widths = self._new_layers(len(inputs)), self._columns
        sizes = len(inputs), sum(map(len, widths)), self.num_classes, self.num_layers
        state = MainState.empty(layers, *sizes, self.device)
        self.restart(state, torch.arange(len(inputs), device=self.device), inputs)
        return state

    @torch.no_grad()
    def restart(self, state: MainState, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass in some rows; see `NetworkSession.restart`."""
        check_rows(rows, len(state.state_id))
        check_inputs(inputs, (len(rows), *self.in_shape), self.in_dtype)
        if self.vocabulary is not None:
            check_tokens(inputs, len(self.vocabulary))
        else:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        # Of the stem only h is used later; y is stored because `read` expects one.
        below = self.network.stem(inputs)
        state.padding[rows] = self.network.padding(inputs)
        state.layers[0].write(
            rows, len(state.state_id), visible=below.y, hidden=below.h
        )
        for layer, module in enumerate(self.network.main_layers, start=1):
            below = module.plain(below, 0)
            state.keep(rows, layer, *self._pooled(layer, below), visible=below.u)
        state.state_id[rows] = 0
        state.residual[rows] = 1.0
        self._answer(state, rows)

    @torch.no_grad()
    def apply(self, state: MainState, rows: Tensor, actions: Tensor) -> StepCost:
        """Iterate one layer per row; see `NetworkSession.apply`."""
        check_rows(rows, len(state.state_id))
        check_actions(actions, len(rows), self.num_layers + 1)
        before = state.state_id[rows]
        target = self._states.reached[before, actions]
        already = self._states.is_done[before, actions]
        if self._in_portions:
            converged = F.pad(self._has_converged(state, rows), (1, 0))
            already = already | converged.gather(1, actions[:, None])[:, 0]
        return self._sweep(state, rows, actions, target, already)

    @torch.no_grad()
    def reach(self, state: MainState, rows: Tensor, state_ids: Tensor) -> StepCost:
        """Bring rows from state 0 to given states; see `FiniteStates.reach`."""
        check_rows(rows, len(state.state_id))
        check_states(state_ids, len(rows), len(self.next_state))
        assert not bool(state.state_id[rows].any()), "rows start in state 0"
        iterated = self._states.level[state_ids] > 0
        lowest = torch.where(iterated.any(1), iterated.int().argmax(1) + 1, 0)
        return self._sweep(state, rows, lowest, state_ids, lowest < 0)  # none is done

    def begin_macs(self, inputs: Tensor) -> Tensor:
        """Return what `begin` takes, int64 [n]; see `NetworkSession`."""
        return self.costs.plain_passes(self.network.padding(inputs))

    def features(self, state: MainState, rows: Tensor) -> Tensor:
        """Return what an observer sees; see `NetworkSession.features`."""
        names = "pooled", "logits", "residual", "state_id"
        pooled, logits, residual, state_id = state.pick(rows, *names)
        iterated = self._states.share.index_select(0, state_id)
        return network_features(pooled, logits, residual, iterated)

    def logits(self, state: MainState, rows: Tensor) -> Tensor:
        """Return the current answers, float32 [m, K]."""
        return state.pick(rows, "logits")[0]

    def useful_actions(self, state: MainState, rows: Tensor) -> Tensor:
        """Return which actions can change something, bool [m, A].

        Where solves are taken in portions, a layer that has converged is left out.
        """
        useful = self._states.useful[state.pick(rows, "state_id")[0]]
        if self._in_portions:
            useful[:, 1:] &= ~self._has_converged(state, rows)
        return useful

    def _has_converged(self, state: MainState, rows: Tensor) -> Tensor:
        """Return which layers no iteration moves any more, bool [m, L]."""
        state_id, residual = state.pick(rows, "state_id", "residual")
        level = self._states.level.index_select(0, state_id)
        return (level > 0) & ~(residual >= self.solver.rtol)  # also if it is NaN

    def state_ids(self, state: MainState) -> Tensor:
        """Return the state of every row, int64 [n]."""
        return state.state_id.clone()

    def maps(self, state: MainState, rows: Tensor) -> dict[str, Tensor]:
        """Return what pictures show of each layer, by name [m, C, H, W]."""
        check_rows(rows, len(state.state_id))
        return {
            f"map/{i}": layer.picture(state.layers[i + 1].read(rows))
            for i, layer in enumerate(self.network.main_layers)
        }

    @torch.no_grad()
    def residual_curves(self, state: MainState, row: int) -> dict[str, list[float]]:
        """Return the residuals of each solve; empty for a plainly applied layer."""
        curves, where = {}, torch.tensor([row], device=self.device)
        level = self._states.level[state.pick(where, "state_id")[0]][0]
        for i, layer in enumerate(self.network.main_layers):
            steps = int(self._states.iterations[i][level[i]])
            held = state.layers[i + 1].read(where)
            solver = replace(self.solver, max_steps=steps)
            curve = layer.residual_curve(held, solver) if steps else []
            curves[self.action_names[i + 1]] = curve
        return curves

    def fingerprint(self) -> str:
        """Return a hash of weights, architecture and solver settings."""
        _, options, weights = self.to_saved()
        text = json.dumps([options, tensors_digest(weights)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; see `Savable.to_saved`."""
        options = {"config": self.network.config.to_dict(), **self.options}
        return "main-network", options, self.network.state_dict()

    @torch_defaults()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        check_weights(weights, self.network.state_dict())
        self.network.load_state_dict(weights)  # which stays frozen

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
            level = self._states.level[target, layer - 1]
            wanted = (level > 0) & (starts | above) & ~(starts & already)
            for chosen, work in (
                (starts & already, self._check),
                (above, self._refresh),
                (wanted, self._iterate),
            ):
                some = chosen.nonzero()[:, 0]
                if len(some) == 0:
                    continue
                own = work(state, rows[some], layer, target[some])
                applied = 1 if work == self._refresh else own[1]
                saved = self.costs.layers[layer - 1].padding
                own[0] -= saved * applied * state.padding[rows[some]]
                cost[:2, some] += own[:2]
                cost[2, some] = torch.maximum(cost[2, some], own[2])
        moved = (lowest > 0).nonzero()[:, 0]
        if len(moved) > 0:
            state.state_id[rows[moved]] = target[moved]
            self._answer(state, rows[moved])
            cost[0, moved] += self.costs.head
        macs, steps, status = cost
        return StepCost(macs, steps, status, already)

    # Each of these works on layer `layer` of some rows, int64 [g], that are brought to
    # states `target`, and returns multiply-adds (as if there were no padding),
    # iterations and status, int64 [3, g].

    def _check(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Tensor:
        """Apply the map once where the layer is done; the state stays as it is."""
        held = state.layers[layer].read(rows)
        result = self.network.main_layers[layer - 1].check(held, self.solver)
        return self._cost(layer, result)

    def _refresh(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Tensor:
        """Apply the layer once, from zero, on its new input."""
        pattern = self._states.pattern[target] % 2 ** (layer - 1)
        below = state.layers[layer - 1].read(rows)
        new = self.network.main_layers[layer - 1].plain(below, pattern)
        state.keep(rows, layer, *self._pooled(layer, new), visible=new.u)
        state.residual[rows, layer - 1] = 1.0
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        cost[0] = self.costs.layers[layer - 1].plain
        return cost

    def _iterate(
        self, state: MainState, rows: Tensor, layer: int, target: Tensor
    ) -> Tensor:
        """Go on with the layer's solve; rows that do the same are solved together."""
        before, after = (
            self._states.iterations[layer - 1][self._states.level[ids, layer - 1]]
            for ids in (state.state_id[rows], target)
        )
        steps, is_new = after - before, before == 0
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        for kind in torch.stack([steps, is_new], 1).unique(dim=0):
            some = ((steps == kind[0]) & (is_new == kind[1])).nonzero()[:, 0]
            solver = replace(self.solver, max_steps=int(kind[0]))
            part, starts = (state, rows[some], layer, target[some]), bool(kind[1])
            cost[:, some] = self._cost(layer, self._solve(*part, solver, starts))
        setup = torch.tensor(self.costs.layers[layer - 1].setup, device=self.device)
        below_iterated = (self._states.pattern[target] << 1) >> (layer - 1) & 1
        cost[0] += setup[below_iterated] * is_new  # layer 1 has none below: 0
        return cost

    def _solve(
        self,
        state: MainState,
        rows: Tensor,
        layer: int,
        target: Tensor,
        solver: SolverConfig,
        starts: bool,
    ) -> SolveResult:
        """Iterate a layer that was applied plainly (`starts`) or iterated before."""
        pattern = self._states.pattern[target] % 2 ** (layer - 1)
        buffer, module = state.layers[layer], self.network.main_layers[layer - 1]
        held = buffer.read_plain(rows) if starts else buffer.read_iterated(rows)
        below = state.layers[layer - 1].read(rows) if starts else held  # not read
        new, result = module.iterate(below, held, pattern, solver)
        injected, plain = (new.x, held.u) if starts else (None, None)
        maps: dict[str, Any] = {"visible": new.y, "hidden": new.h, "injected": injected}
        state.keep(rows, layer, *self._pooled(layer, new), plain=plain, **maps)
        state.residual[rows, layer - 1] = result.residual
        return result

    def _cost(self, layer: int, result: SolveResult) -> Tensor:
        """Return multiply-adds, iterations and status of a solve, int64 [3, g]."""
        macs = result.macs(self.costs.layers[layer - 1].iteration)
        return torch.stack([macs, result.num_steps, result.status])

    def _pooled(self, layer: int, new: LayerState) -> tuple[Tensor, Tensor]:
        """Return a layer's columns of what is pooled, and what goes there."""
        return self._columns[layer - 1], self.network.main_layers[layer - 1].pool(new)

    def _answer(self, state: MainState, rows: Tensor) -> None:
        top = state.pooled[rows[:, None], self._columns[-1]]
        pattern = self._states.pattern[state.state_id[rows]]
        state.logits[rows] = self.network.answer(top, pattern)
