"""A main network's plain pass and sweeps, one row after the other.

``pack.py`` packs a network. A row's memory holds its image, then each layer's maps.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.kernels.compiler import compiled
from dynalay_gym.kernels.iteration import CONVERGED, iterate
from dynalay_gym.kernels.maps import (
    ANY,
    ZERO,
    average,
    convolve,
    convolve_into,
    pad,
    pad_pooled,
    pad_shuffled,
)
from dynalay_gym.kernels.vectors import (
    FROM_ZERO,
    NO_NORM,
    ON_TOP,
    Integers,
    Numbers,
    stand_alone,
)

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
_IN, _VISIBLE, _BELOW, _RECUR, _READ = range(5)
CONVS_PER_LAYER = 5


class Net(NamedTuple):
    """A packed main network; ``program.pack`` makes it.

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


# Constants of these types share the code of variables.
_NO_PATTERN: Any = np.int64(0)
_ONE_STEP: Any = np.int64(1)
_NOT_ITERATED: Any = np.bool_(False)
_FRESH: Any = np.bool_(False)


@compiled
def _scratch(net: Net) -> Numbers:
    return np.empty(net.scratch, dtype=np.float32)


@compiled
def _visible(net: Net, k: int, row: Numbers) -> Numbers:
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + _IN]
    return row[layer.visible : layer.visible + conv.out_side**2 * conv.out_channels]


@compiled
def _hidden(net: Net, k: int, row: Numbers) -> Numbers:
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + _RECUR]
    return row[layer.hidden : layer.hidden + conv.out_side**2 * conv.out_channels]


@compiled
def _injected(net: Net, k: int, row: Numbers) -> Numbers:
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + _RECUR]
    return row[layer.injected : layer.injected + conv.out_side**2 * conv.out_channels]


@compiled
def _plain(
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
    stand_alone()
    layer, conv = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + _IN]
    pad(source, least, conv.in_side, conv.in_channels, conv.padding, padded)
    norm, u = layer.norm + 2 * pattern * conv.columns, _visible(net, k, row)
    convolve_into(conv, net.numbers, padded, FROM_ZERO, norm, sums, u)


@compiled
def _inject(
    net: Net,
    k: int,
    row: Numbers,
    pattern: int,
    padded: Numbers,
    sums: Numbers,
) -> None:
    """Input of layer k's iteration."""
    stand_alone()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    u, x = _visible(net, k, row), _injected(net, k, row)
    if layer.is_wide == 0:
        for i in range(x.size):
            x[i] = u[i]
        return
    conv, below = net.convs[first + _VISIBLE], net.convs[first + _BELOW]
    side = net.convs[first + _IN].out_side
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
        h = _hidden(net, k - 1, row)
        pad(h, ZERO, below.in_side, below.in_channels, below.padding, padded)
    convolve_into(below, net.numbers, padded, ON_TOP, norm, sums, x)


@compiled
def _read_out(net: Net, k: int, row: Numbers, pattern: int, sums: Numbers) -> None:
    """Add what the hidden stream says: ``y = relu(u + upsample(Norm(C h)))``."""
    stand_alone()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    conv, side = net.convs[first + _READ], net.convs[first + _IN].out_side
    norm = layer.norm_readout + 2 * pattern * conv.columns
    convolve(conv, net.numbers, _hidden(net, k, row), sums, FROM_ZERO, norm)
    channels, y = conv.out_channels, _visible(net, k, row)
    for i in range(side):
        for j in range(side):
            pixel = net.nearest[k, i] * conv.out_side + net.nearest[k, j]
            read = sums[pixel * conv.columns : pixel * conv.columns + channels]
            here = y[(i * side + j) * channels : (i * side + j + 1) * channels]
            for c in range(channels):
                value = read[c] + here[c]
                here[c] = ZERO if value < 0 else value


@compiled
def _pool(net: Net, k: int, row: Numbers, iterated: bool, features: Numbers) -> None:
    """Global averages of layer k's streams; 0 for a hidden one not run."""
    stand_alone()
    layer, first = net.layers[k], 2 + CONVS_PER_LAYER * k
    middle = layer.pooled + net.convs[first + _IN].out_channels
    average(_visible(net, k, row), ZERO, features[layer.pooled : middle])
    if layer.is_wide:
        pooled = features[middle : middle + net.convs[first + _RECUR].out_channels]
        if iterated:
            average(_hidden(net, k, row), ZERO, pooled)
        else:
            pooled[:] = 0.0


@compiled
def _answer(
    net: Net,
    features: Numbers,
    path: int,
    logits: Numbers,
    sums: Numbers,
    more: Numbers,
) -> None:
    """Head on the last layer's averages."""
    stand_alone()
    conv, last = net.convs[1], net.layers[len(net.layers) - 1]
    norm = net.head_norm + 2 * path * conv.in_channels
    pooled = features[last.pooled : last.pooled + conv.in_channels]
    for i in range(conv.in_channels):
        scale, shift = net.numbers[norm + i], net.numbers[norm + conv.in_channels + i]
        more[i] = pooled[i] * scale + shift
    convolve(conv, net.numbers, more, sums, FROM_ZERO, NO_NORM)
    for k in range(logits.size):
        logits[k] = sums[k] + net.numbers[net.head_bias + k]


@compiled
def begin(
    net: Net,
    maps: Numbers,
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    path: Integers,
    rows: Integers,
    images: Numbers,
) -> None:
    """Plain pass of some rows over new images.

    Args:
        net: The network.
        maps: Memory of all rows [n, S].
        features: Pooled features [n, F].
        logits: Answers [n, K].
        residuals: Relative residuals of the last solves [n, L].
        path: States [n].
        rows: The rows, int64 [m].
        images: Their images [m, H * W * C].
    """
    padded, sums, more = _scratch(net), _scratch(net), _scratch(net)
    stem = net.convs[0]
    for i in range(len(rows)):
        r = rows[i]
        row, image = maps[r], images[i]
        for j in range(image.size):
            row[j] = image[j]
        source, least = image, ANY
        if net.has_stem:
            pad(image, least, stem.in_side, stem.in_channels, stem.padding, padded)
            source, least = more[: stem.out_side**2 * stem.out_channels], ZERO
            norm = net.stem_norm
            convolve_into(stem, net.numbers, padded, FROM_ZERO, norm, sums, source)
        for k in range(len(net.layers)):
            _plain(net, k, source, least, row, _NO_PATTERN, padded, sums)
            _pool(net, k, row, _NOT_ITERATED, features[r])
            source, least = _visible(net, k, row), ZERO
        residuals[r], path[r] = 1.0, 0
        _answer(net, features[r], _NO_PATTERN, logits[r], sums, more)


@compiled
def _sweep(
    net: Net,
    row: Numbers,
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    start: int,
    target: int,
    again: bool,
    scratch: tuple[Numbers, Numbers, Numbers],
) -> tuple[int, int, int]:
    """One row from the bottom up: per layer, check, refresh or solve.

    Args:
        net: The network.
        row: The row's maps.
        features: Its pooled features [F].
        logits: Its answer [K].
        residuals: Relative residuals of its last solves [L].
        start: Lowest layer that acts, 1..L.
        target: State that the row is brought to.
        again: Whether the start layer sits on its fixed point already.
        scratch: Room for three maps.

    Returns:
        Multiply-adds, iterations, and the worst status of a solve.
    """
    stand_alone()
    padded, sums, more = scratch
    macs, total, worst = 0, 0, CONVERGED
    for k in range(start - 1, len(net.layers)):
        layer, recur = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + _RECUR]
        bit, is_start = 1 << k, k == start - 1
        pattern = target & (bit - 1)
        h, x = _hidden(net, k, row), _injected(net, k, row)
        steps, status = 0, CONVERGED
        if is_start and again:
            kept = more[: h.size]
            _, steps, status = iterate(
                recur, net.numbers, x, h, kept, net.rtol, _ONE_STEP, padded, sums
            )
        else:
            if not is_start:
                below = _visible(net, k - 1, row)
                _plain(net, k, below, ZERO, row, pattern, padded, sums)
                macs += layer.plain_macs
                residuals[k] = 1.0
            if target & bit:
                _inject(net, k, row, pattern, padded, sums)
                most = net.max_steps
                residuals[k], steps, status = iterate(
                    recur, net.numbers, x, x, h, net.rtol, most, padded, sums
                )
                if layer.is_wide:
                    _read_out(net, k, row, pattern, sums)
                is_below = k > 0 and pattern >> (k - 1) & 1 != 0
                macs += layer.setup_below_macs if is_below else layer.setup_macs
            _pool(net, k, row, target & bit != 0, features)
        macs += steps * layer.iteration_macs
        total, worst = total + steps, max(worst, status)
    _answer(net, features, target, logits, sums, more)
    head = net.convs[1]
    return macs + head.in_channels * head.out_channels, total, worst


@compiled
def apply(
    net: Net,
    maps: Numbers,
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    path: Integers,
    rows: Integers,
    layers: Integers,
    macs: Integers,
    steps: Integers,
    status: Integers,
) -> None:
    """Bring one layer per row to its fixed point and refresh what is above.

    Args:
        net: The network.
        maps: Memory of all rows [n, S].
        features: Pooled features [n, F].
        logits: Answers [n, K].
        residuals: Relative residuals of the last solves [n, L].
        path: States [n].
        rows: Rows that act, int64 [m].
        layers: Layer of each, 1..L, int64 [m]; 0 leaves a row as it is.
        macs: Written: multiply-adds [m].
        steps: Written: iterations [m].
        status: Written: worst statuses [m].
    """
    scratch = _scratch(net), _scratch(net), _scratch(net)
    for i in range(len(rows)):
        macs[i], steps[i], status[i] = 0, 0, CONVERGED
        if layers[i] == 0:
            continue
        r, bit = rows[i], 1 << (layers[i] - 1)
        again, target = path[r] & bit != 0, path[r] & (bit - 1) | bit
        macs[i], steps[i], status[i] = _sweep(
            net, maps[r], features[r], logits[r], residuals[r],
            layers[i], target, again, scratch,
        )  # fmt: skip
        path[r] = target


@compiled
def reach(
    net: Net,
    maps: Numbers,
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    path: Integers,
    rows: Integers,
    targets: Integers,
    macs: Integers,
    steps: Integers,
    status: Integers,
) -> None:
    """Bring rows from their plain pass to given states.

    Args:
        net: The network.
        maps: Memory of all rows [n, S].
        features: Pooled features [n, F].
        logits: Answers [n, K].
        residuals: Relative residuals of the last solves [n, L].
        path: States [n].
        rows: Rows in their plain state, int64 [m].
        targets: States that they are brought to, int64 [m].
        macs: Written: multiply-adds [m].
        steps: Written: iterations [m].
        status: Written: worst statuses [m].
    """
    scratch = _scratch(net), _scratch(net), _scratch(net)
    for i in range(len(rows)):
        r, target, start = rows[i], targets[i], 1
        macs[i], steps[i], status[i] = 0, 0, CONVERGED
        if target == 0:
            continue
        while target >> (start - 1) & 1 == 0:
            start += 1
        macs[i], steps[i], status[i] = _sweep(
            net, maps[r], features[r], logits[r], residuals[r],
            start, target, _FRESH, scratch,
        )  # fmt: skip
        path[r] = target
