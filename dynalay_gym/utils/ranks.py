"""Ranks of numbers, and their correlation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return Spearman's rank correlation; NaN where one of the two is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks 1..n; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = last - (counts - 1) / 2.0
    return mean[inverse]
