"""The parts of a main network: what it begins with, and what its actions do.

An action on layer l is `Start`, as many times `Iteration` as it takes, and `Finish`,
which reads the layer and applies those above it once. In between, all that is known of
an input is its state: what is `held` of the layers, and `COMMON`.

Axes: n images [n, C, H, W], L layers, S states, A actions, K classes.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.networks.layers.base import LayerState, MainLayer
from dynalay_gym.networks.layers.norm import Pattern
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.parts.decisions import Observe, PlainPass
from dynalay_gym.predictor.parts.held import (
    Shapes,
    from_held,
    held_names,
    held_shapes,
    to_held,
)
from dynalay_gym.predictor.parts.part import Part, example, integers
from dynalay_gym.predictor.parts.solves import Iteration, StaticSolve
from dynalay_gym.sessions.features import network_features
from dynalay_gym.sessions.torch_session import TorchSession

# The number of the automaton's state; what is pooled of the layers, and the residuals
# of their last solves; the answer, what is seen of it, and what can change it.
COMMON = ("state_id", "pooled", "residuals", "logits", "features", "useful")
_SOLVE = ("x", "z", "residual")


class Sweep(nn.Module):
    """The upper layers applied once, then the answer: how every action ends.

    Args:
        session: The network, on the CPU.
        first: Lowest layer that is applied, from 1; L + 1 for none.
        shapes: What a state holds of the layers.
    """

    def __init__(self, session: TorchSession, first: int, shapes: Shapes) -> None:
        super().__init__()
        self.first, self.shapes = first, shapes
        self.layers = session.network.layers[first - 1 :]
        self.head = copy.deepcopy(session.network)
        self.head.layers = nn.ModuleList()  # no file holds what it does not run
        self.states, self.rtol = session.states, session.options["rtol"]
        self.in_portions = session.options["iterations_per_action"] is not None

    def forward(
        self,
        below: LayerState,
        state_id: Tensor,
        pattern: Pattern,
        pooled: list[Tensor],
        residuals: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return the new part of a state.

        Args:
            below: The layer below the first one.
            state_id: The states that are reached, int64 [n].
            pattern: Which layers are iterated there.
            pooled: What is pooled of each layer below, [n, F].
            residuals: The residual of each layer below, [n].
        """
        found = dict[str, Tensor]()
        for number, layer in enumerate(self.layers, start=self.first):
            layer = cast(MainLayer, layer)
            below = layer.plain(below, pattern % 2 ** (number - 1))
            found |= to_held(number, below, self.shapes)
            pooled = [*pooled, layer.pool(below)]
            residuals = [*residuals, torch.ones_like(below.y[:, 0, 0, 0])]
        logits = self.head.answer(pooled[-1], pattern)
        known = state_id, torch.cat(pooled, 1), torch.stack(residuals, 1), logits
        return found | dict(zip(COMMON, (*known, *self._seen(*known)), strict=True))

    def _seen(
        self, state_id: Tensor, pooled: Tensor, residuals: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return features and useful actions; see `TorchSession`."""
        useful, share = self.states.useful[state_id], self.states.share[state_id]
        if self.in_portions:
            converged = (share > 0) & ~(residuals >= self.rtol)
            useful = useful & ~F.pad(converged, (1, 0))
        return network_features(pooled, logits, residuals, share), useful


class Begin(nn.Module):
    """The plain pass: a whole state, by the names of `results`.

    Args:
        session: The network, on the CPU.
        shapes: What a state holds of the layers.
    """

    def __init__(self, session: TorchSession, shapes: Shapes) -> None:
        super().__init__()
        self.network, self.sweep = session.network, Sweep(session, 1, shapes)
        self.results = (*shapes, *COMMON)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run over images [n, C, H, W]."""
        below = self.network.stem(images)
        start = torch.zeros(images.shape[0], dtype=torch.int64)
        found = to_held(0, below, self.sweep.shapes)
        found |= self.sweep(below, start, 0, [], [])
        return tuple(found[name] for name in self.results)


class Start(nn.Module):
    """What an action on a layer iterates, from where, and how often at most.

    It takes what `names` names, and returns `results`.

    Args:
        session: The network, on the CPU.
        number: Number l of the layer, from 1.
        shapes: What a state holds of the layers.
    """

    results = (*_SOLVE, "steps")

    def __init__(self, session: TorchSession, number: int, shapes: Shapes) -> None:
        super().__init__()
        self.layer, self.number = _standing(session.network, number), number
        held = held_names(number - 1, shapes) + held_names(number, shapes)
        self.names = (*held, "state_id", "residuals")
        self.solver, self.states = session.solver, session.states
        level = session.states.level[:, number - 1]
        taken = session.states.iterations[number - 1][level]  # in every state
        self.steps = taken[session.states.reached[:, number]] - taken

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return injected inputs and first iterates [n, ...], residuals and steps [n].

        A layer that is done takes no step.
        """
        held, place = dict(zip(self.names, tensors, strict=True)), self.number - 1
        below, own = from_held(place, held), from_held(self.number, held)
        state_id, residual = held["state_id"], held["residuals"][:, place]
        pattern = self.states.pattern[state_id] % 2**place
        plain = LayerState(own.y, own.u)
        fresh, begun = self.layer.iterate(below, plain, pattern, self.solver)
        assert own.x is not None and fresh.x is not None, "it is iterated"
        goes_on = self.states.level[state_id, place] > 0
        rows = goes_on[:, None, None, None]
        x, z = torch.where(rows, own.x, fresh.x), torch.where(rows, own.z, begun.value)
        is_done = goes_on & ~(residual >= self.solver.rtol)
        return x, z, residual.clone(), self.steps[state_id] * ~is_done


class Finish(nn.Module):
    """What is made of the iterates: the layer, those above it, and the answer.

    It takes what `names` names, and returns `results`.

    Args:
        session: The network, on the CPU.
        number: Number l of the layer, from 1.
        shapes: What a state holds of the layers.
    """

    def __init__(self, session: TorchSession, number: int, shapes: Shapes) -> None:
        super().__init__()
        self.layer, self.number = _standing(session.network, number), number
        self.sweep = Sweep(session, number + 1, shapes)
        self.names = (f"u{number}", *_SOLVE, *COMMON[:3])
        above = range(number, session.num_layers + 1)
        held = [name for each in above for name in held_names(each, shapes)]
        self.results = (*held, *COMMON)
        self.solver, self.widths = session.solver, _widths(session.network)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the state of the layer and of those above it."""
        u, x, z, residual, state_id, pooled, residuals = tensors
        place, shapes, states = self.number - 1, self.sweep.shapes, self.sweep.states
        reached = states.reached[state_id, self.number]
        pattern = states.pattern[reached]
        held = LayerState(z, u, z if f"h{self.number}" in shapes else None, x)
        new, _ = self.layer.iterate(held, held, pattern % 2**place, self.solver)
        lower = [*pooled.split(self.widths, 1)[:place], self.layer.pool(new)]
        known = [*residuals.unbind(1)[:place], residual]
        found = self.sweep(new, reached, pattern, lower, known)
        found |= to_held(self.number, new, shapes)
        return tuple(found[name] for name in self.results)


def main_parts(session: TorchSession, observe: Observe) -> list[Part]:
    """Return the parts of a main network.

    Args:
        session: The network, on the CPU; none that reads texts.
        observe: What a policy sees.
    """
    network, shapes = session.network, held_shapes(session.network)
    images = {"images": example(*network.config.in_shape)}
    begin = Begin(session, shapes)
    plain = PlainPass(begin, begin.results, observe)
    parts = [
        Part("plain", plain, {**images, "penalty": example()}, PlainPass.results),
        Part("begin", begin, images, begin.results),
    ]
    known: dict[str, Tensor] = {
        **{name: example(*shape) for name, shape in shapes.items()},
        "state_id": integers(),
        "pooled": example(sum(_widths(network))),
        "residuals": example(session.num_layers),
        "residual": example(),
    }
    for number, layer in enumerate(network.main_layers, start=1):
        recurrence: Any = layer.recurrence
        known["z"] = example(*recurrence.state_shape)
        known["x"] = example(*shapes[f"x{number}"])
        start, finish = (kind(session, number, shapes) for kind in (Start, Finish))
        once = Iteration(recurrence), ("z", "x"), ("z", "residual")
        parts += [
            _part(f"start-{number}", start, start.names, start.results, known),
            _part(f"iteration-{number}", *once, known),
            _part(f"finish-{number}", finish, finish.names, finish.results, known),
        ]
    return parts


def _standing(network: MainNetwork, number: int) -> MainLayer:
    """Return a copy of a layer whose solves return what they start from."""
    layer = copy.deepcopy(network.main_layers[number - 1])
    recurrence: Any = layer.recurrence
    layer.recurrence = StaticSolve(recurrence, 0)  # type: ignore[assignment]
    return layer


def _widths(network: MainNetwork) -> list[int]:
    """Return how many numbers are pooled of each layer."""
    return [layer.num_features for layer in network.main_layers]


def _part(
    name: str,
    module: nn.Module,
    inputs: Sequence[str],
    results: Sequence[str],
    known: Mapping[str, Tensor],
) -> Part:
    """Return a part that takes some of what is known, by name."""
    return Part(name, module, {key: known[key] for key in inputs}, tuple(results))
