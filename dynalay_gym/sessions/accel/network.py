"""A main network's plain pass and sweeps, one row after the other.

`pack.py` packs a network. A row's memory begins with its image, [H * W * C]; then come
the maps of the layers and of the stem.

Axes: n rows, m of them acted on, L layers, D pooled features, F of them the head's, K
classes, P patterns of iterated layers, S numbers of a row's memory.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled, inlined, noinline
from dynalay_gym.sessions.accel.iteration import CONVERGED, iterate
from dynalay_gym.sessions.accel.maps import (
    ANY,
    FROM_ZERO,
    NO_NORM,
    ON_TOP,
    ZERO,
    average,
    convolve,
    pad,
    pad_pooled,
    pad_unshuffled,
)
from dynalay_gym.sessions.accel.vectors import Integers, Numbers

LAYER = np.dtype(
    [
        ("is_wide", np.int64),
        ("ratio", np.int64),  # side of the visible map over that of the hidden one
        # Where maps begin in a row's memory: the visible and hidden ones that the layer
        # reads (0: the image), and numbers of a pixel; its own u (y once iterated); h
        # (y if there is no hidden stream); and the input of the iteration.
        ("source", np.int64),
        ("source_columns", np.int64),
        ("source_hidden", np.int64),
        ("source_hidden_columns", np.int64),
        ("visible", np.int64),
        ("hidden", np.int64),
        ("injected", np.int64),
        ("pooled", np.int64),  # where its features begin
        ("norm", np.int64),  # where scales and shifts [P, 2, N] begin among the numbers
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

_ONE_STEP: Any = np.int64(1)


class Net(NamedTuple):
    """A packed main network.

    Attributes:
        numbers: Ones, as many as the largest map has pixels; kernels, scales, shifts.
        layers: A `LAYER` for each layer; one more for the stem, if there is one.
        convs: Their convolutions, a `CONV` each, [L or L + 1, 5].
        head_norm: Scale and shift of the head's input, [P, 2, F].
        head: The head's matrix, [F, K].
        head_bias: Its bias, [K].
        scratch: Numbers of the largest map that is worked on.
        rtol: Relative tolerance of a solve.
        max_steps: Most iterations of a solve.
    """

    numbers: Numbers
    layers: NDArray[Any]
    convs: NDArray[Any]
    head_norm: Numbers
    head: Numbers
    head_bias: Numbers
    scratch: int
    rtol: np.float32
    max_steps: int


@inlined
def _map_at(row: Numbers, first: int, conv: Any) -> Numbers:
    """Return a map of a row's memory, of the shape of a convolution's output."""
    return row[first : first + conv.out_side**2 * conv.columns]


@inlined
def _plain(net: Net, k: int, row: Numbers, pattern: int, padded: Numbers) -> None:
    """Apply layer k, or the stem, once: its u."""
    layer, conv = net.layers[k], net.convs[k, IN]
    least = ANY if layer.source == 0 else ZERO  # of an image, or of activations
    pad(conv, row[layer.source :], layer.source_columns, least, padded)
    norm = layer.norm + 2 * pattern * conv.columns
    u = _map_at(row, layer.visible, conv)
    convolve(conv, net.numbers, padded, u, FROM_ZERO, norm)


@inlined
def _inject(net: Net, k: int, row: Numbers, pattern: int, padded: Numbers) -> None:
    """Write the input of layer k's iteration, and where it starts: its relu."""
    layer, visible, recur = net.layers[k], net.convs[k, IN], net.convs[k, RECUR]
    u = _map_at(row, layer.visible, visible)
    h, x = _map_at(row, layer.hidden, recur), _map_at(row, layer.injected, recur)
    if layer.is_wide:
        conv, below = net.convs[k, VISIBLE], net.convs[k, BELOW]
        pad_pooled(conv, u, visible.columns, visible.out_side, layer.ratio, padded)
        norm = layer.norm_hidden + 2 * pattern * conv.columns
        if k > 0 and pattern >> (k - 1) & 1 == 0:  # the hidden stream below is zero
            convolve(conv, net.numbers, padded, x, FROM_ZERO, norm)
        else:
            convolve(conv, net.numbers, padded, x, FROM_ZERO, NO_NORM)
            source, columns = row[layer.source_hidden :], layer.source_hidden_columns
            if layer.source_hidden == 0:
                pad_unshuffled(below, source, columns, padded)
            else:
                pad(below, source, columns, ZERO, padded)
            convolve(below, net.numbers, padded, x, ON_TOP, norm)
    else:
        for i in range(x.size):
            x[i] = u[i]
    for i in range(x.size):
        h[i] = ZERO if x[i] < ZERO else x[i]


@inlined
def _read_out(
    net: Net, k: int, row: Numbers, pattern: int, padded: Numbers, read: Numbers
) -> None:
    """Add what the hidden stream says: ``y = relu(u + upsample(Norm(C h)))``."""
    layer, conv, visible = net.layers[k], net.convs[k, READ], net.convs[k, IN]
    pad(conv, row[layer.hidden :], net.convs[k, RECUR].columns, ZERO, padded)
    norm = layer.norm_readout + 2 * pattern * conv.columns
    convolve(conv, net.numbers, padded, read, FROM_ZERO, norm)
    side, small, columns = visible.out_side, conv.out_side, conv.columns
    y = _map_at(row, layer.visible, visible)
    scale = np.float32(small) / np.float32(side)
    for i in range(side):
        up = min(int(np.float32(i) * scale), small - 1)  # rounds as PyTorch does
        for j in range(side):
            left = min(int(np.float32(j) * scale), small - 1)
            at, to = (up * small + left) * columns, (i * side + j) * columns
            source, here = read[at : at + columns], y[to : to + columns]
            for c in range(conv.out_channels):
                value = source[c] + here[c]
                here[c] = ZERO if value < ZERO else value


@inlined
def _pool(
    net: Net, k: int, row: Numbers, is_iterated: bool, pooled: Numbers, sums: Numbers
) -> None:
    """Average layer k's streams; 0 for a hidden one that was not run."""
    layer, conv, recur = net.layers[k], net.convs[k, IN], net.convs[k, RECUR]
    middle = layer.pooled + conv.out_channels
    y = _map_at(row, layer.visible, conv)
    average(y, conv.columns, net.numbers, sums, pooled[layer.pooled : middle])
    if layer.is_wide:
        part = pooled[middle : middle + recur.out_channels]
        if is_iterated:
            h = _map_at(row, layer.hidden, recur)
            average(h, recur.columns, net.numbers, sums, part)
        else:
            part[:] = 0.0


@inlined
def _answer(net: Net, pooled: Numbers, state_id: int, logits: Numbers) -> None:
    """Apply the head to the last layer's averages."""
    top = pooled[pooled.size - len(net.head) :]
    scale, shift = net.head_norm[state_id, 0], net.head_norm[state_id, 1]
    for k in range(logits.size):
        logits[k] = net.head_bias[k]
    for i in range(len(net.head)):
        value, weights = top[i] * scale[i] + shift[i], net.head[i]
        for k in range(logits.size):
            logits[k] += value * weights[k]


@inlined
def _sweep(
    net: Net,
    row: Numbers,
    pooled: Numbers,
    logits: Numbers,
    residual: Numbers,
    lowest: int,
    target: int,
    already: bool,
    scratch: Numbers,
) -> tuple[int, int, int]:
    """Take one row from the bottom up: check, refresh or solve each layer.

    Args:
        net: The network.
        row: The row's memory, [S].
        pooled: Its pooled features, [D].
        logits: Its answer, [K].
        residual: Relative residuals of its last solves, [L].
        lowest: Lowest layer that is iterated, 1..L; 0 for the plain pass.
        target: State that the row is brought to.
        already: Whether the lowest layer sits on its fixed point: it is checked only.
        scratch: Room for three maps.

    Returns:
        Multiply-adds, iterations, and the worst status of a solve.
    """
    padded, sums = scratch[0], scratch[1]
    macs, total, worst = net.head.size, 0, CONVERGED
    for k in range(max(lowest - 1, 0), len(residual)):
        layer, recur, pattern = net.layers[k], net.convs[k, RECUR], target % (1 << k)
        h, x = _map_at(row, layer.hidden, recur), _map_at(row, layer.injected, recur)
        steps, status = 0, CONVERGED
        if already and k == lowest - 1:
            kept = scratch[2, : h.size]
            for i in range(h.size):
                kept[i] = h[i]
            _, steps, status = iterate(
                recur, net.numbers, x, kept, net.rtol, _ONE_STEP, padded, sums
            )
        else:
            if k != lowest - 1:
                _plain(net, k, row, pattern, padded)
                macs += layer.plain_macs
                residual[k] = 1.0
            if target >> k & 1:
                _inject(net, k, row, pattern, padded)
                residual[k], steps, status = iterate(
                    recur, net.numbers, x, h, net.rtol, net.max_steps, padded, sums
                )
                if layer.is_wide:
                    _read_out(net, k, row, pattern, padded, sums)
                is_below = k > 0 and pattern >> (k - 1) & 1
                macs += layer.setup_below_macs if is_below else layer.setup_macs
            _pool(net, k, row, target >> k & 1 != 0, pooled, sums)
        macs += steps * layer.iteration_macs
        total, worst = total + steps, max(worst, status)
    _answer(net, pooled, target, logits)
    return macs, total, worst


@compiled
def sweep_rows(
    net: Net,
    maps: Numbers,
    pooled: Numbers,
    logits: Numbers,
    residual: Numbers,
    state_id: Integers,
    rows: Integers,
    lowest: Integers,
    targets: Integers,
    images: Numbers,
    next_state: Integers,
    macs: Integers,
    steps: Integers,
    status: Integers,
    already: NDArray[np.bool_],
) -> None:
    """Bring some rows to other states.

    Args:
        net: The network.
        maps: Memory of all rows, [n, S].
        pooled: Pooled features, [n, D].
        logits: Answers, [n, K].
        residual: Relative residuals of the last solves, [n, L].
        state_id: States, [n].
        rows: Rows that act, [m].
        lowest: Lowest layer that each works on, 1..L; 0 leaves it as it is, [m].
        targets: States that they are brought to from their plain pass, [m]; none, [0],
            for those in which they arrive if they choose the layers `lowest`.
        images: New inputs of the rows, which take the plain pass, [m, H * W * C]; none,
            [0, 0], to go on from where they are.
        next_state: State that an action leads to, [2^L, L + 1].
        macs: Multiply-adds, written, [m].
        steps: Iterations, written, [m].
        status: Worst statuses, written, [m].
        already: Whether the layer sat on its fixed point, written, [m].
    """
    scratch = np.empty((3, net.scratch), dtype=np.float32)
    for i in range(len(rows)):
        r = rows[i]
        macs[i], steps[i], status[i], already[i] = 0, 0, CONVERGED, False
        target = 0
        if len(images) > 0:
            for j in range(images.shape[1]):
                maps[r, j] = images[i, j]
            if len(net.layers) > len(residual[r]):
                _plain(net, len(residual[r]), maps[r], 0, scratch[0])
        elif lowest[i] == 0:
            continue
        elif len(targets) > 0:
            target = targets[i]
        else:
            target = next_state[state_id[r], lowest[i]]
            already[i] = state_id[r] >> (lowest[i] - 1) & 1 != 0
        macs[i], steps[i], status[i] = _sweep(
            net, maps[r], pooled[r], logits[r], residual[r],
            lowest[i], target, already[i], scratch,
        )  # fmt: skip
        state_id[r] = target
