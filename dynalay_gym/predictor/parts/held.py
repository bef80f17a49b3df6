"""What a state of a main network holds of its layers: the fields of `LayerState`.

They are named by field and layer: ``y1``, ``u1``, ``h1``, ``x1``; those of the stem are
``y0`` and ``h0``. What a layer that is not iterated does not have is 0.

Axes: n images, L layers.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.base import LayerState
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.parts.part import example

Shapes = dict[str, tuple[int, ...]]  # of one input's tensors, by name


def held_shapes(network: MainNetwork) -> Shapes:
    """Return what a state holds of the stem and the layers, bottom up."""
    below = network.stem(example(*network.config.in_shape))
    shapes, once = _shapes(0, below), SolverConfig(max_steps=1)
    del shapes["u0"]  # y once more
    for number, layer in enumerate(network.main_layers, start=1):
        plain = layer.plain(below, 0)
        shapes |= _shapes(number, layer.iterate(below, plain, 0, once)[0])
        below = plain
    return shapes


def _shapes(number: int, state: LayerState) -> Shapes:
    tensors: dict[str, Tensor | None] = state._asdict()
    return {
        f"{field}{number}": tuple(tensor.shape[1:])
        for field, tensor in tensors.items()
        if tensor is not None
    }


def held_names(number: int, shapes: Shapes) -> list[str]:
    """Return the names of what a state holds of a layer."""
    return [name for name in shapes if name[1:] == str(number)]


def to_held(number: int, state: LayerState, shapes: Shapes) -> dict[str, Tensor]:
    """Return what a state holds of a layer [n, ...], by name."""
    held = dict[str, Tensor]()
    for name in held_names(number, shapes):
        tensor: Tensor | None = getattr(state, name[0])
        if tensor is None:
            tensor = state.y.new_zeros(state.y.shape[0], *shapes[name])
        held[name] = tensor
    return held


def from_held(number: int, held: Mapping[str, Tensor]) -> LayerState:
    """Return what a state holds of a layer as the layer's own; u of the stem is y."""
    fields: Any = {name: held.get(f"{name}{number}") for name in LayerState._fields}
    if fields["u"] is None:
        fields["u"] = fields["y"]
    return LayerState(**fields)
