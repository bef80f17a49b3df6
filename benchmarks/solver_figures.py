"""Figures of solves and gradients, ratios taken round by round."""

from typing import Any

import numpy as np


def summaries(
    seconds: dict[str, list[float]], facts: dict[str, dict[str, float]], base: str
) -> dict[str, dict[str, Any]]:
    """Facts, quartiles and speed-up over ``base`` of every variant."""
    return {
        name: {
            **facts[name],
            "seconds": spread(values),
            "rounds": values,
            "speedup": ratio(np.array(seconds[base]), values),
        }
        for name, values in seconds.items()
    }


def spread(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    quartiles: list[float] = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return quartiles


def ratio(base: np.ndarray, values: list[float]) -> float:
    """Median over rounds of base / values, of the rounds that the latter played."""
    return float(np.median(base[: len(values)] / np.array(values)))
