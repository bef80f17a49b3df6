"""The checker passes what is right and names what is wrong."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dynalay_gym.testing import check_vector_env


class CountingEnv(VectorEnv):
    """Each row counts to a random target; action 1 counts, action 0 gives up.

    Args:
        num_envs: Rows.
        mode: Autoreset mode.
        defect: The one thing that is wrong; none if empty.
    """

    def __init__(self, num_envs: int, mode: str, defect: str = "") -> None:
        self.num_envs, self.defect, self.mode = num_envs, defect, AutoresetMode(mode)
        told = AutoresetMode.SAME_STEP if defect == "metadata" else self.mode
        self.metadata = {"autoreset_mode": told}
        high = 2.0 if defect == "bounds" else 20.0
        self.single_observation_space = Box(0.0, high, (2,), np.float32)
        self.single_action_space = Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        if defect == "space":
            self.action_space = batch_space(Discrete(3), num_envs)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._state = np.zeros((num_envs, 2), np.float32)
        self._ended = np.ones(num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, Any]:
        if seed is not None and self.defect != "seed":
            step = 0 if self.defect == "row seed" and self.num_envs > 1 else 1
            given = isinstance(seed, list)
            seeds = [seed + step * i for i in range(self.num_envs)] if not given else []
            seeds = seeds or seed
            self._rngs = [np.random.default_rng(one) for one in seeds]
        everyone = np.ones(self.num_envs, dtype=bool)
        mask = (options or {}).get("reset_mask", everyone)
        self._begin(everyone if self.defect == "reset_mask" else mask)
        return self._observe(), self._infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        actions = np.asarray(actions)
        if self.defect == "late check":
            self._state[:, 0] += 1
        good = actions.dtype.kind == "i" and self.action_space.contains(actions)
        if not (good or self.defect == "no check"):
            raise ValueError("bad actions")
        waiting = self._ended.copy()
        if self.mode is AutoresetMode.DISABLED and waiting.any():
            if self.defect != "stepping the dead":
                raise ValueError("finished rows")
        actions = np.resize(actions, self.num_envs)
        self._state[~waiting, 0] += actions[~waiting] != 0
        ended = (self._state[:, 0] >= self._state[:, 1]) | (actions == 0)
        ended &= ~waiting
        rewards = np.where(ended, self._state[:, 0], 0.0).astype(np.float32)
        if waiting.any():
            self._begin(waiting)
            rewards[waiting] += self.defect == "reward of a reset"
        if self.defect == "rewards of integers":
            rewards = rewards.astype(np.int64)
        self._ended = ended.copy()
        final: dict[str, Any] = {}
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            if self.defect != "no final":
                final["final_obs"] = self._state.copy()
                final["final_info"] = self._infos()
                final["_final_obs"] = final["_final_info"] = ended.copy()
            self._begin(ended)
        truncations = np.zeros_like(ended)
        result = self._observe(), rewards, ended.copy(), truncations
        if self.defect == "shared ends":
            self._ended = result[2]
        return *result, self._infos() | final

    def _begin(self, mask: np.ndarray) -> None:
        for row in np.flatnonzero(mask):
            shared = self.defect == "shared randomness"
            rng = self._rngs[0] if shared else self._rngs[row]
            self._state[row] = 0, rng.integers(1, 8)
        self._ended[mask] = False

    def _observe(self) -> np.ndarray:
        if self.defect == "buffer":
            return self._state
        noise = 1e-6 * (self.num_envs > 1) * (self.defect == "batch size")
        return (self._state + np.float32(noise)).astype(np.float32)

    def _infos(self) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, dtype=bool)
        return {"target": self._state[:, 1].astype(int), "_target": everyone}


def test_a_correct_environment_passes() -> None:
    check_vector_env(CountingEnv)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("metadata", "metadata"),
        ("space", "action_space"),
        ("bounds", "observation_space"),
        ("seed", "second rollout"),
        ("row seed", "row 1 alone"),
        ("shared randomness", "row 0 alone"),
        ("batch size", "row 0 alone"),
        ("buffer", "changed what one returned"),
        ("shared ends", "changed what one returned|overwritten"),
        ("late check", "refused actions"),
        ("no check", "step accepted"),
        ("stepping the dead", "finished row"),
        ("reset_mask", "was not to be reset"),
        ("reward of a reset", "must earn 0"),
        ("rewards of integers", "rewards: wrong dtype"),
        ("no final", "final_obs"),
    ],
)
def test_each_defect_is_named(defect: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_vector_env(lambda n, mode: CountingEnv(n, mode, defect))


def test_too_few_steps_or_rows_are_not_mistaken_for_success() -> None:
    with pytest.raises(AssertionError, match="num_steps"):
        check_vector_env(CountingEnv, num_steps=0)
    with pytest.raises(AssertionError, match="num_envs"):
        check_vector_env(CountingEnv, num_envs=1)


def test_gymnasiums_own_batching_passes() -> None:
    def make(num_envs: int, mode: str) -> VectorEnv:
        return gym.make_vec(
            "CartPole-v1",
            num_envs=num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": mode},
        )

    check_vector_env(make, num_steps=120, bad_actions=False)
