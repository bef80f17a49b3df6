"""Accuracy against compute: what a policy gets at every budget, with intervals.

A frontier is a policy at several settings (penalties, thresholds). Stopping at once is
always possible, and between two settings a coin can choose, so it starts at *nop*, is
straight between neighbours, and stays at the accuracy of its most expensive setting.

Axes: n samples, P points.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_means

BUDGETS = (0.1, 0.2, 0.25, 0.35, 0.5)  # shares of the full plan's extra MACs
GAINS = (0.95, 0.99)  # shares of what the full plan gets right beyond NOP
_RESAMPLES = 500
_PER_SAMPLE = ("returns", "correct", "confidence", "macs", "actions")


def average(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Return the mean of several seeds of one policy, sample by sample.

    Args:
        results: Evaluations on the same samples in the same order.
    """
    means: dict[str, Any] = {
        name: np.mean([getattr(each, name) for each in results], axis=0)
        for name in _PER_SAMPLE
    }
    return replace(results[0], **means)


def measure_frontier(
    points: Sequence[EvaluationResult],
    nop: EvaluationResult,
    always: EvaluationResult,
    groups: NDArray[Any] | None = None,
    *,
    budgets: Sequence[float] = BUDGETS,
    gains: Sequence[float] = GAINS,
) -> dict[str, list[float]]:
    """Return measures of a frontier, each with its 95 % interval.

    Args:
        points: The policy at its settings, in any order.
        nop: Stopping at once, on the same samples.
        always: The full plan, on the same samples.
        groups: Ids of the original samples [n]; see `bootstrap_interval`.
        budgets: Shares of *always*' extra multiply-adds.
        gains: Shares of *always*' accuracy beyond *nop*'s.

    Returns:
        ``[value, low, high]`` by name: ``accuracy@<budget>``; ``compute@<gain>``, the
        least share of *always*' extra multiply-adds that reaches a share of its gain,
        infinite if none does; and ``area``, the mean accuracy over the logarithm of
        compute, from the plain pass to *always*.
    """
    results = [nop, *points, always]
    accuracies = np.stack([each.correct.astype(np.float64) for each in results])
    macs = np.stack([each.macs for each in results]) / nop.plain_macs

    def measure(means: NDArray[np.float64]) -> dict[str, float]:
        accuracy, extra = means.reshape(2, -1)
        order = np.argsort(extra[:-1], kind="stable")
        x, y = extra[:-1][order], accuracy[:-1][order]
        full = extra[-1]
        found = {f"accuracy@{b:g}": np.interp(b * full, x, y) for b in budgets}
        for gain in gains:
            target = accuracy[0] + gain * (accuracy[-1] - accuracy[0])
            found[f"compute@{gain:g}"] = _first_reach(x, y, target) / full
        return found | {"area": _log_area(x, y, full)}

    values = np.concatenate([accuracies, macs])
    whole = measure(values.mean(axis=1))
    resampled = bootstrap_means(values, groups, resamples=_RESAMPLES).T
    draws = [measure(means) for means in resampled]
    return {
        name: [float(value), *_ends([draw[name] for draw in draws])]
        for name, value in whole.items()
    }


def _first_reach(x: NDArray[Any], y: NDArray[Any], target: float) -> float:
    """Return where a line through points first gets to a height; infinity if never."""
    above = np.flatnonzero(y >= target)
    if len(above) == 0:
        return np.inf
    k = int(above[0])
    if k == 0:
        return float(x[0])
    share = (target - y[k - 1]) / (y[k] - y[k - 1])
    return float(x[k - 1] + share * (x[k] - x[k - 1]))


def _log_area(x: NDArray[Any], y: NDArray[Any], full: float) -> float:
    """Return the mean height over log(1 + x) from x = 0 to `full`."""
    along = np.append(np.log1p(np.minimum(x, full)), np.log1p(full))
    return float(np.trapezoid(np.append(y, y[-1]), along) / np.log1p(full))


def _ends(draws: Sequence[float]) -> list[float]:
    """Return the 95 % interval; some draws may be infinite, so none are averaged."""
    low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    return [float(low), float(high)]
