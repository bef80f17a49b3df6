"""A main network's plain pass and sweeps, one row after the other.

``pack.py`` packs a network; ``layer.py`` has what is done to a layer.
"""

from typing import Any

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.iteration import CONVERGED, iterate
from dynalay_gym.sessions.accel.layer import answer, inject, plain, pool, read_out
from dynalay_gym.sessions.accel.maps import ANY, ZERO, convolve_into, pad
from dynalay_gym.sessions.accel.net import (
    CONVS_PER_LAYER,
    RECUR,
    Net,
    hidden_of,
    injected_of,
    scratch_of,
    visible_of,
)
from dynalay_gym.sessions.accel.vectors import FROM_ZERO, Integers, Numbers, noinline

# Constants of these types share the code of variables.
NO_PATTERN: Any = np.int64(0)
_ONE_STEP: Any = np.int64(1)
_NOT_ITERATED: Any = np.bool_(False)


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
    padded, sums, more = scratch_of(net), scratch_of(net), scratch_of(net)
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
            plain(net, k, source, least, row, NO_PATTERN, padded, sums)
            pool(net, k, row, _NOT_ITERATED, features[r])
            source, least = visible_of(net, k, row), ZERO
        residuals[r], path[r] = 1.0, 0
        answer(net, features[r], NO_PATTERN, logits[r], sums, more)


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
    noinline()
    padded, sums, more = scratch
    macs, total, worst = 0, 0, CONVERGED
    for k in range(start - 1, len(net.layers)):
        layer, recur = net.layers[k], net.convs[2 + CONVS_PER_LAYER * k + RECUR]
        bit, is_start = 1 << k, k == start - 1
        pattern = target & (bit - 1)
        h, x = hidden_of(net, k, row), injected_of(net, k, row)
        steps, status = 0, CONVERGED
        if is_start and again:
            kept = more[: h.size]
            _, steps, status = iterate(
                recur, net.numbers, x, h, kept, net.rtol, _ONE_STEP, padded, sums
            )
        else:
            if not is_start:
                below = visible_of(net, k - 1, row)
                plain(net, k, below, ZERO, row, pattern, padded, sums)
                macs += layer.plain_macs
                residuals[k] = 1.0
            if target & bit:
                inject(net, k, row, pattern, padded, sums)
                most = net.max_steps
                residuals[k], steps, status = iterate(
                    recur, net.numbers, x, x, h, net.rtol, most, padded, sums
                )
                if layer.is_wide:
                    read_out(net, k, row, pattern, sums)
                is_below = k > 0 and pattern >> (k - 1) & 1 != 0
                macs += layer.setup_below_macs if is_below else layer.setup_macs
            pool(net, k, row, target & bit != 0, features)
        macs += steps * layer.iteration_macs
        total, worst = total + steps, max(worst, status)
    answer(net, features, target, logits, sums, more)
    head = net.convs[1]
    return macs + head.in_channels * head.out_channels, total, worst


@compiled
def bring(
    net: Net,
    maps: Numbers,
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    path: Integers,
    rows: Integers,
    goals: Integers,
    are_layers: bool,
    macs: Integers,
    steps: Integers,
    status: Integers,
) -> None:
    """Bring rows to what they are asked for; 0 leaves one as it is.

    Args:
        net: The network.
        maps: Memory of all rows [n, S].
        features: Pooled features [n, F].
        logits: Answers [n, K].
        residuals: Relative residuals of the last solves [n, L].
        path: States [n].
        rows: Rows that act, int64 [m].
        goals: Layer that each brings to its fixed point, refreshing what is above; or
            state that each is brought to from its plain pass, int64 [m].
        are_layers: Whether the goals are layers.
        macs: Written: multiply-adds [m].
        steps: Written: iterations [m].
        status: Written: worst statuses [m].
    """
    scratch = scratch_of(net), scratch_of(net), scratch_of(net)
    for i in range(len(rows)):
        r, start, target, again = rows[i], goals[i], goals[i], False
        macs[i], steps[i], status[i] = 0, 0, CONVERGED
        if goals[i] == 0:
            continue
        if are_layers:
            bit = 1 << (start - 1)
            again, target = path[r] & bit != 0, path[r] & (bit - 1) | bit
        else:
            start = 1
            while target >> (start - 1) & 1 == 0:
                start += 1
        macs[i], steps[i], status[i] = _sweep(
            net, maps[r], features[r], logits[r], residuals[r],
            start, target, again, scratch,
        )  # fmt: skip
        path[r] = target
