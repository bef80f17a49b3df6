"""The parts of a main network: what it begins with, and what each action does.

An action on layer l is `Start`, as many times `Iteration` as it takes, and `Finish`,
which reads the layer and applies those above it once. What is known of an input in
between is its state: of each layer the fields of its `LayerState` (``y1``, ``u1``, ...;
those of the stem are ``y0`` and ``h0``), and `COMMON`.

Axes: n images [n, C, H, W], L layers, S states, A actions, K classes, D observation
features.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.base import LayerState, MainLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.parts import Observe, Part, example, integers
from dynalay_gym.predictor.solve_parts import Iteration, StaticSolve
from dynalay_gym.sessions.features import network_features
from dynalay_gym.sessions.torch_session import TorchSession

Shapes = dict[str, tuple[int, ...]]  # of one input's tensors
# Number of the automaton's state; what is pooled of each layer and the residual of its
# last solve; the answer, what is seen of it, and which actions can change it.
COMMON = ("state_id", "pooled", "residuals", "logits", "features", "useful")


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
        self.head.layers = nn.ModuleList()
        self.rtol, self.states = session.options["rtol"], session.states
        self.in_portions = session.options["iterations_per_action"] is not None

    def forward(
        self,
        below: LayerState,
        state_id: Tensor,
        pooled: Sequence[Tensor],
        residuals: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the new part of a state.

        Args:
            below: The layer below the first one.
            state_id: The states that are reached, int64 [n].
            pooled: What is pooled of each layer below, [n, F].
            residuals: The residual of each layer below, [n].
        """
        found, pattern = dict[str, Tensor](), self.states.pattern[state_id]
        for number, layer in enumerate(_main_layers(self.layers), self.first):
            below = layer.plain(below, pattern % 2 ** (number - 1))
            found |= _named(number, below, self.shapes)
            pooled = [*pooled, layer.pool(below)]
            residuals = [*residuals, torch.ones_like(below.y[:, 0, 0, 0])]
        logits, residual = self.head.answer(pooled[-1], pattern), torch.stack(residuals, 1)
        level, useful = self.states.level[state_id], self.states.useful[state_id]
        if self.in_portions:
            converged = (level > 0) & ~(residual >= self.rtol)
            useful = useful & ~F.pad(converged, (1, 0))
        everything = torch.cat(list(pooled), 1)
        shares = self.states.share[state_id]
        features = network_features(everything, logits, residual, shares)
        common = state_id, everything, residual, logits, features, useful
        return found | dict(zip(COMMON, common, strict=True))


class Begin(nn.Module):
    """The plain pass over images: all of a state.

    Args:
        session: The network, on the CPU.
        shapes: What a state holds of the layers.
    """

    def __init__(self, session: TorchSession, shapes: Shapes) -> None:
        super().__init__()
        self.network, self.sweep = session.network, Sweep(session, 1, shapes)
        self.results = (*shapes, *COMMON)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the results for images [n, C, H, W], in order."""
        below = self.network.stem(images)
        start = torch.zeros(len(images), dtype=torch.int64)
        found = _named(0, below, self.sweep.shapes) | self.sweep(below, start, [], [])
        return tuple(found[name] for name in self.results)


class PlainPass(nn.Module):
    """The plain pass alone: logits [n, K] and the first observation [n, D].

    Args:
        begin: The plain pass.
        observe: What a policy sees.
    """

    def __init__(self, begin: nn.Module, observe: Observe) -> None:
        super().__init__()
        self.begin, self.observe = begin, observe

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        found = dict(zip(self.begin.results, self.begin(images), strict=True))
        return found["logits"], self.observe.first(found["features"], penalty)


class Start(nn.Module):
    """What an action on a layer iterates, and from where: `results`.

    Args:
        session: The network, on the CPU.
        number: Number l of the layer, from 1.
        shapes: What a state holds of the layers.
    """

    results = ("x", "z", "residual", "steps")

    def __init__(self, session: TorchSession, number: int, shapes: Shapes) -> None:
        super().__init__()
        self.layer, self.number = _standing(session.network, number), number
        held = (*_fields(number - 1, shapes), *_fields(number, shapes))
        self.names = (*held, "state_id", "residuals")
        self.solver, self.states = session.solver, session.states
        states, place = session.states, number - 1
        before, after = states.level[:, place], states.reached[:, number]
        iterations = states.iterations[place]
        self.steps = iterations[states.level[after, place]] - iterations[before]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return injected inputs and first iterates [n, ...], residuals and steps [n].

        Args:
            *tensors: What `names` names.
        """
        held, place = dict(zip(self.names, tensors, strict=True)), self.number - 1
        below, own = _read(place, held), _read(self.number, held)
        state_id, residual = held["state_id"], held["residuals"][:, place]
        pattern = self.states.pattern[state_id] % 2**place
        plain = LayerState(own.y, own.u)
        fresh, begun = self.layer.iterate(below, plain, pattern, self.solver)
        goes_on = self.states.level[state_id, place] > 0
        x, z = (
            torch.where(goes_on[:, None, None, None], *each)
            for each in ((own.x, fresh.x), (own.z, begun.value))
        )
        is_done = goes_on & ~(residual >= self.solver.rtol)
        return x, z, residual.clone(), self.steps[state_id] * ~is_done


class Finish(nn.Module):
    """What is made of the iterates: the layer, those above it, and the answer.

    Args:
        session: The network, on the CPU.
        number: Number l of the layer, from 1.
        shapes: What a state holds of the layers.
    """

    def __init__(self, session: TorchSession, number: int, shapes: Shapes) -> None:
        super().__init__()
        self.layer, self.number = _standing(session.network, number), number
        self.sweep = Sweep(session, number + 1, shapes)
        self.names = (f"u{number}", *Start.results[:3], *COMMON[:3])
        above = range(number, session.num_layers + 1)
        held = [name for each in above for name in _fields(each, shapes)]
        self.results = (*held, *COMMON)
        self.solver, self.widths = session.solver, _widths(session.network)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the results, in order.

        Args:
            *tensors: What `names` names.
        """
        u, x, z, residual, state_id, pooled, residuals = tensors
        place, shapes, states = self.number - 1, self.sweep.shapes, self.sweep.states
        reached = states.reached[state_id, self.number]
        pattern = states.pattern[reached] % 2**place
        held = LayerState(z, u, z if f"h{self.number}" in shapes else None, x)
        new, _ = self.layer.iterate(held, held, pattern, self.solver)
        lower = [*pooled.split(self.widths, 1)[:place], self.layer.pool(new)]
        known = [*residuals.unbind(1)[:place], residual]
        found = self.sweep(new, reached, lower, known)
        found |= _named(self.number, new, shapes)
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
    plain, seen = PlainPass(begin, observe), {**images, "penalty": example()}
    parts = [
        Part("plain", plain, seen, ("logits", "observation")),
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
        once = Iteration(recurrence)
        start, finish = (kind(session, number, shapes) for kind in (Start, Finish))
        parts += [
            _part(f"start-{number}", start, start.names, start.results, known),
            _part(f"iteration-{number}", once, ("z", "x"), ("z", "residual"), known),
            _part(f"finish-{number}", finish, finish.names, finish.results, known),
        ]
    return parts


def held_shapes(network: MainNetwork) -> Shapes:
    """Return names and shapes of what a state holds of the stem and the layers."""
    below = network.stem(example(*network.config.in_shape))
    shapes, once = _shapes(0, below._replace(u=None)), SolverConfig(max_steps=1)
    for number, layer in enumerate(network.main_layers, start=1):
        plain = layer.plain(below, 0)
        shapes |= _shapes(number, layer.iterate(below, plain, 0, once)[0])
        below = plain
    return shapes


def _shapes(number: int, state: LayerState) -> Shapes:
    tensors = state._asdict().items()
    return {f"{name}{number}": t.shape[1:] for name, t in tensors if t is not None}


def _named(number: int, state: LayerState, shapes: Shapes) -> dict[str, Tensor]:
    """Return what a state holds of a layer; what the layer has not is 0."""
    found = dict[str, Tensor]()
    for name in _fields(number, shapes):
        tensor: Tensor | None = getattr(state, name[0])
        zeros = state.y.new_zeros(len(state.y), *shapes[name])
        found[name] = zeros if tensor is None else tensor
    return found


def _fields(number: int, shapes: Shapes) -> list[str]:
    """Return the names of what a state holds of a layer."""
    return [name for name in shapes if name[1:] == str(number)]


def _read(number: int, held: Mapping[str, Tensor]) -> LayerState:
    """Return what a state holds of a layer as the layer's own; u of the stem is y."""
    y, *rest = (held.get(f"{name}{number}") for name in LayerState._fields)
    assert y is not None, "every state has it"
    return LayerState(y, y if rest[0] is None else rest[0], *rest[1:])


def _standing(network: MainNetwork, number: int) -> MainLayer:
    """Return a copy of a layer whose solves return what they start from."""
    layer = copy.deepcopy(network.main_layers[number - 1])
    layer.recurrence = StaticSolve(layer.recurrence, 0)  # type: ignore[arg-type,assignment]
    return layer


def _widths(network: MainNetwork) -> list[int]:
    """Return how many numbers are pooled of each layer."""
    return [layer.num_features for layer in network.main_layers]


def _main_layers(layers: nn.ModuleList) -> Sequence[MainLayer]:
    return list(layers)  # type: ignore[arg-type]


def _part(
    name: str,
    module: nn.Module,
    inputs: Sequence[str],
    results: Sequence[str],
    known: Mapping[str, Tensor],
) -> Part:
    """Return a part of which the inputs are examples that are known."""
    return Part(name, module, {key: known[key] for key in inputs}, tuple(results))
