"""Which episode each row of a vector environment is in: seeds, streams, endings.

Axes: N rows, m of them asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from dynalay_gym.envs.episodes import EpisodeStream
from dynalay_gym.envs.reset_options import ResetOptions
from dynalay_gym.errors import ConfigError, InvalidActionError

Seed = int | Sequence[int | None] | None


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
        self._stream = EpisodeStream([0] * num_rows, num_samples, penalty_range)

    def seed(self, rows: NDArray[np.int64], seeds: Sequence[int | None]) -> None:
        """Restart the streams of those of the rows that have one among N seeds."""
        given = {int(row): seed for row in rows if (seed := seeds[row]) is not None}
        self._stream.reseed(list(given), list(given.values()))
        self.seeded = True

    def begin(
        self, asked: ResetOptions
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Next episodes of the rows asked for: samples and penalties, [m] each.

        What was asked for replaces what the streams give; they move on all the same.
        """
        assert self.seeded, "seed comes before begin"
        index, penalty = self._stream.draw(asked.rows)
        self.finished[asked.rows] = False
        return (
            index if asked.index is None else asked.index,
            penalty if asked.penalty is None else asked.penalty,
        )

    def end(self, ended: NDArray[np.bool_]) -> None:
        """Take note of the rows whose episode has just ended, bool [N]."""
        self.finished = ended.copy()  # what was handed in is also handed out

    def waiting(self) -> NDArray[np.int64]:
        """Rows whose episode has ended, [m]."""
        return np.flatnonzero(self.finished)

    def check_none_waits(self) -> None:
        """Raise InvalidActionError if there are such rows."""
        if self.finished.any():
            raise InvalidActionError(
                f"rows {self.waiting().tolist()} have finished; start them with "
                'reset(options={"reset_mask": ...}) before stepping'
            )

    def state(self) -> dict[str, NDArray[Any]]:
        """What the rows' next episodes depend on, by name: [N] each."""
        return self._stream.state() | {"finished": self.finished}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what ``state`` returned."""
        self._stream.load(state)
        self.finished, self.seeded = state["finished"].copy(), True


def row_seeds(seed: Seed, num_rows: int) -> list[int | None]:
    """Row i gets ``seed + i``, or entry i of a sequence; None leaves rows alone.

    Raises:
        ConfigError: a negative seed, or not one per row.
    """
    if seed is None or isinstance(seed, int | np.integer):
        seeds = [None if seed is None else int(seed) + i for i in range(num_rows)]
    elif len(seed) == num_rows:
        seeds = [None if one is None else int(one) for one in seed]
    else:
        raise ConfigError(f"{len(seed)} seeds for {num_rows} rows")
    if any(one is not None and one < 0 for one in seeds):
        raise ConfigError(f"seeds must not be negative: {seed}")
    return seeds


def reset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """When a row whose episode has ended goes on: the enum, or one of its value names.

    Raises:
        ConfigError: an unknown name.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        names = [member.value for member in AutoresetMode]
        raise ConfigError(
            f"unknown autoreset_mode {mode!r}; choose one of {names}"
        ) from None
