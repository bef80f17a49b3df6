"""What is done to one row's layer: plain application, injection, read-out, pooling."""

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.maps import (
    ZERO,
    average,
    convolve,
    convolve_into,
    pad,
    pad_pooled,
    pad_shuffled,
)
from dynalay_gym.sessions.accel.net import (
    BELOW,
    CONVS_PER_LAYER,
    IN,
    READ,
    RECUR,
    VISIBLE,
    Net,
    hidden_of,
    injected_of,
    visible_of,
)
from dynalay_gym.sessions.accel.vectors import (
    FROM_ZERO,
    NO_NORM,
    ON_TOP,
    Numbers,
    noinline,
)


@compiled
def plain(
    net: Net,
    k: int,
    source: Numbers,
    least: np.float32,
    row: Numbers,
    pattern: int,
    padded: Numbers,
    sums: Numbers,
) -> None:
    """Apply layer k once to ``max(source, least)``: its u."""
    noinline()
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + IN]
    pad(source, least, conv.in_side, conv.in_channels, conv.padding, padded)
    norm, u = layer.norm + 2 * pattern * conv.columns, visible_of(net, k, row)
    convolve_into(conv, net.numbers, padded, FROM_ZERO, norm, sums, u)


@compiled
def inject(
    net: Net,
    k: int,
    row: Numbers,
    pattern: int,
    padded: Numbers,
    sums: Numbers,
) -> None:
    """Input of layer k's iteration."""
    noinline()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    u, x = visible_of(net, k, row), injected_of(net, k, row)
    if layer.is_wide == 0:
        for i in range(x.size):
            x[i] = u[i]
        return
    conv, below = net.convs[first + VISIBLE], net.convs[first + BELOW]
    side = net.convs[first + IN].out_side
    norm = layer.norm_hidden + 2 * pattern * conv.columns
    pad_pooled(u, side, conv.in_channels, layer.ratio, padded)
    if layer.from_below != 0 and pattern & layer.from_below == 0:
        convolve_into(conv, net.numbers, padded, FROM_ZERO, norm, sums, x)
        return
    convolve_into(conv, net.numbers, padded, FROM_ZERO, NO_NORM, sums, x)
    if k == 0:
        channels = below.in_channels // net.unshuffle**2
        pad_shuffled(row, below.in_side, channels, net.unshuffle, padded)
    else:
        h = hidden_of(net, k - 1, row)
        pad(h, ZERO, below.in_side, below.in_channels, below.padding, padded)
    convolve_into(below, net.numbers, padded, ON_TOP, norm, sums, x)


@compiled
def read_out(net: Net, k: int, row: Numbers, pattern: int, sums: Numbers) -> None:
    """Add what the hidden stream says: ``y = relu(u + upsample(Norm(C h)))``."""
    noinline()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    conv, side = net.convs[first + READ], net.convs[first + IN].out_side
    norm = layer.norm_readout + 2 * pattern * conv.columns
    convolve(conv, net.numbers, hidden_of(net, k, row), sums, FROM_ZERO, norm)
    channels, y = conv.out_channels, visible_of(net, k, row)
    for i in range(side):
        for j in range(side):
            pixel = net.nearest[k, i] * conv.out_side + net.nearest[k, j]
            read = sums[pixel * conv.columns : pixel * conv.columns + channels]
            here = y[(i * side + j) * channels : (i * side + j + 1) * channels]
            for c in range(channels):
                value = read[c] + here[c]
                here[c] = ZERO if value < 0 else value


@compiled
def pool(net: Net, k: int, row: Numbers, iterated: bool, features: Numbers) -> None:
    """Global averages of layer k's streams; 0 for a hidden one not run."""
    noinline()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    middle = layer.pooled + net.convs[first + IN].out_channels
    average(visible_of(net, k, row), ZERO, features[layer.pooled : middle])
    if layer.is_wide:
        pooled = features[middle : middle + net.convs[first + RECUR].out_channels]
        if iterated:
            average(hidden_of(net, k, row), ZERO, pooled)
        else:
            pooled[:] = 0.0


@compiled
def answer(
    net: Net,
    features: Numbers,
    path: int,
    logits: Numbers,
    sums: Numbers,
    more: Numbers,
) -> None:
    """Head on the last layer's averages."""
    noinline()
    conv, last = net.convs[1], net.layers[len(net.layers) - 1]
    norm = net.head_norm + 2 * path * conv.in_channels
    pooled = features[last.pooled : last.pooled + conv.in_channels]
    for i in range(conv.in_channels):
        scale, shift = net.numbers[norm + i], net.numbers[norm + conv.in_channels + i]
        more[i] = pooled[i] * scale + shift
    convolve(conv, net.numbers, more, sums, FROM_ZERO, NO_NORM)
    for k in range(logits.size):
        logits[k] = sums[k] + net.numbers[net.head_bias + k]
