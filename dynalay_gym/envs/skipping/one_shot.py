"""All blocks decided on at once: an episode is one step (a contextual bandit).

The action says of every block whether it runs. The wrappers play it block by block in
the environment that they wrap, stop, and add the rewards up. Blocks that could be
iterated are run or skipped like all others.

Axes: N sub-environments, B blocks.

References:
    Wu et al. (2018), BlockDrop: Dynamic Inference Paths in Residual Networks.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import MultiBinary
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from dynalay_gym.errors import ConfigError, InvalidActionError, brief
from dynalay_gym.networks.policy import as_numpy
from dynalay_gym.sessions.skip.decisions import ACTION_NAMES, RUN, SKIP, STOP

_SUMMED = ("macs", "solver_steps")


def to_plans(bits: Any) -> NDArray[np.int64]:
    """Return the actions of the wrapped environment, the stop left out, int64 [..., B].

    With `PlanPolicy` they can be evaluated beside every other policy.

    Args:
        bits: Whether each block runs: 0 or 1, [..., B].
    """
    return np.where(as_numpy(bits) != 0, RUN, SKIP)


class OneShot(gym.Wrapper):
    """A single environment with the action ``MultiBinary(B)``.

    Args:
        env: An environment whose actions are stop, run and skip.

    Raises:
        ConfigError: It has other actions, or ends before all blocks are decided on.
    """

    def __init__(self, env: gym.Env) -> None:
        self.num_blocks = _num_blocks(env.unwrapped)
        super().__init__(env)
        self.action_space = MultiBinary(self.num_blocks)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the environment's own."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _without_mask(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Run the chosen blocks and answer; the episode ends.

        Args:
            action: 0 or 1 per block, [B].

        Returns:
            Observation, sum of the rewards, True, False, and info, whose ``macs`` are
            those of all blocks.

        Raises:
            InvalidActionError: Wrong shape or values; nothing has changed then.
            ResetNeededError: Before the first reset, or the episode has ended.
        """
        bits = _read_bits(action, (self.num_blocks,))
        total, ended, sums = 0.0, False, dict.fromkeys(_SUMMED, 0)
        for each in [*to_plans(bits).tolist(), STOP]:
            if not ended:  # the last block may have been the last decision
                observation, reward, ended, _, info = self.env.step(each)
                total += float(reward)
                sums = {key: sums[key] + info[key] for key in _SUMMED}
        return observation, total, True, False, _without_mask(info) | sums


class OneShotVector(VectorWrapper):
    """The same for a batched environment.

    Args:
        env: A batched environment whose actions are stop, run and skip.

    Raises:
        ConfigError: It has other actions, or ends before all blocks are decided on.
    """

    def __init__(self, env: VectorEnv) -> None:
        base: Any = env.unwrapped
        self.num_blocks = _num_blocks(base)
        super().__init__(env)
        self.single_action_space = MultiBinary(self.num_blocks)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._mode = env.metadata["autoreset_mode"]
        self._waits = False  # whether the next step resets all rows

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes; see the environment's own.

        Raises:
            ConfigError: As there; also for a ``reset_mask`` in NEXT_STEP mode, where
                all rows end and start together.
        """
        next_step = self._mode is AutoresetMode.NEXT_STEP
        if next_step and isinstance(options, dict) and "reset_mask" in options:
            raise ConfigError(
                "rows that decide once all start together in NextStep mode; leave "
                "reset_mask out, or use autoreset_mode='Disabled'"
            )
        observations, infos = self.env.reset(seed=seed, options=options)
        self._waits = False
        return observations, _without_mask(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Run the chosen blocks of every row and answer; all episodes end.

        Args:
            actions: 0 or 1 per row and block, [N, B].

        Returns:
            As the environment's own, the rewards summed; ``macs`` of a finished step
            (in SAME_STEP those in ``final_info``) are those of all blocks.

        Raises:
            InvalidActionError: Wrong shape or values, or a finished row in ``Disabled``
                mode; nothing has changed then.
            ResetNeededError: Before the first reset or after `close`.
        """
        bits = _read_bits(actions, (self.num_envs, self.num_blocks))
        plans = list(to_plans(bits).T)
        stop = np.full(self.num_envs, STOP)
        if self._waits:  # in NEXT_STEP this step starts the next episodes
            self._waits = False
            *outcome, infos = self.env.step(stop)
            return (*outcome, _without_mask(infos))
        total: Any = 0.0
        sums: dict[str, Any] = dict.fromkeys(_SUMMED, 0)
        for each in [*plans, stop]:
            seen, rewards, ends, cuts, infos = self.env.step(each)
            final = infos.get("final_info", infos)
            total = total + rewards
            sums = {key: sums[key] + final[key] for key in _SUMMED}
            if ends.all():  # the last block may have been the last decision
                break
        self._waits = self._mode is AutoresetMode.NEXT_STEP
        infos = _without_mask(infos)
        if "final_info" in infos:
            infos["final_info"] = _without_mask(infos["final_info"]) | sums
        else:
            infos |= sums
        return seen, total, ends, cuts, infos


def _num_blocks(base: Any) -> int:
    """Return the blocks B of an environment that can be played in one step."""
    names = getattr(base, "action_names", ())
    if names[: len(ACTION_NAMES)] != ACTION_NAMES:
        raise ConfigError(
            "one decision for all blocks needs an environment whose actions are "
            f"{', '.join(ACTION_NAMES)}, not {', '.join(names) or type(base).__name__}"
        )
    num_blocks: int = base.problem.session.num_blocks
    if base.max_decisions < num_blocks:
        raise ConfigError(
            f"max_decisions={base.max_decisions} ends an episode before all "
            f"{num_blocks} blocks are decided on; leave it out"
        )
    return num_blocks


def _read_bits(action: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return an action as bool of a shape; numbers must be exactly 0 or 1."""
    try:
        given = np.asarray(as_numpy(action))
    except (TypeError, ValueError):
        given = np.empty(0)
    is_number = given.dtype.kind in "biuf" and given.shape == shape
    if not is_number or not ((given == 0) | (given == 1)).all():
        raise InvalidActionError(
            f"an action must be 0 or 1 for every block, of shape {shape}, not "
            f"{brief(action)}"
        )
    bits: NDArray[np.bool_] = given != 0
    return bits


def _without_mask(info: dict[str, Any]) -> dict[str, Any]:
    """Return an info without the mask of the wrapped environment's actions."""
    return {
        key: info[key] for key in info if key not in ("action_mask", "_action_mask")
    }
