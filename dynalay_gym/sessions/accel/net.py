"""A packed main network, and where a row's memory has its maps.

A row's memory holds its image, then each layer's maps.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.vectors import Integers, Numbers

LAYER = np.dtype(
    [
        ("is_wide", np.int64),
        ("ratio", np.int64),  # side of the visible map over that of the hidden one
        ("from_below", np.int64),  # pattern bit that brings h_below in; 0: always
        ("visible", np.int64),  # where its maps begin in a row's memory
        ("hidden", np.int64),
        ("injected", np.int64),
        ("pooled", np.int64),  # where its features begin
        ("norm", np.int64),  # where scales and shifts begin among the numbers
        ("norm_hidden", np.int64),
        ("norm_readout", np.int64),
        ("plain_macs", np.int64),
        ("setup_macs", np.int64),
        ("setup_below_macs", np.int64),
        ("iteration_macs", np.int64),
    ]
)
# A layer's convolutions: visible input; to the hidden stream from the visible one and
# from below; the recurrent map; the readout.
IN, VISIBLE, BELOW, RECUR, READ = range(5)
CONVS_PER_LAYER = 5


class Net(NamedTuple):
    """A packed main network; ``pack.pack`` makes it.

    Attributes:
        numbers: Kernels, scales and shifts.
        convs: The stem's convolution, the head as one, then five for each layer.
        layers: One entry for each layer.
        nearest: Which hidden row (or column) a visible one reads, [L, side].
        scratch: Numbers of the largest map that is worked on.
        has_stem: Whether there is a stem.
        unshuffle: Factor that makes a hidden stream of an image; 0 for none.
        stem_norm: Where the stem's scale and shift begin among the numbers.
        head_norm: Where those of the head begin.
        head_bias: Where the head's bias begins.
        rtol: Relative tolerance of a solve.
        max_steps: Most iterations of a solve.
    """

    numbers: Numbers
    convs: NDArray[Any]
    layers: NDArray[Any]
    nearest: Integers
    scratch: int
    has_stem: bool
    unshuffle: int
    stem_norm: int
    head_norm: int
    head_bias: int
    rtol: np.float32
    max_steps: int


@compiled
def scratch_of(net: Net) -> Numbers:
    """Room for one map that is worked on."""
    return np.empty(net.scratch, dtype=np.float32)


@compiled
def visible_of(net: Net, k: int, row: Numbers) -> Numbers:
    """Layer k's visible map: u, or y once it was iterated."""
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + IN]
    return row[layer.visible : layer.visible + conv.out_side**2 * conv.out_channels]


@compiled
def hidden_of(net: Net, k: int, row: Numbers) -> Numbers:
    """Layer k's hidden stream; the visible map of a layer without one."""
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + RECUR]
    return row[layer.hidden : layer.hidden + conv.out_side**2 * conv.out_channels]


@compiled
def injected_of(net: Net, k: int, row: Numbers) -> Numbers:
    """Input of layer k's iteration."""
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + RECUR]
    return row[layer.injected : layer.injected + conv.out_side**2 * conv.out_channels]
