"""Checks of what a user hands to `reset` and `step`; nothing changes before they pass.

Axes: N rows (sub-environments), m of them chosen, A actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.errors import ConfigError, InvalidActionError
from dynalay_gym.sessions.transition_table import finite

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


def check_actions(actions: Any, num_rows: int, num_actions: int) -> NDArray[np.int64]:
    """Return actions as an array, after checking type, shape and range.

    Args:
        actions: Array, tensor (on any device) or list of integers [N].
        num_rows: Rows N.
        num_actions: Actions A.

    Returns:
        int64 [N], in main memory.

    Raises:
        InvalidActionError: Naming what is wrong.
    """
    given = actions.detach().cpu() if isinstance(actions, Tensor) else actions
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind == "O":
        raise InvalidActionError(
            f"actions must be integers of shape ({num_rows},), not {actions!r}"
        )
    if array.dtype.kind not in "iu":
        raise InvalidActionError(f"actions must be integers, not {array.dtype}")
    if array.shape != (num_rows,):
        raise InvalidActionError(
            f"actions must have shape ({num_rows},), not {array.shape}"
        )
    array = array.astype(np.int64, copy=False)
    # A negative number is a huge one without its sign.
    if array.view(np.uint64).max() >= num_actions:
        outside = (array < 0) | (array >= num_actions)
        raise InvalidActionError(
            f"actions must lie in 0..{num_actions - 1}, not {array[outside].tolist()}"
        )
    return array


def check_state(
    state: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    problem: DecisionProblem,
) -> None:
    """Check a saved environment's arrays before any of them is used.

    All of them are checked for shape and type, and the whole numbers for their range.

    Args:
        state: The arrays, by name.
        expected: Arrays of this environment, whose shapes and types the state must
            have.
        problem: What this environment decides on.

    Raises:
        ConfigError: A part is missing, of another shape or type, or out of range.
    """
    for name, own in expected.items():
        given = state.get(name)
        if given is None or given.shape != own.shape or given.dtype != own.dtype:
            raise ConfigError(
                f"{name} must be {own.dtype} of shape {own.shape}; give a state of an "
                "equal environment"
            )
    num_states = len(finite(problem.session, "a saved state").next_state)
    most, num_actions = problem.max_decisions, problem.num_actions
    for name, least, last in (
        ("state_ids", 0, num_states - 1),
        ("decisions", 0, most),
        ("consecutive", 0, most),
        ("last_action", -1, num_actions - 1),
        ("history", -1, num_actions - 1),
        ("index", 0, len(problem.labels) - 1),
        ("best_answer", 0, problem.session.num_classes - 1),
    ):
        if ((state[name] < least) | (state[name] > last)).any():
            raise ConfigError(
                f"{name} must lie in {least}..{last}; give a state of an equal "
                "environment"
            )
