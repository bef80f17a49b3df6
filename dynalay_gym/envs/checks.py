"""Checks of what a user hands to an environment; nothing changes before they pass.

Axes: N rows (sub-environments), m of them chosen, A actions, T = most decisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.errors import ConfigError, InvalidActionError, brief
from dynalay_gym.sessions.transition_table import finite

KEYS = ("index", "penalty", "reset_mask")
Seed = int | Sequence[int | None] | None


@dataclass(frozen=True)
class ResetOptions:
    """Checked options of one reset.

    Attributes:
        rows: Rows that start an episode, int64 [m], ascending.
        index: Their samples, int64 [m]; None leaves them to each row's stream.
        penalty: Their penalties, float32 [m]; None likewise.
        seeds: Seed of each of all rows [N], None where its stream goes on.
    """

    rows: NDArray[np.int64]
    index: NDArray[np.int64] | None = None
    penalty: NDArray[np.float32] | None = None
    seeds: Sequence[int | None] = ()

    @classmethod
    def read(
        cls,
        seed: Seed,
        options: dict[str, Any] | None,
        num_envs: int,
        num_samples: int,
    ) -> "ResetOptions":
        """Check what the caller gave.

        Args:
            seed: See `row_seeds`.
            options: ``index`` and ``penalty`` are one value or N of them,
                ``reset_mask`` is bool [N].
            num_envs: Rows N.
            num_samples: Samples of the split.

        Raises:
            ConfigError: for an unknown key, a wrong shape or an impossible value.
        """
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise ConfigError(f"options must be a dictionary, not {brief(options)}")
        unknown = [key for key in options if key not in KEYS]
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
            with np.errstate(over="ignore"):
                penalty = penalty.astype(np.float32)
            if not (np.isfinite(penalty) & (penalty >= 0)).all():
                raise ConfigError("penalty must be finite and not negative")
        return cls(rows, index, penalty, row_seeds(seed, num_envs))


def row_seeds(seed: Seed, num_rows: int) -> list[int | None]:
    """Row i gets ``seed + i``, or entry i of a sequence; None leaves rows alone.

    Args:
        seed: None, an integer, or a sequence (array, tensor) of N integers or None.
        num_rows: Rows N.

    Raises:
        ConfigError: A seed is no integer in 0..2^64 - 1, or there is not one per row.
    """
    seeds = _seed_list(seed, num_rows)
    if len(seeds) != num_rows:
        raise ConfigError(
            f"{len(seeds)} seeds for {num_rows} rows; give one per row, or an integer"
        )
    for one in seeds:
        if one is not None and not (_is_integer(one) and 0 <= one < 2**64):
            raise ConfigError(f"seeds must be integers in 0..2**64-1, not {brief(one)}")
    return [None if one is None else int(one) for one in seeds]


def _seed_list(seed: Any, num_rows: int) -> list[Any]:
    if seed is None:
        return [None] * num_rows
    if _is_integer(seed):
        return [int(seed) + i for i in range(num_rows)]
    is_array = isinstance(seed, np.ndarray | Tensor)
    given = _to_array(seed).tolist() if is_array else seed
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ConfigError(
            f"seeds must be an integer or {num_rows} of them, not {brief(seed)}"
        )
    return list(given)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _to_array(value: Any) -> NDArray[Any]:
    """Return what a user gave as an array; of objects if it cannot be one.

    A tensor may lie on any device. What a foreign class raises is not known.
    """
    try:
        host = value.detach().cpu() if isinstance(value, Tensor) else value
        return np.asarray(host)
    except Exception:
        return np.empty(0, dtype=object)


def _rows(mask: Any, num_envs: int) -> NDArray[np.int64]:
    if mask is None:
        return np.arange(num_envs)
    given = _to_array(mask)
    if given.shape != (num_envs,) or given.dtype != np.bool_:
        raise ConfigError(f"reset_mask must be bool of shape ({num_envs},)")
    return np.flatnonzero(given)


def _per_row(
    key: str, value: Any, kinds: str, rows: NDArray[np.int64], num_envs: int
) -> NDArray[Any]:
    """Entries of the given rows, if they are numbers of one of the dtype kinds."""
    given = _to_array(value)
    if given.dtype.kind not in kinds:
        what = "integers" if kinds == "iu" else "numbers"
        raise ConfigError(f"option {key} must hold {what}, not {brief(value)}")
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
    array = _to_array(actions)
    if array.dtype.kind == "O":
        raise InvalidActionError(
            f"actions must be integers of shape ({num_rows},), not {brief(actions)}"
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
        outside = array[(array < 0) | (array >= num_actions)].tolist()
        raise InvalidActionError(
            f"actions must lie in 0..{num_actions - 1}, not {brief(outside)}"
        )
    return array


def check_state(
    state: Mapping[str, Tensor],
    expected: Mapping[str, NDArray[Any]],
    problem: DecisionProblem,
) -> dict[str, NDArray[Any]]:
    """Check a saved environment before any part of it is used.

    Types, shapes and ranges are checked; and that every row stands where its actions
    lead to.

    Args:
        state: Its parts, by name.
        expected: Arrays of this environment, whose names, shapes and types the parts
            must have.
        problem: What this environment decides on.

    Returns:
        The parts as arrays.

    Raises:
        ConfigError: It is not the state of any equal environment.
    """
    if not isinstance(state, Mapping):
        raise ConfigError(f"a state must be a dictionary of tensors{_REMEDY}")
    if wrong := list(expected.keys() ^ state.keys()):
        raise ConfigError(f"parts missing or unknown: {brief(wrong)}{_REMEDY}")
    arrays = {name: _to_array(state[name]) for name in expected}
    for name, own in expected.items():
        given = arrays[name]
        if given.shape != own.shape or given.dtype != own.dtype:
            raise ConfigError(
                f"{name} must be {own.dtype} {own.shape}, not {given.dtype} "
                f"{given.shape}{_REMEDY}"
            )
    _check_ranges(arrays, problem)
    next_state = finite(problem.session, "a saved state").next_state
    for name, followed in _replay(arrays["history"], next_state).items():
        if not np.array_equal(arrays[name], followed):
            raise ConfigError(f"{name} does not follow from history{_REMEDY}")
    return arrays


_REMEDY = "; give a state of an equal environment"
_INT64_MAX, _FLOAT32_MAX = np.iinfo(np.int64).max, np.finfo(np.float32).max


def _check_ranges(arrays: Mapping[str, NDArray[Any]], problem: DecisionProblem) -> None:
    num_actions = problem.num_actions
    for name, least, last in (
        ("history", -1, num_actions - 1),
        ("index", 0, len(problem.labels) - 1),
        ("penalty", 0, _FLOAT32_MAX),
        ("macs", 0, _INT64_MAX),
        ("solver_steps", 0, _INT64_MAX),
        ("status", 0, 2),  # of `SolverStatus`
        ("best_prob", -1, 1 if problem.recall else -1),
        ("best_answer", 0, problem.session.num_classes - 1),
        ("episodes", 1, 2**62),
    ):
        inside = (arrays[name] >= least) & (arrays[name] <= last)  # false if NaN
        if not inside.all():
            raise ConfigError(f"{name} must lie in {least}..{last}{_REMEDY}")


def _replay(
    history: NDArray[np.int64], next_state: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return what the actions of each row, [N, T], lead to, by name: [N] each."""
    num_rows, most = history.shape
    last_action, decisions, consecutive, reached = np.full((4, num_rows), -1)
    decisions[:] = consecutive[:] = reached[:] = 0
    going = np.ones(num_rows, dtype=np.bool_)
    followed = np.full_like(history, -1)
    for column, actions in enumerate(history.T):
        going &= (actions >= 0) & (last_action != 0)
        followed[going, column] = acts = actions[going]
        same = last_action[going] == acts
        consecutive[going] = consecutive[going] * same + 1
        reached[going] = next_state[reached[going], acts]
        last_action[going] = acts
        decisions += going
    return {
        "history": followed,
        "last_action": last_action,
        "decisions": decisions,
        "consecutive": consecutive,
        "state_ids": reached,
        "finished": (last_action == 0) | (decisions == most),
    }


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ConfigError unless a value is one of some choices."""
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}; choose one of {list(choices)}")
