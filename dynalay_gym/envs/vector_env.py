"""The batched Gymnasium environment: a shell of ``LayerDynamics``.

Axes: N rows (sub-environments, one sample each), D features, A = L + 1 actions.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dynalay_gym.envs.actions import check_actions
from dynalay_gym.envs.dynamics import LayerDynamics
from dynalay_gym.envs.episodes import EpisodeStream
from dynalay_gym.envs.factory import EnvConfig, make_problem
from dynalay_gym.envs.facts import ProblemFacts
from dynalay_gym.envs.observation_space import make_space, observe
from dynalay_gym.errors import ConfigError, InvalidActionError, ResetNeededError

OUTPUTS = ("numpy", "torch")


class DynaLayVectorEnv(ProblemFacts, VectorEnv):
    """N samples decided on at once; see ``docs/environment.md``.

    Args:
        num_envs: Number of rows N.
        autoreset_mode: When a finished row starts its next episode; Gymnasium's enum or
            one of its value names (``SameStep``, ``NextStep``, ``Disabled``).
        output: ``numpy``, or ``torch`` to leave everything on the device.
        render_mode: None, ``rgb_array`` or ``ansi``.
        **config: Fields of ``EnvConfig``, shared with the single form.

    Raises:
        DynaLayError: for any bad argument, missing data or checkpoint.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": ["rgb_array", "ansi"],
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
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
        if output not in OUTPUTS:
            raise ConfigError(f"unknown output {output!r}; choose one of {OUTPUTS}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"unknown render_mode {render_mode!r}; choose one of "
                f"{self.metadata['render_modes']}"
            )
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = self.metadata | {"autoreset_mode": self.autoreset_mode}
        self.config = EnvConfig.from_kwargs(config)
        self.num_envs, self.output, self.render_mode = num_envs, output, render_mode
        self.problem = make_problem(self.config)
        self.dynamics = LayerDynamics(self.problem, num_envs)
        self.single_observation_space = make_space(self.dynamics, self.config)
        self.single_action_space = gym.spaces.Discrete(self.dynamics.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._stream: EpisodeStream | None = None
        self._finished = np.ones(num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every row, or in those of ``reset_mask``.

        Args:
            seed: Row i gets ``seed + i``, or entry i of a sequence. Without one, every
                row goes on to its next episode.
            options: ``index`` (an int, or one per row) and ``penalty`` (a number, or
                one per row) replace what the row's stream would choose;
                ``reset_mask`` (bool [N]) chooses the rows.

        Returns:
            Observations of all rows, and infos.
        """
        self._seed_rows(seed)
        options = dict(options or {})
        mask = _reset_mask(options.pop("reset_mask", None), self.num_envs)
        if self.dynamics.state is None and not mask.all():
            raise ResetNeededError("the first reset starts all rows: no reset_mask yet")
        self._begin(np.flatnonzero(mask), options)
        return self._observations(), self._infos(self.dynamics.infos())

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one decision in every row.

        Args:
            actions: Integers [N] in 0..L (array, tensor or list); NOP stops.

        Returns:
            observations, rewards float32 [N], terminations bool [N], truncations
            (all False) and infos. After it, ``infos["final_obs"]`` [N, D] holds every
            row's observation before any autoreset.

        Raises:
            InvalidActionError: wrong shape, type or range, or a finished row in
                ``Disabled`` mode; nothing has changed then.
            ResetNeededError: before the first reset or after ``close``.
        """
        if self.dynamics.state is None or self.closed:
            raise ResetNeededError("call reset() before step(), and none after close()")
        chosen = check_actions(actions, self.num_envs, self.dynamics.num_actions)
        chosen = chosen.to(self.device)
        waiting = np.flatnonzero(self._finished)
        if waiting.size and self.autoreset_mode is AutoresetMode.DISABLED:
            raise InvalidActionError(
                f"rows {waiting.tolist()} have finished; start them with "
                'reset(options={"reset_mask": ...}) before stepping'
            )
        running = torch.as_tensor(np.flatnonzero(~self._finished), device=self.device)
        rewards = torch.zeros(self.num_envs, device=self.device)
        terminations = torch.zeros_like(rewards, dtype=torch.bool)
        rewards[running], terminations[running] = self.dynamics.step(
            running, chosen[running]
        )
        if waiting.size:  # NextStep: the action of a finished row starts its next
            self._begin(waiting, {})
        self._finished = terminations.cpu().numpy()
        infos = self._after_step(terminations)
        truncations = torch.zeros_like(terminations)
        outcome = map(self._out, (rewards, terminations, truncations))
        return self._observations(), *outcome, infos

    def _after_step(self, terminations: Tensor) -> dict[str, Any]:
        """Infos of a step; in SameStep also start the next episodes."""
        infos = self.dynamics.infos()
        final = {"final_obs": self._observations(), "_final_obs": terminations}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final |= {"final_info": self._infos(infos), "_final_info": terminations}
            if self._finished.any():
                self._begin(np.flatnonzero(self._finished), {})
                infos = self.dynamics.infos()
        for key in ("_final_obs", "_final_info"):
            if key in final:
                final[key] = self._out(terminations.clone())
        return self._infos(infos) | final

    def action_masks(self) -> Any:
        """Actions that can change something, bool [N, A]."""
        return self._out(self.dynamics.action_mask())

    def render(self) -> tuple[Any, ...] | None:
        """One frame (or text) per row, by ``render_mode``; None without one."""
        if self.render_mode is None:
            return None
        from dynalay_gym.envs.rendering import render_row

        rows = range(self.num_envs)
        return tuple(render_row(self.dynamics, i, self.render_mode) for i in rows)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or read an attribute; one entry per row."""
        value = getattr(self, name)
        if callable(value):
            value = value(*args, **kwargs)
        per_row = isinstance(value, tuple) and len(value) == self.num_envs
        return value if per_row else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every row."""
        return (getattr(self, name),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute; the rows share it."""
        setattr(self, name, values)

    @property
    def is_seeded(self) -> bool:
        """Whether a reset has chosen the rows' episode streams."""
        return self._stream is not None

    def _seed_rows(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._stream is not None:
            return
        if isinstance(seed, int | np.integer) or seed is None:
            super().reset(seed=None if seed is None else int(seed))
            first = int(self.np_random.integers(2**62)) if seed is None else int(seed)
            seeds = [first + i for i in range(self.num_envs)]
        else:
            if len(seed) != self.num_envs:
                raise ConfigError(f"{len(seed)} seeds for {self.num_envs} rows")
            seeds = [
                int(self.np_random.integers(2**62)) if one is None else int(one)
                for one in seed
            ]
        if min(seeds) < 0:
            raise ConfigError(f"seeds must not be negative: {min(seeds)}")
        self._stream = EpisodeStream(seeds, self.num_samples, self.penalty_range)

    def _begin(self, rows: np.ndarray, options: dict[str, Any]) -> None:
        assert self._stream is not None, "seeded by reset"
        index, penalty = self._stream.draw(rows)
        index, penalty = _override(options, rows, self.num_envs, index, penalty)
        if index.size and not (0 <= index.min() and index.max() < self.num_samples):
            raise ConfigError(f"index must lie in 0..{self.num_samples - 1}")
        if penalty.size and not penalty.min() >= 0:
            raise ConfigError("penalty must not be negative")
        device = self.device
        self.dynamics.begin(
            torch.as_tensor(rows, device=device),
            torch.as_tensor(index, device=device),
            torch.as_tensor(penalty, device=device),
        )
        self._finished[rows] = False

    def _observations(self) -> Any:
        observations = observe(self.dynamics, self.config)
        if isinstance(observations, dict):
            return {key: self._out(value) for key, value in observations.items()}
        return self._out(observations)

    def _infos(self, infos: dict[str, Tensor]) -> dict[str, Any]:
        """Infos in the chosen output, each with its ``_key`` mask."""
        out: dict[str, Any] = {}
        for key, value in infos.items():
            there = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
            out[key], out[f"_{key}"] = self._out(value), self._out(there)
        return out

    def _out(self, value: Tensor) -> Any:
        return value if self.output == "torch" else value.cpu().numpy()


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        names = [member.value for member in AutoresetMode]
        raise ConfigError(
            f"unknown autoreset_mode {mode!r}; choose one of {names}"
        ) from None


def _reset_mask(mask: Any, num_envs: int) -> np.ndarray:
    if mask is None:
        return np.ones(num_envs, dtype=bool)
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise ConfigError(f"reset_mask must be bool of shape ({num_envs},)")
    return mask


def _override(
    options: dict[str, Any],
    rows: np.ndarray,
    num_envs: int,
    index: np.ndarray,
    penalty: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace what the stream drew by what the caller asked for."""
    unknown = set(options) - {"index", "penalty"}
    if unknown:
        raise ConfigError(
            f"unknown reset options {sorted(unknown)}; "
            "known: index, penalty, reset_mask"
        )
    drawn: dict[str, np.ndarray] = {"index": index, "penalty": penalty}
    for key, value in options.items():
        given = np.asarray(value, dtype=drawn[key].dtype)
        if given.shape not in ((), (num_envs,)):
            raise ConfigError(f"option {key} must be one value or {num_envs} of them")
        drawn[key] = np.broadcast_to(given, num_envs)[rows].copy()
    return drawn["index"], drawn["penalty"]
