"""A main network's plain pass and sweeps, one row after the other.

`pack.py` packs a network. A row's memory begins with its image, [H * W * C]; then come
the maps of the stem and the layers.

Axes: n rows, m of them acted on, L layers, D pooled features, F of them the head's, K
classes, P patterns of iterated layers, S numbers of a row's memory.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled, inlined
from dynalay_gym.sessions.accel.iteration import CONVERGED, iterate
from dynalay_gym.sessions.accel.maps import (
    CONV,
    FROM_ZERO,
    NO_NORM,
    ON_TOP,
    ZERO,
    average,
    convolve,
    pad,
    pad_pooled,
)
from dynalay_gym.sessions.accel.vectors import Integers, Numbers

# Convolutions have their names in `main_layers`.
CONVS = "weight_in", "visible_to_hidden", "hidden_to_hidden", "recurrence", "readout"
_LAYER_FIELDS = (
    "visible",  # where its u is in a row's memory, or y once it was iterated
    "hidden",  # where h is; y if there is no hidden stream
    "injected",  # where the input of the iteration is
    "is_wide",
    "ratio",  # side of the visible map over that of the hidden one
    "pooled",  # where its features begin
    *("plain_macs", "setup_macs", "setup_below_macs", "iteration_macs"),
)
LAYER = np.dtype(
    [(name, CONV) for name in CONVS] + [(name, np.int64) for name in _LAYER_FIELDS]
)
_ONE_STEP: Any = np.int64(1)


class Net(NamedTuple):
    """A packed main network."""

    numbers: Numbers  # as many ones as a map has pixels at most; kernels and norms
    layers: NDArray[Any]  # a `LAYER` each; one more for the stem, if there is one
    next_state: Integers  # state that an action leads to, [2^L, L + 1]
    head_norm: Numbers  # scale and shift of the head's input, [P, 2, F]
    head: Numbers  # [F, K]
    head_bias: Numbers  # [K]
    scratch: int  # numbers of the largest map that is worked on
    rtol: np.float32  # relative tolerance of a solve
    max_steps: int  # most iterations of a solve


class Rows(NamedTuple):
    """Networks in progress, a `MainState` as arrays."""

    maps: Numbers  # [n, S]
    pooled: Numbers  # [n, D]
    logits: Numbers  # [n, K]
    residual: Numbers  # [n, L]
    state_id: Integers  # [n]


@inlined
def _map_at(row: Numbers, first: int, conv: Any) -> Numbers:
    """Return a map of a row's memory, of the shape of a convolution's output."""
    return row[first : first + conv.out_side**2 * conv.columns]


@inlined
def _plain(net: Net, layer: Any, row: Numbers, pattern: int, padded: Numbers) -> None:
    """Apply a layer, or the stem, once: its u."""
    conv = layer.weight_in
    pad(conv, row[conv.source :], padded)
    u = _map_at(row, layer.visible, conv)
    convolve(conv, net.numbers, padded, u, FROM_ZERO, pattern)


@inlined
def _inject(
    net: Net, layer: Any, row: Numbers, pattern: int, is_below: bool, padded: Numbers
) -> None:
    """Write the input of a layer's iteration, and where it starts: its relu."""
    u = _map_at(row, layer.visible, layer.weight_in)
    h = _map_at(row, layer.hidden, layer.recurrence)
    x = _map_at(row, layer.injected, layer.recurrence)
    if layer.is_wide:
        conv, below = layer.visible_to_hidden, layer.hidden_to_hidden
        pad_pooled(conv, u, layer.weight_in.out_side, layer.ratio, padded)
        own_pattern = NO_NORM if is_below else pattern
        convolve(conv, net.numbers, padded, x, FROM_ZERO, own_pattern)
        if is_below:
            pad(below, row[below.source :], padded)
            convolve(below, net.numbers, padded, x, ON_TOP, pattern)
    else:
        for i in range(x.size):
            x[i] = u[i]
    for i in range(x.size):
        h[i] = ZERO if x[i] < ZERO else x[i]


@inlined
def _read_out(
    net: Net, layer: Any, row: Numbers, pattern: int, padded: Numbers, read: Numbers
) -> None:
    """Add what the hidden stream says: ``y = relu(u + upsample(Norm(C h)))``."""
    conv, side = layer.readout, layer.weight_in.out_side
    pad(conv, row[conv.source :], padded)
    convolve(conv, net.numbers, padded, read, FROM_ZERO, pattern)
    y, small, columns = row[layer.visible :], conv.out_side, conv.columns
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
    net: Net, layer: Any, row: Numbers, is_iterated: int, pooled: Numbers, sums: Numbers
) -> None:
    """Average a layer's streams; 0 for a hidden one that was not run."""
    conv, recur = layer.weight_in, layer.recurrence
    y, h = _map_at(row, layer.visible, conv), _map_at(row, layer.hidden, recur)
    part = pooled[layer.pooled :]
    average(y, conv.columns, net.numbers, sums, part[: conv.out_channels])
    if layer.is_wide:
        part = part[conv.out_channels :][: recur.out_channels]
        if is_iterated:
            average(h, recur.columns, net.numbers, sums, part)
        else:
            part[:] = 0.0


@inlined
def _answer(net: Net, pooled: Numbers, state_id: int, logits: Numbers) -> None:
    """Apply the head to the last layer's averages, the last F features."""
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
    rows: Rows,
    r: int,
    first: int,
    target: int,
    already: bool,
    scratch: Numbers,
) -> tuple[int, int, int]:
    """Take row r from the bottom up; return the first three costs of `sweep_rows`."""
    row, pooled, residual = rows.maps[r], rows.pooled[r], rows.residual[r]
    padded, sums = scratch[0], scratch[1]
    macs, total, worst = net.head.size, 0, CONVERGED
    for k in range(max(first - 1, 0), len(residual)):
        layer, pattern, is_iterated = net.layers[k], target % (1 << k), target >> k & 1
        recur, steps, status = layer.recurrence, 0, CONVERGED
        h, x = _map_at(row, layer.hidden, recur), _map_at(row, layer.injected, recur)
        if already and k == first - 1:  # a check, which changes nothing
            kept = scratch[2, : h.size]
            for i in range(h.size):
                kept[i] = h[i]
            _, steps, status = iterate(
                recur, net.numbers, x, kept, net.rtol, _ONE_STEP, padded, sums
            )
        else:
            if k != first - 1:
                _plain(net, layer, row, pattern, padded)
                macs, residual[k] = macs + layer.plain_macs, 1.0
            if is_iterated:
                is_below = k == 0 or pattern >> (k - 1) & 1 != 0
                _inject(net, layer, row, pattern, is_below, padded)
                residual[k], steps, status = iterate(
                    recur, net.numbers, x, h, net.rtol, net.max_steps, padded, sums
                )
                if layer.is_wide:
                    _read_out(net, layer, row, pattern, padded, sums)
                macs += layer.setup_below_macs if is_below else layer.setup_macs
            _pool(net, layer, row, is_iterated, pooled, sums)
        macs += steps * layer.iteration_macs
        total, worst = total + steps, max(worst, status)
    _answer(net, pooled, target, rows.logits[r])
    rows.state_id[r] = target
    return macs, total, worst


@compiled
def sweep_rows(
    net: Net,
    rows: Rows,
    chosen: Integers,
    lowest: Integers,
    targets: Integers,
    images: Numbers,
    cost: Integers,
) -> None:
    """Bring some rows to other states: check, refresh or solve their layers.

    Args:
        net: The network.
        rows: All rows.
        chosen: Those that act, [m].
        lowest: Lowest layer that each works on, 1..L; 0 leaves it as it is, [m].
        targets: Target state of each row, which starts from its plain pass, [m]; an
            empty array means ``next_state[state, lowest]``.
        images: New input of each row, which takes the plain pass whatever `lowest`
            says, [m, H * W * C]; an empty array means that rows keep their input.
        cost: Written: multiply-adds, iterations, worst status of a solve, and whether
            the lowest layer sat on its fixed point already, [m, 4].
    """
    scratch = np.empty((3, net.scratch), dtype=np.float32)
    for i in range(len(chosen)):
        r, first, target, already = chosen[i], lowest[i], 0, False
        cost[i] = 0
        if len(images) > 0:
            first = 0
            for j in range(images.shape[1]):
                rows.maps[r, j] = images[i, j]
            for k in range(rows.residual.shape[1], len(net.layers)):  # the stem
                _plain(net, net.layers[k], rows.maps[r], 0, scratch[0])
        elif first == 0:
            continue
        elif len(targets) > 0:
            target = targets[i]
        else:
            target = net.next_state[rows.state_id[r], first]
            already = rows.state_id[r] >> (first - 1) & 1 != 0
        cost[i, 0], cost[i, 1], cost[i, 2] = _sweep(
            net, rows, r, first, target, already, scratch
        )
        cost[i, 3] = already
