"""A checker for natively batched environments, of this package or of anybody's.

Axes: N rows (sub-environments).
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dynalay_gym.utils.rollout_recorder import Event, Recorder, record_single, require

MakeEnv = Callable[[int, str], VectorEnv]
MakeSingle = Callable[[], gym.Env]


def check_vector_env(
    make_env: MakeEnv | str,
    make_single: MakeSingle | None = None,
    *,
    num_envs: int = 3,
    num_steps: int = 40,
    seed: int = 0,
    bad_actions: bool = True,
) -> None:
    """Check a batched environment against the contract of ``VectorEnv``.

    Checked in all three autoreset modes: spaces, shapes and dtypes; observations inside
    the declared space; infos with their masks, ``final_obs`` and ``final_info``; equal
    seeds give equal rollouts; row i of a batch seeded s equals, bit for bit, a batch of
    one seeded s + i and, if there is one, the single environment seeded s + i, over
    autoresets and in any order of the rows; the modes and ``reset_mask`` agree; what
    was returned is never changed later, and changing it changes nothing; actions that
    cannot be meant are refused and leave the state as it was.

    Args:
        make_env: ``make_env(num_envs, autoreset_mode)`` with the value name of
            Gymnasium's ``AutoresetMode`` (``SameStep``, ``NextStep``, ``Disabled``);
            or the id of an environment that has a single form, and a batched one that
            takes ``autoreset_mode``. Anything that depends on the order of episodes
            across rows fails.
        make_single: Makes the single form, which every row has to equal.
        num_envs: Rows of the batch, >= 2.
        num_steps: Steps per rollout; every row has to end two episodes in them.
        seed: Seed of row 0, and of the random actions.
        bad_actions: Whether to try actions that must be refused. Gymnasium's own
            ``SyncVectorEnv`` passes all but this: it resets and steps rows before it
            meets the bad action.

    Raises:
        AssertionError: naming the first rule that is broken.
    """
    require(num_envs >= 2, "num_envs must be at least 2 to compare a batch with a row")
    if isinstance(make_env, str):
        make_env, make_single = _makers(make_env)
    traces = {}
    for mode in AutoresetMode:
        env = make_env(num_envs, mode.value)
        _check_spaces(env, num_envs, mode)
        traces[mode] = reference = Recorder(env, seed, num_steps).run()
        _check_ends(reference, mode)
        _check_again(env, reference, seed, num_steps, bad_actions)
        alone = make_env(1, mode.value)
        for row in range(num_envs):
            one = Recorder(alone, seed + row, num_steps).run()
            _compare(one, reference[row : row + 1], f"{mode}: row {row} alone")
        order = [*range(1, num_envs), 0]
        moved = Recorder(env, seed, num_steps, order=order).run()
        expected = [reference[row] for row in order]
        _compare(moved, expected, f"{mode}: the same rows in another order")
        env.close()
        alone.close()
    expected = traces[AutoresetMode.SAME_STEP]
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        _compare(traces[mode], expected, f"{mode} and SAME_STEP")
    if make_single is not None:
        _check_single(make_single(), expected, seed)


def _makers(env_id: str) -> tuple[MakeEnv, MakeSingle]:
    """Return what makes the two forms of a registered environment."""

    def make_env(num_envs: int, mode: str) -> VectorEnv:
        return gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode)

    return make_env, lambda: gym.make(env_id, disable_env_checker=True)


def _check_spaces(env: VectorEnv, num_envs: int, mode: AutoresetMode) -> None:
    declared = env.metadata.get("autoreset_mode")
    require(declared is mode, f"metadata['autoreset_mode'] is {declared}, not {mode}")
    require(env.num_envs == num_envs, f"num_envs is {env.num_envs}, not {num_envs}")
    for name in ("observation_space", "action_space"):
        batched = batch_space(getattr(env, f"single_{name}"), num_envs)
        same = getattr(env, name) == batched
        require(same, f"{name} is not single_{name} batched {num_envs} times")


def _check_ends(traces: list[list[Event]], mode: AutoresetMode) -> None:
    for row, trace in enumerate(traces):
        ended = sum(event.terminated is None for event in trace) - 1
        what = f"{mode}: row {row} ended {ended} episodes, not two"
        require(ended >= 2, f"{what}; raise num_steps")


def _check_again(
    env: VectorEnv,
    reference: list[list[Event]],
    seed: int,
    num_steps: int,
    bad_actions: bool,
) -> None:
    """Play the same again, with what must make no difference."""
    mode = env.metadata["autoreset_mode"]
    variants: dict[str, dict[str, Any]] = {
        "a second rollout of the same seed": {},
        "a rollout whose results are overwritten": {"scribble": True},
    }
    if bad_actions:
        variants["a rollout with refused actions in between"] = {"provoke": True}
    for what, options in variants.items():
        again = Recorder(env, seed, num_steps, **options).run()
        _compare(again, reference, f"{mode}: {what}")


def _check_single(env: gym.Env, expected: list[list[Event]], seed: int) -> None:
    """Compare rows with the single form, whose numbers may be Python's own."""
    for row, trace in enumerate(expected):
        alone = record_single(env, seed + row, len(trace))
        for i, (event, one) in enumerate(zip(trace, alone, strict=True)):
            for field, a, b in zip(Event._fields, event, one, strict=True):
                if not _same_numbers(a, b):  # the message takes long to write
                    where = f"row {row} and the single form: {field} of event {i}"
                    raise AssertionError(f"{where}: {a} != {b}")
    env.close()


def _same_numbers(batched: Any, single: Any) -> bool:
    if isinstance(batched, dict):
        same_keys = isinstance(single, dict) and batched.keys() == single.keys()
        return same_keys and all(_same_numbers(batched[k], single[k]) for k in batched)
    if batched is None or single is None:
        return batched is single
    kind = getattr(batched, "dtype", None)  # a reward is rounded to the batch's
    return np.array_equal(batched, np.asarray(single, dtype=kind))


def _compare(
    traces: Sequence[list[Event]], others: Sequence[list[Event]], what: str
) -> None:
    for row, (trace, other) in enumerate(zip(traces, others, strict=True)):
        for i, (event, expected) in enumerate(zip(trace, other, strict=False)):
            for field, a, b in zip(Event._fields, event, expected, strict=True):
                if not data_equivalence(a, b, exact=True):
                    where = f"{what}: {field} of event {i}, row {row}"
                    raise AssertionError(f"{where}: {a} != {b}")
