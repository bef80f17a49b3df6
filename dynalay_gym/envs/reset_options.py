"""What ``reset`` may be asked for; all of it is checked before anything changes.

Axes: N rows (sub-environments).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.errors import ConfigError

KEYS = ("index", "penalty", "reset_mask")


@dataclass(frozen=True)
class ResetOptions:
    """Checked options of one reset.

    Attributes:
        rows: Rows that start an episode, int64 [m], ascending.
        index: Their samples, int64 [m]; None leaves them to each row's stream.
        penalty: Their penalties, float32 [m]; None likewise.
    """

    rows: NDArray[np.int64]
    index: NDArray[np.int64] | None = None
    penalty: NDArray[np.float32] | None = None

    @classmethod
    def read(
        cls, options: dict[str, Any] | None, num_envs: int, num_samples: int
    ) -> "ResetOptions":
        """Check what the caller gave.

        Args:
            options: ``index`` and ``penalty`` are one value or N of them,
                ``reset_mask`` is bool [N].
            num_envs: Rows N.
            num_samples: Samples of the split.

        Raises:
            ConfigError: for an unknown key, a wrong shape or an impossible value.
        """
        options = options or {}
        unknown = sorted(set(options) - set(KEYS))
        if unknown:
            raise ConfigError(f"unknown reset options {unknown}; known: {list(KEYS)}")
        rows = _rows(options.get("reset_mask"), num_envs)
        index = penalty = None
        if "index" in options:
            index = _per_row("index", options["index"], "iu", rows, num_envs)
            if index.size and not 0 <= index.min() <= index.max() < num_samples:
                raise ConfigError(f"index must lie in 0..{num_samples - 1}")
            index = index.astype(np.int64)
        if "penalty" in options:
            penalty = _per_row("penalty", options["penalty"], "iuf", rows, num_envs)
            penalty = penalty.astype(np.float32)
            if not (np.isfinite(penalty) & (penalty >= 0)).all():
                raise ConfigError("penalty must be finite and not negative")
        return cls(rows, index, penalty)


def _rows(mask: Any, num_envs: int) -> NDArray[np.int64]:
    if mask is None:
        return np.arange(num_envs)
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise ConfigError(f"reset_mask must be bool of shape ({num_envs},)")
    return np.flatnonzero(mask)


def _per_row(
    key: str, value: Any, kinds: str, rows: NDArray[np.int64], num_envs: int
) -> NDArray[Any]:
    """Entries of the given rows, if they are numbers of one of the dtype kinds."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):  # ragged, or a tensor on another device
        given = np.empty(0, dtype=object)
    if given.dtype.kind not in kinds:
        what = "integers" if kinds == "iu" else "numbers"
        raise ConfigError(f"option {key} must hold {what}, not {value!r}")
    if given.shape not in ((), (num_envs,)):
        raise ConfigError(f"option {key} must be one value or {num_envs} of them")
    return np.broadcast_to(given, num_envs)[rows]
