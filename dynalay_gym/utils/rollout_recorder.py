"""What each row of a batched environment does, written down and checked on the way.

Axes: N rows (sub-environments). A *trace* holds a row's resets and steps in order,
whatever the autoreset mode and whoever shares its batch. A correct environment gives a
row the same trace alone, in any batch and in any mode.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv

_FINAL_KEYS = ("final_obs", "final_info")


class Event(NamedTuple):
    """One reset (reward and ends are None) or one step of one row."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


class Recorder:
    """Plays a batched environment and writes down the trace of every row.

    Row i takes the same actions whatever the batch and the mode: its k-th decision is
    the k-th sample of an action space seeded as the row is, with ``seed + i``.

    Args:
        env: The environment; any autoreset mode.
        seed: Seed of row 0.
        num_steps: Calls of ``step``.
        order: If given, row i gets the seed ``seed + order[i]``, by a list of seeds.
        scribble: Overwrite everything returned, once it is written down.
        provoke: Before each step, try actions that must be refused.
    """

    def __init__(
        self,
        env: VectorEnv,
        seed: int,
        num_steps: int,
        *,
        order: Sequence[int] | None = None,
        scribble: bool = False,
        provoke: bool = False,
    ) -> None:
        self.env, self.num_steps = env, num_steps
        self.seeds = [seed + i for i in order or range(env.num_envs)]
        self.seed: Any = seed if order is None else self.seeds
        self.mode = env.metadata["autoreset_mode"]
        self.scribble, self.provoke = scribble, provoke
        self.traces: list[list[Event]] = [[] for _ in range(env.num_envs)]
        self.kept: list[tuple[Any, Any]] = []
        self.spaces = [copy.deepcopy(env.single_action_space) for _ in self.traces]
        for row_seed, space in zip(self.seeds, self.spaces, strict=True):
            space.seed(row_seed)
        self.ignored = copy.deepcopy(env.single_action_space)
        self.ignored.seed(seed)

    def run(self) -> list[list[Event]]:
        """Reset, step and check; returns one trace per row."""
        n = self.env.num_envs
        observations, infos = self._keep(self.env.reset(seed=self.seed))
        self._check_reset(observations, infos)
        self._add(range(n), observations, infos)
        finished = np.zeros(n, dtype=bool)
        for _ in range(self.num_steps):
            if finished.any() and self.mode is AutoresetMode.DISABLED:
                self._reset_finished(finished, observations)
                finished[:] = False
            observations, finished = self._step(finished)
        for live, then in self.kept:
            same = data_equivalence(_to_numpy(live), then, exact=True)
            require(self.scribble or same, "a later call changed what one returned")
        return self.traces

    def _step(self, waiting: np.ndarray) -> tuple[Any, np.ndarray]:
        """One step; in NEXT_STEP the waiting rows are reset by it."""
        sampled = zip(self.spaces, waiting, strict=True)
        actions = np.stack(
            [(self.ignored if w else space).sample() for space, w in sampled]
        )
        if self.provoke:
            self._provoke()
        given = actions.copy()
        result = self._keep(self.env.step(given))
        require(np.array_equal(given, actions), "step changed the actions given to it")
        observations, rewards, terminations, truncations, infos = result
        self._check_step(observations, rewards, terminations, truncations)
        _check_infos(infos, self.env.num_envs, "infos")
        finished = terminations | truncations
        reset = np.flatnonzero(waiting)
        idle = not (rewards[reset].any() or finished[reset].any())
        require(idle, "NEXT_STEP: the step that resets a row must earn 0 and not end")
        self._add(reset, observations, infos)
        acted, ends = np.flatnonzero(~waiting), (rewards, terminations, truncations)
        if self.mode is AutoresetMode.SAME_STEP:
            self._check_final(infos, finished)
            going, ended = np.flatnonzero(~finished), np.flatnonzero(finished)
            self._add(going, observations, infos, ends)
            if len(ended):
                self._add(ended, infos["final_obs"], infos["final_info"], ends)
            self._add(ended, observations, infos)
        else:
            self._add(acted, observations, infos, ends)
        waits = self.mode is not AutoresetMode.SAME_STEP
        return observations, finished & waits

    def _reset_finished(self, finished: np.ndarray, before: Any) -> None:
        """DISABLED: refuse to step finished rows, then reset them and no others."""
        if self.provoke:
            self._refused(self.env.action_space.sample(), "a finished row in DISABLED")
        mask = finished.copy()
        returned = self.env.reset(options={"reset_mask": mask})
        observations, infos = self._keep(returned)
        require(np.array_equal(mask, finished), "reset changed the mask given to it")
        self._check_reset(observations, infos)
        for row in np.flatnonzero(~finished):
            same = data_equivalence(_row(observations, row), _row(before, row), True)
            require(same, f"reset_mask: row {row} was not to be reset but changed")
        self._add(np.flatnonzero(finished), observations, infos)

    def _provoke(self) -> None:
        space, n = self.env.single_action_space, self.env.num_envs
        if isinstance(space, Discrete):
            low, high = int(space.start), int(space.start + space.n)
            self._refused(np.full(n, high), "an action above the range")
            self._refused(np.full(n, low - 1), "an action below the range")
            self._refused(np.full(n + 1, low), "one action too many")
            self._refused(np.full(n, low + 0.5), "an action that is no integer")

    def _refused(self, actions: Any, what: str) -> None:
        try:
            self.env.step(actions)
        except Exception:
            return
        raise AssertionError(f"step accepted {what}")

    def _check_reset(self, observations: Any, infos: dict[str, Any]) -> None:
        inside = self.env.observation_space.contains(observations)
        require(inside, "reset: observations lie outside observation_space")
        _check_infos(infos, self.env.num_envs, "reset's infos")

    def _check_final(self, infos: dict[str, Any], finished: np.ndarray) -> None:
        """SAME_STEP: what an ended row has seen last is told, and of no other row."""
        for key in _FINAL_KEYS:
            there = key in infos or not finished.any()
            require(there, f"SAME_STEP: infos lack {key!r} at an end")
            marked = infos.get(f"_{key}", np.zeros_like(finished))
            same = np.array_equal(marked, finished)
            require(same, f"SAME_STEP: '_{key}' must mark the ended rows, and no other")
        final = infos.get("final_info", {})
        _check_infos(final, self.env.num_envs, "final_info")

    def _check_step(self, observations: Any, *per_row: np.ndarray) -> None:
        inside = self.env.observation_space.contains(observations)
        require(inside, "observations lie outside observation_space")
        names = ("rewards", "terminations", "truncations")
        for name, value in zip(names, per_row, strict=True):
            shape = (self.env.num_envs,)
            require(value.shape == shape, f"{name}: shape {value.shape}, not {shape}")
            kind = "f" if name == "rewards" else "b"
            require(value.dtype.kind == kind, f"{name}: wrong dtype {value.dtype}")

    def _add(
        self, rows: Any, observations: Any, infos: Any, ends: Any = (None,) * 3
    ) -> None:
        for row in rows:
            reward, terminated, truncated = (
                None if part is None else part[row] for part in ends
            )
            seen, info = _row(observations, row), _row_info(infos, row)
            event = Event(seen, reward, terminated, truncated, info)
            self.traces[row].append(event)

    def _keep(self, returned: Any) -> Any:
        """Independent numpy copy of what a call returned; remembers the original."""
        copied = copy.deepcopy(_to_numpy(returned))
        self.kept.append((returned, copied))
        if self.scribble:
            _scribble(_to_numpy(returned))
        return copy.deepcopy(copied)


def record_single(env: gym.Env, seed: int, num_events: int) -> list[Event]:
    """Return the trace of a single environment, seeded and played as a row is.

    Args:
        env: The environment.
        seed: Seed of its first episode and of its actions.
        num_events: Resets and steps to write down.
    """
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    observation, info = env.reset(seed=seed)
    events = [Event(observation, None, None, None, info)]
    while len(events) < num_events:
        if events[-1].terminated or events[-1].truncated:
            observation, info = env.reset()
            events.append(Event(observation, None, None, None, info))
        else:
            events.append(Event(*env.step(space.sample())))
    return events


def require(condition: Any, message: str) -> None:
    """Raise AssertionError unless a rule holds."""
    if not condition:
        raise AssertionError(message)


def _to_numpy(value: Any) -> Any:
    """Numpy views of tensors, in dicts and tuples too."""
    if isinstance(value, dict):
        return {key: _to_numpy(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_to_numpy, value))
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _scribble(value: Any) -> None:
    if isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _scribble(part)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = ~value if value.dtype == bool else value + 1


def _row(value: Any, row: Any) -> Any:
    if isinstance(value, dict):
        return {key: _row(part, row) for key, part in value.items()}
    return value[row]


def _check_infos(infos: dict[str, Any], num_envs: int, what: str) -> None:
    """Check that every key has its mask: ``_key``, bool [N], in dictionaries too."""
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        mask: Any = infos.get(f"_{key}")
        is_mask = isinstance(mask, np.ndarray) and mask.shape == (num_envs,)
        is_mask = is_mask and mask.dtype == bool
        require(
            is_mask, f"{what}: '_{key}' must be a mask, bool of shape ({num_envs},)"
        )
        if isinstance(value, dict):
            if key != "final_obs":  # observations have none
                _check_infos(value, num_envs, f"{what}[{key!r}]")
        else:
            fits = isinstance(value, np.ndarray) and len(value) == num_envs
            require(fits, f"{what}: {key!r} must be an array of {num_envs} entries")


def _row_info(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """What the infos say of one row, by their ``_key`` masks; no final ones."""
    info = {}
    for key, value in infos.items():
        if key.startswith("_") or key in _FINAL_KEYS:
            continue
        there = infos.get(f"_{key}")
        if there is None or there[row]:
            is_dict = isinstance(value, dict)
            info[key] = _row_info(value, row) if is_dict else value[row]
    return info
