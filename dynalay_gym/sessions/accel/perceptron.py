"""A perceptron whose rows do not depend on each other."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.vectors import (
    FROM_ZERO,
    LANES,
    NO_NORM,
    Numbers,
    multiply,
    pack_matrix,
    panel_width,
)

# Of the type of a variable, whose code they share.
_ZERO: Any = np.int64(0)
_ONE: Any = np.int64(1)


class Perceptron:
    """Linear layers with one kind of activation between them; its numbers are copies.

    Args:
        layers: Weight [N, K] and bias [N] of each.
        activation: ``tanh`` or ``relu``.
        scale: What the input is multiplied by first.
        shift: What is added to it then.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Numbers, Numbers]],
        activation: str,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        self._widths = np.array([layers[0][0].shape[1], *(len(b) for _, b in layers)])
        self._numbers = np.concatenate(
            [part for weight, bias in layers for part in (pack_matrix(weight.T), bias)]
        ).astype(np.float32)
        self._is_tanh = bool(activation == "tanh")
        self._scale, self._shift = np.float32(scale), np.float32(shift)

    def __call__(self, x: Numbers) -> Numbers:
        """Outputs [m, N] of rows [m, K].

        Raises:
            ValueError: for rows of another size.
        """
        if x.ndim != 2 or x.shape[1] != self._widths[0]:
            raise ValueError(f"rows must have {self._widths[0]} numbers, not {x.shape}")
        x = np.ascontiguousarray(x, dtype=np.float32)
        out = np.empty((len(x), self._widths[-1]), dtype=np.float32)
        inside = self._scale, self._shift
        _run(x, *inside, self._numbers, self._widths, self._is_tanh, out)
        return out


@compiled
def _run(
    x: Numbers,
    scale: np.float32,
    shift: np.float32,
    numbers: Numbers,
    widths: NDArray[np.int64],
    is_tanh: bool,
    out: Numbers,
) -> None:
    n, widest = len(x), widths.max() + LANES
    rows = np.empty(n * widest, dtype=np.float32)
    sums = np.empty(n * widest, dtype=np.float32)
    depth, at = widths[0], 0
    for i in range(n):
        for j in range(depth):
            rows[i * depth + j] = x[i, j] * scale + shift
    for layer in range(1, len(widths)):
        wide = widths[layer]
        columns = wide + -wide % LANES
        width = panel_width(columns)
        for first in range(0, columns, width):
            w_at = at + first * depth
            multiply(
                n, rows, _ZERO, depth, _ZERO, _ONE, depth,
                numbers, w_at, sums, first, columns, width, FROM_ZERO, NO_NORM,
            )  # fmt: skip
        at += depth * columns
        is_last = layer == len(widths) - 1
        for i in range(n):
            for j in range(wide):
                value = sums[i * columns + j] + numbers[at + j]
                if is_last:
                    out[i, j] = value
                elif is_tanh:
                    rows[i * wide + j] = math.tanh(value)
                else:
                    rows[i * wide + j] = max(value, np.float32(0))
        at, depth = at + wide, wide


@compiled
def tree_log_probs(scores: Numbers, first: int) -> Numbers:
    """Log-probabilities of a two-level tree of actions.

    Args:
        scores: Rows [m, H + T]: those of the head, whose last one is a token for the
            tail's actions, then those of the tail.
        first: Actions of the head, H - 1.

    Returns:
        Rows [m, H - 1 + T].
    """
    n, wide = scores.shape
    out = np.empty((n, wide - 1), dtype=np.float32)
    for i in range(n):
        head = _log_sum(scores[i, : first + 1])
        tail = _log_sum(scores[i, first + 1 :])
        for a in range(first):
            out[i, a] = scores[i, a] - head
        token = scores[i, first] - head
        for a in range(first, wide - 1):
            out[i, a] = scores[i, a + 1] - tail + token
    return out


@compiled
def _log_sum(scores: Numbers) -> float:
    most, total = scores.max(), 0.0
    for score in scores:
        total += math.exp(np.float64(score) - most)
    log_sum: float = most + math.log(total)
    return log_sum
