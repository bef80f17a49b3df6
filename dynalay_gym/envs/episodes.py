"""Which sample and penalty each episode of a row gets.

A counter-based hash of (row seed, episode number): the same in single and vector form,
across autoresets, whatever the number of rows.
"""

import numpy as np
from numpy.typing import NDArray

Counters = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SAMPLE, _PENALTY = np.uint64(1), np.uint64(2)


class EpisodeStream:
    """Endless stream of (sample, penalty) for each of n rows.

    Args:
        seeds: One seed per row, non-negative.
        num_samples: Samples to choose from.
        penalty_range: Lowest and highest penalty.
    """

    def __init__(
        self,
        seeds: list[int],
        num_samples: int,
        penalty_range: tuple[float, float],
    ) -> None:
        self._seeds = np.array([s % 2**64 for s in seeds], dtype=np.uint64)
        self._episodes = np.zeros(len(seeds), dtype=np.uint64)
        self._num_samples = num_samples
        self._penalty_range = penalty_range

    def reseed(self, row: int, seed: int) -> None:
        """Restart one row's stream."""
        self._seeds[row] = np.uint64(seed % 2**64)
        self._episodes[row] = 0

    def draw(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Next episode of the given rows: sample indices and penalties, [m] each."""
        seeds, episodes = self._seeds[rows], self._episodes[rows]
        self._episodes[rows] += np.uint64(1)
        index = _hash(seeds, episodes, _SAMPLE) % np.uint64(self._num_samples)
        low, high = self._penalty_range
        share = _hash(seeds, episodes, _PENALTY) / 2.0**64
        penalty = low + (high - low) * share
        return index.astype(np.int64), penalty.astype(np.float32)


def _hash(seeds: Counters, episodes: Counters, salt: np.uint64) -> Counters:
    with np.errstate(over="ignore"):
        return _mix(_mix(_mix(seeds) + episodes) + salt * _GOLDEN)


def _mix(x: Counters) -> Counters:
    """SplitMix64's output function (Steele et al. 2014)."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
