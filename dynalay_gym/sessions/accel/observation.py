"""Observations of many rows in one pass; ``envs/observation.py`` says what they are."""

import math

import numpy as np

from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.vectors import Integers, Numbers

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _squash(x: np.float32) -> np.float32:
    """``x / (1 + x)``; 1 if that is no number."""
    squashed = x / (_ONE + x)
    return _ONE if math.isnan(squashed) else squashed


@compiled
def _share(x: float) -> np.float32:
    """A number of [0, 1] in spite of rounding; 1 if it is none."""
    if math.isnan(x) or x > 1:
        return _ONE
    return max(np.float32(x), _ZERO)


@compiled
def _summarise(logits: Numbers, out: Numbers) -> None:
    """Largest probability, entropy / log K, and margin of the two largest."""
    first, second = np.float32(-math.inf), np.float32(-math.inf)
    is_number = True
    for logit in logits:
        is_number = is_number and math.isfinite(logit)
        if logit > first:
            first, second = logit, first
        elif logit > second:
            second = logit
    if not is_number:
        out[:3] = _ONE
        return
    total, weighted = 0.0, 0.0
    for logit in logits:
        shifted = np.float64(logit) - np.float64(first)
        weight = math.exp(shifted)
        total += weight
        weighted += weight * shifted
    entropy = math.log(total) - weighted / total
    top = 1 / total
    out[0] = _share(top)
    out[1] = _share(entropy / math.log(len(logits)))
    out[2] = _share(top - math.exp(np.float64(second) - np.float64(first)) / total)


@compiled
def observe_network(
    features: Numbers,
    logits: Numbers,
    residuals: Numbers,
    path: Integers,
    rows: Integers,
    out: Numbers,
) -> None:
    """What is seen of some rows' networks: the columns before ``penalty``.

    Args:
        features: Pooled features of all rows [n, F].
        logits: Answers [n, K].
        residuals: Residuals [n, L].
        path: States [n].
        rows: The rows, int64 [m].
        out: Written to, [m, D].
    """
    num_features, num_layers = features.shape[1], residuals.shape[1]
    last = num_features + 3 + num_layers
    for i in range(len(rows)):
        r, seen = rows[i], out[i]
        for f in range(num_features):
            seen[f] = _squash(features[r, f])
        _summarise(logits[r], seen[num_features : num_features + 3])
        for k in range(num_layers):
            residual = residuals[r, k]
            is_below = residual < 1  # not if it is no number
            seen[num_features + 3 + k] = residual if is_below else _ONE
            seen[last + k] = np.float32(path[r] >> k & 1)


@compiled
def observe_episode(
    penalty: Numbers,
    last_action: Integers,
    consecutive: Integers,
    decisions: Integers,
    max_decisions: int,
    num_actions: int,
    rows: Integers,
    out: Numbers,
) -> None:
    """What is seen of some rows' episodes: the columns from ``penalty`` on.

    Args:
        penalty: Penalties of all rows [n].
        last_action: Last actions [n]; -1 for none.
        consecutive: How often in a row each was chosen [n].
        decisions: Decisions taken [n].
        max_decisions: Most decisions of an episode.
        num_actions: Actions A.
        rows: The rows, int64 [m].
        out: Its last columns are written to, [m, D].
    """
    most = np.float32(max_decisions)
    for i in range(len(rows)):
        r, seen = rows[i], out[i, out.shape[1] - num_actions - 3 :]
        seen[0] = _squash(penalty[r])
        for a in range(num_actions):
            seen[1 + a] = np.float32(last_action[r] == a)
        seen[1 + num_actions] = np.float32(consecutive[r]) / most
        seen[2 + num_actions] = _ONE - np.float32(decisions[r]) / most
