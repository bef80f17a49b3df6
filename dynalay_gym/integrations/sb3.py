"""A batched environment as Stable-Baselines3's VecEnv.

Axes: N sub-environments, D observation features, A actions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)
from torch import Tensor

from dynalay_gym.errors import ConfigError, brief
from dynalay_gym.evaluation.evaluate import check_autoreset
from dynalay_gym.networks.policy import as_numpy


class SB3VecEnv(VecEnv):
    """Hands a Gymnasium vector environment to Stable-Baselines3, batched as it is.

    SB3 expects that a finished row's observation is already the new episode's, while
    the last one of the old is ``infos[i]["terminal_observation"]``: Gymnasium's
    SAME_STEP mode with its ``final_obs``. Any other mode would train on wrong
    transitions without a word, so it is refused.

    ``reset_infos[i]`` holds what the last reset or autoreset of row i told, and
    ``infos[i]`` holds the environment's info keys (``correct``, ``macs``, ``index``,
    ...) of the step that row i took, as numbers: also where it ended an episode, so
    that ``VecMonitor(envs, info_keywords=("correct",))`` records how it ended.

    Args:
        envs: Environment in SAME_STEP mode, with NumPy or torch output, and flat or
            dictionary observations.

    Raises:
        ConfigError: The environment is in another mode.
    """

    def __init__(self, envs: VectorEnv) -> None:
        check_autoreset(envs, AutoresetMode.SAME_STEP, "Stable-Baselines3")
        # SB3's constructor already asks for attributes, so this comes first.
        self.envs = envs
        self._actions = np.zeros(envs.num_envs, dtype=np.int64)
        super().__init__(
            envs.num_envs, envs.single_observation_space, envs.single_action_space
        )

    def set_options(
        self, options: list[dict[str, Any]] | dict[str, Any] | None = None
    ) -> None:
        """Set the options of the next reset.

        Args:
            options: The environment's own options for all rows, each value one number
                or N of them; or a list of N dictionaries, one per row, with numbers.

        Raises:
            ConfigError: A list does not hold N dictionaries with the same keys.
        """
        if options is not None and not isinstance(options, Mapping):
            options = self._stack_options(options)
        super().set_options(options)

    def reset(self) -> VecEnvObs:
        """Reset all rows with the seeds and options set before; return observations."""
        seeds: Any = None if self._seeds[0] is None else list(self._seeds)
        options = self._options[0] or None
        observations, infos = self.envs.reset(seed=seeds, options=options)
        self.reset_infos = self._rows(infos)
        self._reset_seeds()
        self._reset_options()
        return _host(observations)  # type: ignore[no-any-return]

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [N] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; return observations, rewards, dones and a list of infos."""
        observations, rewards, ends, cuts, infos = self.envs.step(self._actions)
        terminated, truncated = as_numpy(ends), as_numpy(cuts)
        dones = terminated | truncated
        rows = self._rows(infos)
        if dones.any():
            last = _host(infos["final_obs"])
            final = self._rows(infos.get("final_info", {}))
            for i in np.flatnonzero(dones).tolist():
                self.reset_infos[i] = rows[i]
                rows[i] = final[i] | {"terminal_observation": self._part(last, i)}
        for row, is_cut in zip(rows, (truncated & ~terminated).tolist(), strict=True):
            row["TimeLimit.truncated"] = is_cut
        return _host(observations), as_numpy(rewards), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the environment, once per row asked for."""
        owner = self.envs if hasattr(self.envs, attr_name) else self.envs.unwrapped
        value = getattr(owner, attr_name)
        return [value for _ in self._numbers(indices)]

    def set_attr(
        self, attr_name: str, value: Any, indices: VecEnvIndices = None
    ) -> None:
        """Set an attribute of the batched environment.

        Raises:
            ConfigError: Only some rows are meant; they share their attributes.
        """
        if len(set(self._numbers(indices))) < self.num_envs:
            raise ConfigError(
                f"the rows of a batched environment share {attr_name!r}; set it for all"
            )
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the batched environment once, for all rows.

        Returns:
            One entry per row asked for: its part of arrays of N entries (also within
            tuples and dictionaries), everything else as it is.
        """
        method = getattr(self.envs.unwrapped, method_name)
        result = method(*method_args, **method_kwargs)
        return [self._part(result, i) for i in self._numbers(indices)]

    def env_is_wrapped(
        self, wrapper_class: type, indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return false for every row: single wrappers cannot wrap a batched env."""
        return [False for _ in self._numbers(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one rendered frame per row."""
        frames: Any = self.envs.render()
        return list(frames or ())

    def _numbers(self, indices: VecEnvIndices) -> list[int]:
        """Return the numbers of rows; IndexError if there is no such row."""
        rows = range(self.num_envs)
        return [rows[i] for i in self._get_indices(indices)]

    def _stack_options(self, options: Any) -> dict[str, Any]:
        """Return the options of N rows as one array per key."""
        given = list(options) if isinstance(options, Sequence) else []
        rows = [{} if row is None else row for row in given]
        fits = len(rows) == self.num_envs
        fits = fits and all(isinstance(row, Mapping) for row in rows)
        if not fits or any(set(row) != set(rows[0]) for row in rows):
            raise ConfigError(
                f"options must be one dictionary for all rows, or {self.num_envs} with "
                f"the same keys, not {brief(options)}"
            )
        return {key: np.asarray([row[key] for row in rows]) for key in rows[0]}

    def _part(self, value: Any, i: int) -> Any:
        """Return row i's part of what a batched method returned."""
        if isinstance(value, tuple):
            return tuple(self._part(each, i) for each in value)
        if isinstance(value, dict):
            return {key: self._part(each, i) for key, each in value.items()}
        if not isinstance(value, np.ndarray | Tensor):
            return value
        batched = value.ndim > 0 and len(value) == self.num_envs
        return as_numpy(value[i] if batched else value)

    def _rows(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return one dictionary per row, without Gymnasium's masks (`_key`)."""
        arrays = {
            key: as_numpy(value)
            for key, value in infos.items()
            if isinstance(value, np.ndarray | Tensor) and key[0] != "_"
        }
        arrays.pop("final_obs", None)
        if not arrays:
            return [{} for _ in range(self.num_envs)]
        # Numbers as Python's own, of larger entries views.
        columns = (x.tolist() if x.ndim == 1 else x for x in arrays.values())
        rows = zip(*columns, strict=True)
        return [dict(zip(arrays, row, strict=True)) for row in rows]


def _host(observations: Any) -> Any:
    """Return observations [N, D], or a dictionary of them, as NumPy arrays."""
    if isinstance(observations, Mapping):
        return {key: as_numpy(value) for key, value in observations.items()}
    return as_numpy(observations)
