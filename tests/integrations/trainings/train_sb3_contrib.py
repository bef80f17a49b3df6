"""sb3-contrib: PPO with masks, PPO with a memory, and quantile regression DQN."""

import numpy as np
import shared
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from shared import Act, Task, Training
from train_sb3 import ON_POLICY, make

OFF_POLICY = {
    "learning_rate": 1e-3,
    "gamma": shared.DISCOUNT,
    "buffer_size": 50_000,
    "learning_starts": 1000,
    "batch_size": 128,
    "train_freq": 1,
    "gradient_steps": 2,
    "target_update_interval": 500,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.05,
    "policy_kwargs": {"n_quantiles": 25},
    "device": "cpu",
}


def maskable(task: Task) -> Act:
    """Learn with masks, which it asks the environment for by `action_masks`."""
    model = MaskablePPO("MlpPolicy", make(task), seed=task.seed, **ON_POLICY)
    model.learn(task.decisions)
    return lambda observations, infos: model.predict(
        observations, deterministic=True, action_masks=infos["action_mask"]
    )[0]


def recurrent(task: Task) -> Act:
    """Learn with an LSTM, whose state begins anew with every episode."""
    model = RecurrentPPO("MlpLstmPolicy", make(task), seed=task.seed, **ON_POLICY)
    model.learn(task.decisions)
    state = None

    def act(observations: np.ndarray, infos: shared.Infos) -> np.ndarray:
        nonlocal state
        starts = infos["decisions"] == 0
        actions, state = model.predict(observations, state, starts, deterministic=True)
        return actions

    return act


def quantiles(task: Task) -> Act:
    """Learn the distribution of returns."""
    model = QRDQN("MlpPolicy", make(task), seed=task.seed, **OFF_POLICY)
    model.learn(task.decisions)
    return lambda observations, _: model.predict(observations, deterministic=True)[0]


TRAININGS = {
    "MaskablePPO": Training(maskable, autoreset="none"),
    "RecurrentPPO": Training(recurrent, autoreset="none"),
    "QRDQN": Training(quantiles, autoreset="none"),
}

if __name__ == "__main__":
    shared.main("sb3-contrib", TRAININGS)
