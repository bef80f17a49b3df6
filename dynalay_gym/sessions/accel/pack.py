"""A main network packed for the compiled functions of ``network.py``."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.main_layers import StateLayer, WideStreamLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.norm import PatternNorm
from dynalay_gym.sessions.accel.maps import CONV
from dynalay_gym.sessions.accel.net import CONVS_PER_LAYER, LAYER, Net
from dynalay_gym.sessions.accel.vectors import LANES, Numbers, pack_matrix

_NO_CONV = (0,) * len(CONV.names or ())


def pack_kernel(weight: Tensor) -> Numbers:
    """Kernel [C_out, C_in, k, k] as a packed matrix [k * k * C_in, C_out]."""
    matrix = weight.detach().permute(2, 3, 1, 0).reshape(-1, len(weight))
    return pack_matrix(matrix.numpy())


@dataclass(frozen=True)
class Place:
    """Where a layer's maps stand in a row's memory; their channels and side.

    Attributes:
        visible: Where the visible map begins.
        hidden: Where the hidden one begins; the visible one of a layer without.
        injected: Where the input of the iteration begins.
        shape: Side and channels of the visible map.
        hidden_shape: Side and channels of the other two.
    """

    visible: int
    hidden: int
    injected: int
    shape: tuple[int, int]
    hidden_shape: tuple[int, int]


class _Packer:
    """Collects numbers and convolutions."""

    def __init__(self) -> None:
        self.numbers: list[NDArray[np.float32]] = []
        self.convs: list[tuple[int, ...]] = []
        self.size = 0

    def put(self, numbers: NDArray[np.float32]) -> int:
        """Where these numbers begin."""
        self.numbers.append(numbers.astype(np.float32).ravel())
        self.size += numbers.size
        return self.size - numbers.size

    def norm(self, norm: PatternNorm) -> int:
        """Scale and shift of each pattern and column, [P, 2, N]; zero beyond C."""
        affine = torch.stack(norm.affine(), 1).detach().numpy()
        return self.put(np.pad(affine, ((0, 0), (0, 0), (0, -affine.shape[2] % LANES))))

    def conv(self, weight: Tensor, in_side: int, stride: int = 1) -> None:
        """A convolution that pads by half its kernel."""
        out_channels, in_channels, kernel, _ = weight.shape
        columns = out_channels + -out_channels % LANES
        sides = in_side, batch_invariant.conv2d_size(in_side, stride)
        shape = kernel, stride, kernel // 2, *sides, self.put(pack_kernel(weight))
        self.convs.append((in_channels, out_channels, columns, *shape))

    @property
    def scratch(self) -> int:
        """Numbers of the largest padded input or sum."""
        sizes = [0]
        for inside, _, columns, _, _, edge, side, out, _ in self.convs:
            sizes += [side * (side + 2 * edge) * inside, out**2 * columns]
        return max(sizes)


def is_packable(model: MainNetwork) -> bool:
    """Whether the compiled functions do what this network does.

    Not that of a subclass, nor of maps that fit each other by being repeated.
    """
    if type(model) is not MainNetwork:
        return False
    side = model.config.in_shape[1] // model.config.unshuffle
    for layer in model.layers:
        if isinstance(layer, WideStreamLayer):
            if (
                batch_invariant.conv2d_size(side, layer.hidden_stride)
                != layer.hidden_size
            ):
                return False
            side = layer.hidden_size
        if type(layer) not in (StateLayer, WideStreamLayer):
            return False
    return True


def pack(model: MainNetwork, solver: SolverConfig) -> tuple[Net, list[Place], int]:
    """Pack a frozen network on the CPU.

    Args:
        model: The network.
        solver: Tolerance and most steps of a solve.

    Returns:
        The packed network; where a row's memory has each layer's maps; numbers of a
        row's memory, which begins with its image [H, W, C].
    """
    config, packer = model.config, _Packer()
    channels, side, _ = config.in_shape
    if config.stem:
        packer.conv(model.stem_weight, side, config.stem_stride)
        stem_norm = packer.norm(model.stem_norm)
    else:
        packer.convs.append((channels, *[0] * 5, side, 0, 0))
        stem_norm = 0
    packer.conv(model.head[:, :, None, None], 1)
    head_affine = torch.stack(model.head_norm.affine(), 1)
    head_norm = packer.put(head_affine.detach().numpy())
    head_bias = packer.put(model.head_bias.detach().numpy())
    rows, places, nearest = [], [], []
    size, pooled = channels * side * side, 0
    costs = CostTable.of(model)
    for i, (layer, cost) in enumerate(zip(model.layers, costs.layers, strict=True)):
        assert isinstance(layer, StateLayer | WideStreamLayer)
        place, size = _place(layer, size)
        below = _sides_below(model, i)
        packer.conv(layer.weight_in, below[0], layer.stride)
        norms = [packer.norm(layer.norm)]
        if isinstance(layer, WideStreamLayer):
            image_channels = 0 if i else channels
            norms += _pack_hidden(packer, layer, below[1], image_channels)
        else:
            packer.convs += [_NO_CONV] * 2
            packer.conv(layer.recurrence.weight(), layer.size)
            packer.convs.append(_NO_CONV)
            norms += [0, 0]
        is_wide = isinstance(layer, WideStreamLayer)
        ratio = layer.ratio if isinstance(layer, WideStreamLayer) else 1
        from_below = 0 if i == 0 else 1 << (i - 1)
        macs = cost.plain, *cost.setup, cost.iteration
        where = place.visible, place.hidden, place.injected, pooled
        rows.append((is_wide, ratio, from_below, *where, *norms, *macs))
        places.append(place)
        nearest.append(_nearest(place.shape[0], place.hidden_shape[0]))
        pooled += place.shape[1] + (place.hidden_shape[1] if is_wide else 0)
    longest = max(map(len, nearest))
    net = Net(
        numbers=np.concatenate(packer.numbers),
        convs=np.array(packer.convs, dtype=CONV),
        layers=np.array(rows, dtype=LAYER),
        nearest=np.stack([np.pad(each, (0, longest - len(each))) for each in nearest]),
        scratch=packer.scratch,
        has_stem=bool(config.stem),
        unshuffle=config.unshuffle if config.form == "wide" else 0,
        stem_norm=stem_norm,
        head_norm=head_norm,
        head_bias=head_bias,
        rtol=np.float32(solver.rtol),
        max_steps=solver.max_steps,
    )
    assert len(net.convs) == 2 + CONVS_PER_LAYER * len(places)
    return net, places, size


def _place(layer: StateLayer | WideStreamLayer, at: int) -> tuple[Place, int]:
    """Where a layer's maps stand, and where they end."""
    shape = layer.size, layer.weight_in.shape[0]
    end = at + shape[0] ** 2 * shape[1]
    if isinstance(layer, StateLayer):
        return Place(at, at, end, shape, shape), 2 * end - at
    hidden = layer.hidden_size, layer.readout.shape[1]
    numbers = hidden[0] ** 2 * hidden[1]
    return Place(at, end, end + numbers, shape, hidden), end + 2 * numbers


def _sides_below(model: MainNetwork, i: int) -> tuple[int, int]:
    """Sides of the visible and hidden maps that layer i + 1 reads."""
    if i == 0:
        side = model.config.in_shape[1]
        stride = model.config.stem_stride if model.config.stem else 1
        return batch_invariant.conv2d_size(side, stride), side // model.config.unshuffle
    below = model.layers[i - 1]
    hidden = below.hidden_size if isinstance(below, WideStreamLayer) else 0
    assert isinstance(below.size, int)
    return below.size, hidden


def _pack_hidden(
    packer: _Packer, layer: WideStreamLayer, side_below: int, image_channels: int
) -> list[int]:
    """A hidden stream's convolutions; where its two normalisations are.

    The first one reads the image, of ``image_channels`` (else 0).
    """
    from_below: Tensor = layer.hidden_to_hidden
    if image_channels > 0:
        from_below = _in_order_of_pixels(from_below, image_channels)
    packer.conv(layer.visible_to_hidden, layer.hidden_size)
    packer.conv(from_below, side_below, layer.hidden_stride)
    packer.conv(layer.recurrence.weight(), layer.hidden_size)
    packer.conv(layer.readout, layer.hidden_size)
    return [packer.norm(layer.norm_hidden), packer.norm(layer.norm_readout)]


def _in_order_of_pixels(weight: Tensor, channels: int) -> Tensor:
    """Kernel of an unshuffled image whose channels come pixel by pixel.

    PyTorch's come channel by channel.
    """
    out, deep, kernel, _ = weight.shape
    factor = math.isqrt(deep // channels)
    parts = weight.view(out, channels, factor, factor, kernel, kernel)
    return parts.permute(0, 2, 3, 1, 4, 5).reshape(weight.shape)


def _nearest(side: int, hidden_side: int) -> NDArray[np.int64]:
    """Which of ``hidden_side`` places each of ``side`` reads when it is enlarged."""
    places = torch.arange(hidden_side, dtype=torch.float32)
    return F.interpolate(places[None, None], size=side)[0, 0].long().numpy()
