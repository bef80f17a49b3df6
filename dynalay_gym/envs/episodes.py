"""Which sample and penalty each episode of a row gets.

A counter-based hash of (row seed, episode number): the same in single and vector form,
across autoresets, whatever the number of rows.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Counters = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SAMPLE, _PENALTY = (np.uint64(salt * int(_GOLDEN) % 2**64) for salt in (1, 2))


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
        self._mixed_seeds = _mix(np.array([s % 2**64 for s in seeds], dtype=np.uint64))
        self._episodes = np.zeros(len(seeds), dtype=np.uint64)
        self._num_samples = num_samples
        self._penalty_range = penalty_range

    def reseed(self, row: int, seed: int) -> None:
        """Restart one row's stream."""
        self._mixed_seeds[row] = _mix(np.array([seed % 2**64], dtype=np.uint64))[0]
        self._episodes[row] = 0

    def state(self) -> dict[str, NDArray[np.int64]]:
        """What the next episodes depend on, by name: [n] each."""
        return {
            "seeds": self._mixed_seeds.view(np.int64),
            "episodes": self._episodes.view(np.int64),
        }

    def load(self, state: Mapping[str, NDArray[np.int64]]) -> None:
        """Go on from what ``state`` returned."""
        self._mixed_seeds = state["seeds"].copy().view(np.uint64)
        self._episodes = state["episodes"].copy().view(np.uint64)

    def draw(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Next episode of the given rows: sample indices and penalties, [m] each."""
        episodes = self._episodes[rows]
        self._episodes[rows] = episodes + np.uint64(1)
        counters = _mix(self._mixed_seeds[rows] + episodes)
        index = _mix(counters + _SAMPLE) % np.uint64(self._num_samples)
        low, high = self._penalty_range
        if low == high:
            return index.astype(np.int64), np.full(len(rows), low, dtype=np.float32)
        penalty = low + (high - low) * (_mix(counters + _PENALTY) / 2.0**64)
        return index.astype(np.int64), penalty.astype(np.float32)


def _mix(x: Counters) -> Counters:
    """SplitMix64's output function (Steele et al. 2014)."""
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
