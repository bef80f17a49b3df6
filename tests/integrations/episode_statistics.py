"""Counts wrong returns of Gymnasium's RecordEpisodeStatistics, in every autoreset mode.

    python tests/integrations/episode_statistics.py

Needs nothing but the version of Gymnasium that is asked about, with its CartPole, whose
return is the number of its steps.
"""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics


def count(mode: AutoresetMode, steps: int = 1000) -> tuple[int, int]:
    """Return how many episodes ended, and how many of them have a wrong return."""
    makers = [lambda: gym.make("CartPole-v1")] * 4
    envs = RecordEpisodeStatistics(SyncVectorEnv(makers, autoreset_mode=mode))
    envs.reset(seed=0)
    envs.action_space.seed(0)
    returns, waiting = np.zeros(4), np.zeros(4, dtype=bool)
    ended, wrong = 0, 0
    for _ in range(steps):
        _, rewards, terminations, _, infos = envs.step(envs.action_space.sample())
        returns = np.where(waiting, 0.0, returns + rewards)
        if terminations.any():
            found = infos.get("final_info", {}).get("episode") or infos["episode"]
            ended += int(terminations.sum())
            wrong += int((found["r"] != returns)[terminations].sum())
        if mode is AutoresetMode.SAME_STEP:
            returns[terminations] = 0.0
        else:
            waiting = terminations
    return ended, wrong


if __name__ == "__main__":
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        ended, wrong = count(mode)
        print(f"Gymnasium {gym.__version__}, {mode.value}: {wrong} of {ended} wrong")
