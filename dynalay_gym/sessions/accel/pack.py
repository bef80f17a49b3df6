"""A main network packed for the compiled functions of `network.py`."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.base import LayerMacs
from dynalay_gym.networks.layers.conv import StateLayer, WideStreamLayer
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.maps import CONV
from dynalay_gym.sessions.accel.network import LAYER, Net
from dynalay_gym.sessions.accel.vectors import LANES, Numbers, pack_matrix
from dynalay_gym.sessions.states import Automaton


def is_packable(network: MainNetwork) -> bool:
    """Return whether the compiled functions do what a network does.

    They know no subclasses, and no numbers of iterations that differ between layers.
    """
    known = all(
        type(layer) in (StateLayer, WideStreamLayer) for layer in network.layers
    )
    same_steps = len(set(network.config.layer_steps)) == 1
    return type(network) is MainNetwork and known and same_steps


class Map(NamedTuple):
    """Where a map is in a row's memory: C channels of `columns` numbers a pixel."""

    first: int
    side: int
    channels: int
    columns: int

    def view(self, maps: Tensor) -> Tensor:
        """Return a view [n, C, H, W] of the memory of n rows, [n, S]."""
        end = self.first + self.side**2 * self.columns
        shape = self.side, self.side, self.columns
        pixels = maps[:, self.first : end].view(-1, *shape)
        return pixels[..., : self.channels].permute(0, 3, 1, 2)


class Layout(NamedTuple):
    """What a row's memory holds."""

    size: int  # its numbers S
    # Visible activations, hidden stream and injected input of the stem (none of them is
    # kept) and of each layer (None if there is no hidden stream).
    maps: tuple[tuple[Map | None, ...], ...]


def pack(
    network: MainNetwork, solver: SolverConfig, next_state: Automaton
) -> tuple[Net, Layout]:
    """Pack a frozen network on the CPU.

    Args:
        network: The network, float32.
        solver: Tolerance and most steps of a solve.
        next_state: State that an action leads to, int64 [S, A].
    """
    config, packer = network.config, _Packer()
    channels, side, _ = config.in_shape
    packer.put(np.ones(side**2))
    image = below = hidden_below = Map(0, side, channels, channels)
    packer.size = side**2 * channels
    stems = []
    if config.stem:
        stride = config.stem_stride
        below = packer.map(batch_invariant.conv2d_size(side, stride), config.stem)
        norm = network.stem_norm
        conv = packer.conv(network.stem_weight, image, below.side, stride, norm)
        stems.append(_record(LAYER, weight_in=conv, visible=below.first))
    for layer, macs in zip(network.layers, CostTable.of(network).layers, strict=True):
        assert isinstance(layer, StateLayer | WideStreamLayer)
        below, hidden_below = packer.layer(layer, macs, below, hidden_below)
    net = Net(
        numbers=np.concatenate(packer.numbers),
        layers=np.stack(packer.layers + stems),
        next_state=next_state,
        head_norm=torch.stack(network.head_norm.affine(), 1).numpy(),
        head=network.head.numpy().T.copy(),
        head_bias=network.head_bias.numpy().copy(),
        scratch=packer.scratch,
        rtol=np.float32(solver.rtol),
        max_steps=solver.max_steps,
    )
    return net, Layout(packer.size, tuple(packer.maps))


def _record(dtype: np.dtype[Any], **values: Any) -> Any:
    """Return a record; the fields that it lacks are 0."""
    record = np.zeros((), dtype)
    for name, value in values.items():
        record[name] = value
    return record


class _Packer:
    """Collects numbers and layers, and shares out a row's memory."""

    def __init__(self) -> None:
        self.numbers: list[Numbers] = []
        self.layers: list[Any] = []
        self.maps: list[tuple[Map | None, ...]] = [(None, None, None)]
        self.size = self.scratch = self.pooled = 0

    def put(self, numbers: NDArray[Any]) -> int:
        """Add numbers; return where they begin."""
        first = sum(map(len, self.numbers))
        self.numbers.append(numbers.astype(np.float32).ravel())
        return first

    def map(self, side: int, channels: int) -> Map:
        """Reserve a row's memory for a map."""
        columns = channels + -channels % LANES
        first, self.size = self.size, self.size + side**2 * columns
        # Its average takes one more pixel.
        self.scratch = max(self.scratch, (side**2 + 1) * columns)
        return Map(first, side, channels, columns)

    def conv(
        self,
        weight: Tensor,
        source: Map,
        out_side: int,
        stride: int = 1,
        norm: PatternNorm | None = None,
    ) -> Any:
        """Add a kernel [C_out, C_in, k, k] that reads a map; return its `CONV`.

        A kernel on a pixel-unshuffled image is rewritten as a larger strided kernel on
        the image.
        """
        factor = math.isqrt(weight.shape[1] // source.channels)
        weight = F.pixel_shuffle(weight, factor)
        out_channels, in_channels, kernel, _ = weight.shape
        padding = kernel // 3  # a kernel has one or three pixels, or three squares
        padded = source.side * (source.side + 2 * padding) * in_channels
        self.scratch = max(self.scratch, padded)
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, out_channels).numpy()
        affine = np.zeros((1, 2, 0)) if norm is None else torch.stack(norm.affine(), 1)
        filling = (0, 0), (0, 0), (0, -out_channels % LANES)
        return _record(
            CONV,
            in_channels=in_channels,
            out_channels=out_channels,
            in_side=source.side,
            out_side=out_side,
            kernel=kernel,
            stride=stride * factor,
            padding=padding,
            columns=out_channels + -out_channels % LANES,
            source=source.first,
            source_columns=source.columns,
            weight=self.put(pack_matrix(matrix)),
            norm=self.put(np.pad(affine, filling)),
        )

    def layer(
        self,
        layer: StateLayer | WideStreamLayer,
        macs: LayerMacs,
        below: Map,
        hidden_below: Map,
    ) -> tuple[Map, Map]:
        """Add a layer that reads two maps; return its visible and hidden one."""
        visible = hidden = self.map(layer.size, layer.weight_in.shape[0])
        convs = {"weight_in": (below, layer.size, layer.stride, layer.norm)}
        ratio, width = 0, visible.channels
        if isinstance(layer, WideStreamLayer):
            side, stride, ratio = layer.hidden_size, layer.hidden_stride, layer.ratio
            hidden = self.map(side, layer.readout.shape[1])
            pooled = visible._replace(side=side)
            convs["visible_to_hidden"] = pooled, side, 1, layer.norm_hidden
            convs["hidden_to_hidden"] = hidden_below, side, stride, layer.norm_hidden
            convs["readout"] = hidden, side, 1, layer.norm_readout
            width += hidden.channels
        injected = self.map(hidden.side, hidden.channels)
        record = _record(
            LAYER,
            recurrence=self.conv(layer.recurrence.weight(), hidden, hidden.side),
            visible=visible.first,
            hidden=hidden.first,
            injected=injected.first,
            is_wide=ratio > 0,
            ratio=ratio,
            pooled=self.pooled,
            plain_macs=macs.plain,
            setup_macs=macs.setup[0],
            setup_below_macs=macs.setup[1],
            iteration_macs=macs.iteration,
            **{k: self.conv(getattr(layer, k), *conv) for k, conv in convs.items()},
        )
        self.layers.append(record)
        self.pooled += width
        self.maps.append((visible, hidden if ratio > 0 else None, injected))
        return visible, hidden
