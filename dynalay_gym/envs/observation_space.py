"""Gymnasium spaces of the observation, flat or with the raw maps."""

import gymnasium as gym
import numpy as np

from dynalay_gym.envs.config import EnvConfig
from dynalay_gym.envs.dynamics import Array, LayerDynamics
from dynalay_gym.envs.observation import squash


def make_space(
    dynamics: LayerDynamics, config: EnvConfig
) -> gym.spaces.Box | gym.spaces.Dict:
    """Space of one row's observation; every entry in [0, 1]."""
    flat = gym.spaces.Box(0.0, 1.0, (dynamics.observer.size,), np.float32)
    if config.observation == "flat":
        return flat
    state = dynamics.problem.session.begin(dynamics.problem.inputs[:1])
    spaces: dict[str, gym.Space] = {"flat": flat}
    for i, layer in enumerate(state.layers[1:]):
        shape = tuple(layer.y.shape[1:])
        spaces[f"map/{i}"] = gym.spaces.Box(0.0, 1.0, shape, np.float32)
    return gym.spaces.Dict(spaces)


def observe(dynamics: LayerDynamics, config: EnvConfig) -> Array | dict[str, Array]:
    """Observations of all rows, in the form of ``make_space``."""
    flat = dynamics.observe()
    if config.observation == "flat":
        return flat
    assert dynamics.state is not None, "begin comes before observe"
    seen = {"flat": flat}
    for i, layer in enumerate(dynamics.state.layers[1:]):
        seen[f"map/{i}"] = squash(layer.y)
    return seen
