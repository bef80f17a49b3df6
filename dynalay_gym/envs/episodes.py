"""Which sample and penalty each episode of a row gets, and which rows have finished.

A counter-based hash of (row seed, episode number) decides: the same in single and
vector form, across autoresets, whatever the number of rows.

Axes: N rows, m of them asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.envs.checks import ResetOptions

Counters = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_AHEAD = 16  # episodes that are hashed at once: few long calls beat many short ones
_SAMPLE, _PENALTY = (np.uint64(salt * int(_GOLDEN) % 2**64) for salt in (1, 2))


def penalty_at(penalty_range: tuple[float, float], shares: Any) -> Any:
    """Return the penalties at some shares of a range, evenly in the logarithm.

    A frontier reaches over orders of magnitude; drawn evenly in value, few episodes
    would show its lower half. From 0 on a range has no logarithm and is even in value.

    Args:
        penalty_range: Lowest and highest penalty.
        shares: Array or tensor of numbers in [0, 1].
    """
    low, high = penalty_range
    if low == 0:
        return high * shares
    return low * (high / low) ** shares


class RowEpisodes:
    """Hands out the episodes of N rows and remembers whose has ended.

    Attributes:
        finished: Rows whose episode has ended, bool [N]; all before the first.
        seeded: Whether the rows' streams have seeds.

    Args:
        num_rows: Rows N.
        num_samples: Samples to choose from.
        penalty_range: Lowest and highest penalty.
    """

    def __init__(
        self, num_rows: int, num_samples: int, penalty_range: tuple[float, float]
    ) -> None:
        self.finished = np.ones(num_rows, dtype=np.bool_)
        self.seeded = False
        self._num_samples, self._penalty_range = num_samples, penalty_range
        self._mixed_seeds = np.zeros(num_rows, dtype=np.uint64)
        # Episodes first .. first + _AHEAD - 1 of every row, of which some are used.
        self._first = np.full(num_rows, -_AHEAD, dtype=np.int64)
        self._used = np.full(num_rows, _AHEAD, dtype=np.int64)
        self._index = np.zeros((_AHEAD, num_rows), dtype=np.int64)
        self._penalty = np.zeros((_AHEAD, num_rows), dtype=np.float32)

    def seed(self, rows: NDArray[np.int64], seeds: Sequence[int | None]) -> None:
        """Reseed each of `rows` whose entry in `seeds` (one per row, N) is not None."""
        given = {int(row): seed for row in rows if (seed := seeds[row]) is not None}
        numbers = np.array([seed % 2**64 for seed in given.values()], dtype=np.uint64)
        which = list(given)
        self._mixed_seeds[which] = _mix(numbers)
        self._first[which], self._used[which] = -_AHEAD, _AHEAD
        self.seeded = True

    def begin(
        self, asked: ResetOptions, penalty_scale: float = 1.0
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Next episodes of the rows asked for: samples and penalties, [m] each.

        Values in `asked` override the drawn ones; the streams advance in either case.
        Penalties that are drawn are multiplied by `penalty_scale`.
        """
        assert self.seeded, "seed comes before begin"
        index, penalty = self._draw(asked.rows)
        self.finished[asked.rows] = False
        return (
            index if asked.index is None else asked.index,
            penalty * np.float32(penalty_scale)
            if asked.penalty is None
            else asked.penalty,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """What the rows' next episodes depend on, by name: [N] each."""
        return {
            "seeds": self._mixed_seeds.view(np.int64),
            "episodes": self._first + self._used,
            "finished": self.finished,
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` returned."""
        self._mixed_seeds = state["seeds"].copy().view(np.uint64)
        self._first[:], self._used[:] = state["episodes"] - _AHEAD, _AHEAD
        self.finished, self.seeded = state["finished"].copy(), True

    def _draw(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Next episode in the streams of the given rows."""
        used = self._used[rows]
        if used.max(initial=0) == _AHEAD:
            self._look_ahead()
            used = self._used[rows]
        self._used[rows] = used + 1
        place = used * len(self._used) + rows
        return self._index.take(place), self._penalty.take(place)

    @np.errstate(all="ignore")  # a penalty may be of any size
    def _look_ahead(self) -> None:
        """Hash the next episodes of every row, [_AHEAD, N]."""
        self._first += self._used
        self._used[:] = 0
        episodes = self._first + np.arange(_AHEAD)[:, None]
        counters = _mix(self._mixed_seeds + episodes.astype(np.uint64))
        index = _mix(counters + _SAMPLE) % np.uint64(self._num_samples)
        self._index = index.astype(np.int64)
        shares = _mix(counters + _PENALTY) / 2.0**64
        self._penalty = penalty_at(self._penalty_range, shares).astype(np.float32)


def _mix(x: Counters) -> Counters:
    """SplitMix64's output function (Steele et al. 2014)."""
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
