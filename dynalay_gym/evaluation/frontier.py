"""Accuracy against compute: what a policy gets at every budget, with intervals.

A frontier is a policy at several settings (penalties, thresholds). Stopping at once is
always possible, and between two settings a coin can choose, so it starts at *nop*, is
straight between neighbours, and stays at the accuracy of its most expensive setting.

Axes: n samples, P points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, and what it is on resampled samples.

    Attributes:
        value: On the samples themselves.
        draws: On each resample, float64 [b]; the same resamples for all policies, so
            draws of two policies are paired.
    """

    value: float
    draws: NDArray[np.float64]

    def __sub__(self, other: "Measure") -> "Measure":
        """Return the difference, paired; 0 where both are infinite."""
        values = np.append(self.draws, self.value), np.append(other.draws, other.value)
        gaps = np.zeros(len(values[0]))
        np.subtract(*values, out=gaps, where=values[0] != values[1])
        return Measure(value=float(gaps[-1]), draws=gaps[:-1])

    def interval(self) -> list[float]:
        """Return value, lower and upper end of the 95 % interval.

        Draws may be infinite, so none are averaged.
        """
        ends = np.quantile(self.draws, [0.025, 0.975], method="inverted_cdf")
        return [self.value, *ends.tolist()]


def measure_frontier(
    points: Sequence[EvaluationResult],
    nop: EvaluationResult,
    always: EvaluationResult,
    groups: NDArray[Any] | None = None,
    *,
    budgets: Sequence[float] = BUDGETS,
    gains: Sequence[float] = GAINS,
) -> dict[str, Measure]:
    """Return measures of a frontier, by name.

    Args:
        points: The policy at its settings, in any order.
        nop: Stopping at once, on the same samples.
        always: The full plan, on the same samples.
        groups: Ids of the original samples [n]; see `bootstrap_interval`.
        budgets: Shares of *always*' extra multiply-adds.
        gains: Shares of *always*' accuracy beyond *nop*'s.

    Returns:
        ``accuracy@<budget>``; ``compute@<gain>``, the least share of *always*' extra
        multiply-adds that reaches a share of its gain, infinite if none does; and
        ``area``, the mean accuracy over the logarithm of compute, from the plain pass
        to *always*.
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
    resampled = bootstrap_means(values, groups, resamples=_RESAMPLES).T
    draws = [measure(means) for means in resampled]
    return {
        name: Measure(
            value=float(value), draws=np.array([draw[name] for draw in draws])
        )
        for name, value in measure(values.mean(axis=1)).items()
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
