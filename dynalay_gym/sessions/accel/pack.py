"""A main network packed for the compiled functions of `network.py`."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.main_layers import LayerMacs, StateLayer, WideStreamLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.norm import PatternNorm
from dynalay_gym.sessions.accel.maps import CONV
from dynalay_gym.sessions.accel.network import (
    BELOW,
    IN,
    LAYER,
    READ,
    RECUR,
    VISIBLE,
    Net,
)
from dynalay_gym.sessions.accel.vectors import LANES, Numbers, pack_matrix

_NO_CONV = (0,) * len(CONV)


def is_packable(network: MainNetwork) -> bool:
    """Return whether the compiled functions do what a network does.

    They do not know subclasses, nor maps that fit each other by being repeated.
    """
    side = network.config.in_shape[1] // network.config.unshuffle
    for layer in network.layers:
        if type(layer) is WideStreamLayer:
            reached = batch_invariant.conv2d_size(side, layer.hidden_stride)
            if reached != layer.hidden_size:
                return False
            side = layer.hidden_size
        elif type(layer) is not StateLayer:
            return False
    return type(network) is MainNetwork


class Map(NamedTuple):
    """Where a map is in a row's memory.

    Attributes:
        first: Where it begins.
        side: Its height and width.
        channels: Its channels C.
        columns: Numbers of a pixel, of which the first C are the channels.
    """

    first: int
    side: int
    channels: int
    columns: int

    def view(self, maps: Tensor) -> Tensor:
        """Return a view [n, C, H, W] of the memory of n rows, [n, S]."""
        end = self.first + self.side**2 * self.columns
        shape = self.side, self.side, self.columns
        pixels = maps[:, self.first : end].unflatten(1, shape)
        return pixels[..., : self.channels].permute(0, 3, 1, 2)


class Layout(NamedTuple):
    """What a row's memory holds.

    Attributes:
        size: Its numbers S.
        maps: Visible activations, hidden stream and injected input of the stem (none
            of them is kept) and of each layer (None if there is no hidden stream).
    """

    size: int
    maps: tuple[tuple[Map | None, ...], ...]


def pack(network: MainNetwork, solver: SolverConfig) -> tuple[Net, Layout]:
    """Pack a frozen network on the CPU.

    Args:
        network: The network, float32.
        solver: Tolerance and most steps of a solve.
    """
    config, packer = network.config, _Packer()
    channels, side, _ = config.in_shape
    packer.put(np.ones(side**2))
    below = packer.map(side, channels, channels)
    hidden_below = below._replace(side=side // config.unshuffle)
    if config.stem:
        below = packer.stem(network, below)
    for layer, macs in zip(network.layers, CostTable.of(network).layers, strict=True):
        assert isinstance(layer, StateLayer | WideStreamLayer)
        below, hidden_below = packer.layer(layer, macs, below, hidden_below)
    num_stems = len(packer.layers) - network.num_layers
    net = Net(
        numbers=np.concatenate(packer.numbers),
        layers=np.roll(np.array(packer.layers, dtype=LAYER), -num_stems, 0),
        convs=np.roll(np.array(packer.convs, dtype=CONV), -num_stems, 0),
        head_norm=torch.stack(network.head_norm.affine(), 1).numpy(),
        head=network.head.numpy().T.copy(),
        head_bias=network.head_bias.numpy().copy(),
        scratch=packer.scratch,
        rtol=np.float32(solver.rtol),
        max_steps=solver.max_steps,
    )
    return net, Layout(packer.size, tuple(packer.maps))


class _Packer:
    """Collects numbers and layers, and shares out a row's memory."""

    def __init__(self) -> None:
        self.numbers: list[Numbers] = []
        self.layers: list[tuple[int, ...]] = []
        self.convs: list[list[tuple[int, ...]]] = []
        self.maps: list[tuple[Map | None, ...]] = [(None, None, None)]
        self.size = self.scratch = self.pooled = 0

    def put(self, numbers: NDArray[Any]) -> int:
        """Add numbers; return where they begin."""
        first = sum(map(len, self.numbers))
        self.numbers.append(numbers.astype(np.float32).ravel())
        return first

    def norm(self, norm: PatternNorm) -> int:
        """Add scale and shift of each pattern and column, [P, 2, N]."""
        affine = torch.stack(norm.affine(), 1).numpy()
        return self.put(np.pad(affine, ((0, 0), (0, 0), (0, -affine.shape[2] % LANES))))

    def conv(self, weight: Tensor, in_side: int, stride: int = 1) -> tuple[int, ...]:
        """Add a kernel [C_out, C_in, k, k] that pads by half of it; return a `CONV`."""
        out_channels, in_channels, kernel, _ = weight.shape
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, out_channels).numpy()
        columns = out_channels + -out_channels % LANES
        out_side = batch_invariant.conv2d_size(in_side, stride)
        padded = in_side * (in_side + 2 * (kernel // 2)) * in_channels
        # The average of a map takes one more pixel than the map.
        self.scratch = max(self.scratch, padded, (out_side**2 + 1) * columns)
        sizes = columns, kernel, stride, in_side, out_side
        return in_channels, out_channels, *sizes, self.put(pack_matrix(matrix))

    def map(self, side: int, channels: int, columns: int) -> Map:
        """Reserve a row's memory for a map."""
        first, self.size = self.size, self.size + side**2 * columns
        return Map(first, side, channels, columns)

    def output(self, conv: tuple[int, ...]) -> Map:
        """Reserve a row's memory for the map that a convolution makes."""
        made = dict(zip(CONV.names, conv, strict=True))
        return self.map(made["out_side"], made["out_channels"], made["columns"])

    def add(self, convs: list[tuple[int, ...]], **fields: int) -> None:
        """Add a layer; the fields that it lacks are 0."""
        self.layers.append(tuple(fields.get(name, 0) for name in LAYER.names))
        self.convs.append(convs)

    def stem(self, network: MainNetwork, image: Map) -> Map:
        """Add the stem; return its map."""
        conv = self.conv(network.stem_weight, image.side, network.config.stem_stride)
        visible, norm = self.output(conv), self.norm(network.stem_norm)
        self.add(
            [conv, *[_NO_CONV] * 4],
            source=image.first,
            source_columns=image.columns,
            visible=visible.first,
            norm=norm,
        )
        return visible

    def layer(
        self,
        layer: StateLayer | WideStreamLayer,
        macs: LayerMacs,
        below: Map,
        hidden_below: Map,
    ) -> tuple[Map, Map]:
        """Add a layer that reads two maps; return its visible and hidden one.

        Those are the same if it has no hidden stream.
        """
        convs = [self.conv(layer.weight_in, below.side, layer.stride), *[_NO_CONV] * 4]
        visible = hidden = self.output(convs[IN])
        is_wide = isinstance(layer, WideStreamLayer)
        side = layer.hidden_size if is_wide else layer.size
        convs[RECUR] = self.conv(layer.recurrence.weight(), side)
        more = {}
        if is_wide:
            hidden, stride = self.output(convs[RECUR]), layer.hidden_stride
            convs[VISIBLE] = self.conv(layer.visible_to_hidden, side)
            convs[BELOW] = self.conv(layer.hidden_to_hidden, hidden_below.side, stride)
            convs[READ] = self.conv(layer.readout, side)
            more["norm_hidden"] = self.norm(layer.norm_hidden)
            more["norm_readout"] = self.norm(layer.norm_readout)
            more["ratio"] = layer.ratio
        injected = self.output(convs[RECUR])
        self.add(
            convs,
            is_wide=is_wide,
            source=below.first,
            source_columns=below.columns,
            source_hidden=hidden_below.first,
            source_hidden_columns=hidden_below.columns,
            visible=visible.first,
            hidden=hidden.first,
            injected=injected.first,
            pooled=self.pooled,
            norm=self.norm(layer.norm),
            plain_macs=macs.plain,
            setup_macs=macs.setup[0],
            setup_below_macs=macs.setup[1],
            iteration_macs=macs.iteration,
            **more,
        )
        self.pooled += visible.channels + (hidden.channels if is_wide else 0)
        self.maps.append((visible, hidden if is_wide else None, injected))
        return visible, hidden
