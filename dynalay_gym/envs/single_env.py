"""The single Gymnasium environment: one row of the batched one."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from dynalay_gym.envs.config import EnvConfig, EnvProperties
from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.envs.vector_env import RENDER_MODES, DynaLayVectorEnv
from dynalay_gym.errors import InvalidActionError, ResetNeededError, brief


class DynaLayEnv(EnvProperties, gym.Env):
    """One sample, decided on layer by layer; see ``docs/environment.md``.

    Args:
        render_mode: None, ``rgb_array`` or ``ansi``.
        **config: Fields of `EnvConfig`, shared with the batched form.

    Raises:
        DynaLayError: For any bad argument, missing data or checkpoint.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
    }

    def __init__(self, *, render_mode: str | None = None, **config: Any) -> None:
        self.config = EnvConfig.from_kwargs(config)  # refuses what only a batch takes
        self._row = DynaLayVectorEnv(
            1, autoreset_mode="Disabled", render_mode=render_mode, **config
        )
        self.render_mode = render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space
        self._ended = False

    @property
    def problem(self) -> DecisionProblem:
        """What is decided on."""
        return self._row.problem

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seed of the stream of episodes; without one it goes on.
            options: ``index`` and ``penalty`` replace what the stream would choose.

        Returns:
            Observation and info.

        Raises:
            ConfigError: For a bad seed or option; nothing has changed then.
            ResetNeededError: After `close`.
        """
        drawn = None
        if seed is None and not self._row.is_seeded:
            drawn = int(self.np_random.integers(2**62))
        self._row.penalty_scale = self.penalty_scale
        seeds = [drawn if seed is None else seed]
        observations, infos = self._row.reset(seed=seeds, options=options)
        super().reset(seed=None if seed is None else int(seed))
        self._ended = False
        return _first(observations), _single_info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one decision.

        Args:
            action: Integer in 0..A-1; 0 (NOP) stops.

        Returns:
            Observation, reward, terminated, truncated (always False) and info.

        Raises:
            InvalidActionError: Wrong type, shape or range; nothing has changed then.
            ResetNeededError: Before the first reset, or the episode has ended.
        """
        if self._ended:
            raise ResetNeededError("the episode has ended; call reset() to go on")
        try:
            observations, rewards, terminations, _, infos = self._row.step([action])
        except InvalidActionError:
            raise InvalidActionError(
                f"action must be one integer in 0..{self.num_actions - 1}, not "
                f"{brief(action)}"
            ) from None
        self._ended = bool(terminations[0])
        outcome = float(rewards[0]), self._ended, False
        return _first(observations), *outcome, _single_info(infos)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights; see `DynaLayVectorEnv.load_weights`.

        Call it between episodes: what it changes in the observation shows at the next
        `reset` or `step`. Stable-Baselines3's workers take it by
        ``env_method("load_weights", weights)``.
        """
        self._row.load_weights(weights)

    def action_masks(self) -> np.ndarray:
        """Return which actions can change something, bool [A]."""
        mask: np.ndarray = self._row.action_masks()[0]
        return mask

    def render(self) -> Any:
        """Return a frame or a text, by ``render_mode``; None without one."""
        frames = self._row.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Refuse further steps; there is nothing to release."""
        self._row.close()


def _first(value: Any) -> Any:
    """Return row 0 of an observation, in memory of its own."""
    if isinstance(value, dict):
        return {key: part[0].copy() for key, part in value.items()}
    return value[0].copy()


def _single_info(infos: dict[str, Any]) -> dict[str, Any]:
    """Return row 0 of the infos as Python numbers and arrays, without the masks."""
    single = {}
    for key, value in infos.items():
        if key.startswith(("_", "final_")):
            continue
        single[key] = value[0].copy() if value[0].ndim else value[0].item()
    return single
