"""Confidence intervals of means over samples that are not independent."""

from typing import Any

import numpy as np


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile interval of the mean, resampling whole groups.

    The nine shifts of one digit are not nine independent samples, so the original
    images are drawn, each with all its samples.

    Args:
        values: One number per sample [n]: returns, or paired differences of returns.
        groups: Id of the original image per sample [n]; None: every sample by itself.
        confidence: Probability that the interval is meant to hold, in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end.

    References:
        Field and Welsh (2007), Bootstrapping clustered data.
    """
    how: Any = {"confidence": confidence, "resamples": resamples, "seed": seed}
    low, high = bootstrap_intervals(values[None], groups, **how)[0]
    return float(low), float(high)


def bootstrap_intervals(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Return the intervals of several means over the same samples at once.

    Args:
        values: One row per quantity [k, n].
        groups: See `bootstrap_interval`, as for the other arguments.
        confidence: Probability that an interval is meant to hold.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper ends, float64 [k, 2].
    """
    means = bootstrap_means(values, groups, resamples=resamples, seed=seed)
    tail = (1.0 - confidence) / 2.0
    ends: np.ndarray = np.quantile(means, [tail, 1.0 - tail], axis=1).T
    return ends


def bootstrap_means(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Return the means of several quantities, each over the same resampled groups.

    Args:
        values: One row per quantity [k, n].
        groups: See `bootstrap_interval`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; equal seeds draw equal groups.

    Returns:
        float64 [k, resamples].
    """
    _, members = np.unique(
        np.arange(values.shape[1]) if groups is None else groups, return_inverse=True
    )
    counts = np.bincount(members)
    sums = np.stack([np.bincount(members, weights=row) for row in values])
    rng = np.random.default_rng(seed)
    means = np.empty((len(values), resamples))
    for k in range(resamples):
        drawn = rng.integers(len(counts), size=len(counts))
        times = np.bincount(drawn, minlength=len(counts))
        means[:, k] = sums @ times / (counts @ times)
    return means
