"""A batched DynaLay environment as Stable-Baselines3's VecEnv.

Axes: N sub-environments, D observation features, A actions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from agents.base import as_numpy
from agents.rollout import check_same_step


class SB3VecEnv(VecEnv):
    """Hands a vector environment to SB3 without copying its logic.

    SB3 expects that a finished row's observation is already the new episode's, while
    the last one of the old travels in `infos[i]["terminal_observation"]`: that is
    Gymnasium's SAME_STEP mode with its `final_obs`. Any other mode would train on
    wrong transitions without a word, so it is refused.

    Args:
        envs: Environment in SAME_STEP mode.

    Raises:
        ConfigError: If the environment is in another mode.
    """

    def __init__(self, envs: VectorEnv) -> None:
        check_same_step(envs, "Stable-Baselines3")
        # SB3's constructor already asks for attributes, so this comes first.
        self.envs = envs
        self._actions = np.zeros(envs.num_envs, dtype=np.int64)
        super().__init__(
            envs.num_envs, envs.single_observation_space, envs.single_action_space
        )

    def reset(self) -> VecEnvObs:
        """Reset all rows with the seeds and options set before; return observations."""
        seeds = None if self._seeds[0] is None else list(self._seeds)
        observations, infos = self.envs.reset(
            seed=seeds,  # type: ignore[arg-type]  # one seed per row
            options=self._options[0] or None,
        )
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return as_numpy(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [N] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; return observations, rewards, dones and a list of infos."""
        observations, rewards, ends, cuts, infos = self.envs.step(self._actions)
        terminated, truncated = as_numpy(ends), as_numpy(cuts)
        dones = terminated | truncated
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            last = as_numpy(infos["final_obs"])
            for i in np.flatnonzero(dones):
                rows[i]["terminal_observation"] = last[i]
                rows[i]["TimeLimit.truncated"] = bool(truncated[i] & ~terminated[i])
        return as_numpy(observations), as_numpy(rewards), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute, once per row asked for."""
        value = getattr(self.envs, attr_name, None)
        if value is None:
            value = getattr(self.envs.unwrapped, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(
        self, attr_name: str, value: Any, indices: VecEnvIndices = None
    ) -> None:
        """Set an attribute of the batched environment, so of all rows."""
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a batched method such as `action_masks`; return one entry per row."""
        method = getattr(self.envs.unwrapped, method_name)
        results = method(*method_args, **method_kwargs)
        return [as_numpy(results[i]) for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type, indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return false for every row: single wrappers cannot wrap a batched env."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one rendered frame per row."""
        frames: Any = self.envs.render()
        return list(frames or ())

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one dictionary of numbers per row, without Gymnasium's masks."""
        kept = {key: as_numpy(v) for key, v in infos.items() if not key.startswith("_")}
        return [{k: v[i] for k, v in kept.items()} for i in range(self.num_envs)]
