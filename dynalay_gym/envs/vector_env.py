"""The batched Gymnasium environment, around the decision process of `process.py`.

Axes: N rows (sub-environments, one sample each), D features, A actions.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.checks import (
    ResetOptions,
    Seed,
    check_actions,
    check_choice,
    check_state,
)
from dynalay_gym.envs.config import EnvConfig, EnvProperties, make_problem
from dynalay_gym.envs.episodes import RowEpisodes
from dynalay_gym.envs.observation import ALL
from dynalay_gym.envs.process import INFO_KEYS, DecisionProblem, LiveProcess
from dynalay_gym.envs.table import make_process
from dynalay_gym.errors import (
    InvalidActionError,
    ResetNeededError,
    UnknownArgumentError,
)
from dynalay_gym.sessions.features import squash
from dynalay_gym.utils.ranges import Rows, check_value

OUTPUTS = ("numpy", "torch")
RENDER_MODES = ("rgb_array", "ansi")
_MASK_KEYS = {key: f"_{key}" for key in INFO_KEYS}


class DynaLayVectorEnv(EnvProperties, VectorEnv):
    """N samples decided on at once; see ``docs/environment.md``.

    Args:
        num_envs: Number of rows N, at least 1.
        autoreset_mode: When a finished row starts its next episode; Gymnasium's enum or
            one of its value names (``SameStep``, ``NextStep``, ``Disabled``).
        output: ``numpy``, or ``torch`` to return tensors on the network's device.
        render_mode: None, ``rgb_array`` or ``ansi``.
        **config: Fields of `EnvConfig`, shared with the single form.

    Raises:
        DynaLayError: For any bad argument, missing data or checkpoint.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: str = "numpy",
        render_mode: str | None = None,
        **config: Any,
    ) -> None:
        check_value("num_envs", num_envs, Rows)
        check_choice("output", output, OUTPUTS)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        modes = tuple(mode.value for mode in AutoresetMode)
        mode = getattr(autoreset_mode, "value", autoreset_mode)
        check_choice("autoreset_mode", mode, modes)
        self.config = EnvConfig.from_kwargs(config)
        if self.config.transitions == "table" and render_mode is not None:
            raise UnknownArgumentError(  # SB3's make_vec_env then leaves it out
                'a table cannot be rendered; use render_mode=None or transitions="live"'
            )
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = self.metadata | {"autoreset_mode": self.autoreset_mode}
        self.num_envs, self.output, self.render_mode = num_envs, output, render_mode
        self.process = make_process(make_problem(self.config), num_envs)
        self.single_observation_space = self._make_space()
        self.single_action_space = gym.spaces.Discrete(self.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._all_rows, self._num_actions = np.arange(num_envs), self.num_actions
        self._device = self.device
        self._episodes = RowEpisodes(num_envs, self.num_samples, self.penalty_range)

    @property
    def problem(self) -> DecisionProblem:
        """What is decided on."""
        return self.process.problem

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every row, or in those of ``reset_mask``.

        Args:
            seed: Row i gets ``seed + i``, or entry i of a sequence. Without one (or
                with None as its entry) a row goes on to its next episode.
            options: ``index`` (an int, or one per row) and ``penalty`` (a number, or
                one per row) replace what the row's stream would choose;
                ``reset_mask`` (bool [N]) chooses the rows.

        Returns:
            Observations of all rows, and infos.

        Raises:
            ConfigError: For a bad seed or option; nothing has changed then.
            ResetNeededError: ``reset_mask`` leaves rows out that never started, or
                the environment is closed.
        """
        self._check_open("reset")
        asked = ResetOptions.read(seed, options, self.num_envs, self.num_samples)
        if not self.process.has_reset and len(asked.rows) < self.num_envs:
            raise ResetNeededError("the first reset starts all rows: no reset_mask yet")
        self._seed_rows(seed, asked)
        self._begin(asked)
        return self._observations(), self._infos(self.process.infos())

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one decision in every row.

        Args:
            actions: Integers [N] in 0..A-1 (array, tensor or list); 0 (NOP) stops.

        Returns:
            Observations, rewards float32 [N], terminations bool [N], truncations (all
            False) and infos. ``infos["final_obs"]`` [N, D] holds every row's
            observation before any autoreset (the observations themselves, in the same
            memory, where no row was reset).

        Raises:
            InvalidActionError: Wrong shape, type or range, or a finished row in
                ``Disabled`` mode; nothing has changed then.
            ResetNeededError: Before the first reset or after `close`.
        """
        self._check_has_reset("step")
        chosen = check_actions(actions, self.num_envs, self._num_actions)
        waiting = self._episodes.finished.nonzero()[0]
        if not waiting.size:
            rewards, terminations = self.process.step(ALL, chosen)
        else:
            rewards, terminations = self._step_some(chosen, waiting)
        self._episodes.finished = terminations.copy()  # they are returned, too
        observations, infos = self._observations(), self._infos(self.process.infos())
        ended = self._out(terminations.copy())
        final = {"final_obs": observations, "_final_obs": ended}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final |= {"final_info": infos, "_final_info": ended}
            if terminations.any():
                self._begin(ResetOptions(terminations.nonzero()[0]))
                observations = self._observations()
                infos = self._infos(self.process.infos())
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        outcome = map(self._out, (rewards, terminations, truncations))
        return observations, *outcome, infos | final

    def _step_some(
        self, chosen: NDArray[np.int64], waiting: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Step the unfinished rows; start the next episode of the others (NextStep).

        Args:
            chosen: Actions of all rows, int64 [N].
            waiting: The finished rows; in NextStep their next episodes start, with
                reward 0.

        Returns:
            Rewards and terminations of all rows, [N].

        Raises:
            InvalidActionError: In Disabled mode, where a finished row must be reset.
        """
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise InvalidActionError(
                f"rows {waiting.tolist()} have finished; start them with "
                'reset(options={"reset_mask": ...}) before stepping'
            )
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        acting = np.setdiff1d(self._all_rows, waiting)
        if acting.size:
            paid, ended = self.process.step(acting, chosen[acting])
            rewards[acting], terminations[acting] = paid, ended
        self._begin(ResetOptions(waiting))
        return rewards, terminations

    def load_weights(self, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        """Give the network other weights between two steps.

        A row inside an episode keeps its state, under the new weights; its counts, the
        cost unit and the penalties stay too. A table is recomputed.

        Args:
            weights: ``state_dict`` of a network of the same architecture.

        Returns:
            Observations and infos as the next step has to see them.

        Raises:
            CheckpointError: The weights are of another architecture, or not finite.
        """
        self.process.load_weights(weights)
        if not self.process.has_reset:
            return None, {}
        return self._observations(), self._infos(self.process.infos())

    def get_state(self) -> dict[str, Tensor]:
        """Return where every row stands and what its stream draws next, on the CPU.

        The network's weights are not part of it.
        """
        self._check_has_reset("get_state")
        parts = self.process.episode.arrays() | self._episodes.state()
        parts |= {"state_ids": self.process.state_ids()}
        return {name: torch.from_numpy(part.copy()) for name, part in parts.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        """Go on from what `get_state` returned, in an equal environment.

        Returns:
            Observations and infos of all rows.

        Raises:
            ConfigError: For numbers that no row of this environment can have; nothing
                has changed then.
        """
        self._check_open("set_state")
        own = self.process.episode.arrays()
        expected = own | self._episodes.state() | {"state_ids": own["index"]}
        arrays = check_state(state, expected, self.problem)
        self._episodes.load(arrays)
        for name, part in own.items():
            part[...] = arrays[name]
        self.process.set_states(arrays["state_ids"])
        return self._observations(), self._infos(self.process.infos())

    def action_masks(self) -> Any:
        """Return which actions can change something, bool [N, A]."""
        self._check_has_reset("action_masks")
        return self._out(self.process.action_mask != 0)

    def render(self) -> tuple[Any, ...] | None:
        """Return one frame (or text) per row, by ``render_mode``; None without one."""
        if self.render_mode is None:
            return None
        self._check_has_reset("render")
        from dynalay_gym.envs.render import render_row

        process = self.process
        assert isinstance(process, LiveProcess), "refused in the constructor"
        return tuple(
            render_row(process, row, self.render_mode) for row in range(self.num_envs)
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or read an attribute; one entry per row."""
        value = getattr(self, name)
        if not callable(value):
            return (value,) * self.num_envs
        value = value(*args, **kwargs)
        per_row = isinstance(value, tuple | np.ndarray | Tensor)
        return tuple(value) if per_row else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute, once per row: the rows share it."""
        return (getattr(self, name),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute, which the rows share; AttributeError if there is none."""
        if not hasattr(self, name):
            raise AttributeError(f"the environment has no attribute {name!r}")
        setattr(self, name, values)

    @property
    def is_seeded(self) -> bool:
        """Whether a reset has chosen the rows' episode streams."""
        return self._episodes.seeded

    def _check_open(self, method: str) -> None:
        if self.closed:
            raise ResetNeededError(f"{method}() after close(); make a new environment")

    def _check_has_reset(self, method: str) -> None:
        self._check_open(method)
        if not self.process.has_reset:
            raise ResetNeededError(f"call reset() before {method}()")

    def _seed_rows(self, seed: Seed, asked: ResetOptions) -> None:
        """Restart the episode streams of the rows that are given a seed."""
        if isinstance(seed, int | np.integer) or self._np_random is None:
            super().reset(seed=asked.seeds[0])
        if not self._episodes.seeded:
            drawn = self.np_random.integers(2**62, size=self.num_envs)
            self._episodes.seed(self._all_rows, drawn.tolist())
        self._episodes.seed(asked.rows, asked.seeds)

    def _begin(self, asked: ResetOptions) -> None:
        self.process.begin(asked.rows, *self._episodes.begin(asked, self.penalty_scale))

    def _make_space(self) -> gym.Space:
        """Return the space of one row's observation; every entry lies in [0, 1]."""
        width = self.observation_layout["remaining"].stop
        flat = gym.spaces.Box(0.0, 1.0, (width,), np.float32)
        if self.config.observation == "flat":
            return flat
        session: Any = self.problem.session
        state = session.begin(self.problem.inputs[:1])
        maps = session.maps(state, torch.arange(1, device=self.device))
        spaces = {
            name: gym.spaces.Box(0.0, 1.0, tuple(values.shape[1:]), np.float32)
            for name, values in maps.items()
        }
        return gym.spaces.Dict({"flat": flat, **spaces})

    def _observations(self) -> Any:
        """Return the observations of all rows, in the form of the space."""
        flat = self._out(self.process.observe())
        if self.config.observation == "flat":
            return flat
        process = self.process
        assert isinstance(process, LiveProcess), "a table has no maps"
        session: Any = process.session
        rows = torch.arange(self.num_envs, device=self.device)
        maps = session.maps(process.state, rows)
        return {"flat": flat} | {k: self._out(squash(v)) for k, v in maps.items()}

    def _infos(self, values: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return infos [N, ...] of all rows, each with its ``_key`` mask."""
        known = self._out(np.full(self.num_envs, True))
        if self.output == "torch":
            values = {name: self._out(value) for name, value in values.items()}
        return values | {_MASK_KEYS[key]: known for key in values}

    def _out(self, value: NDArray[Any] | Tensor) -> Any:
        """Return an array or tensor in the form that the user chose."""
        if self.output == "numpy":
            return value.numpy(force=True) if isinstance(value, Tensor) else value
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        # Most is where it should be; to ask costs less than `to` does.
        return tensor if tensor.device == self._device else tensor.to(self._device)
