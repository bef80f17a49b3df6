"""DynaLay as a Gymnasium environment: choose which layer of a network to iterate.

Importing this package registers its environments, and loads no torch.
"""

from gymnasium.envs.registration import register

from dynalay_gym.data.registry import DATASETS

__version__ = "0.1.0"

for _spec in DATASETS.values():
    register(
        id=_spec.env_id,
        entry_point="dynalay_gym.envs.single_env:DynaLayEnv",
        vector_entry_point="dynalay_gym.envs.vector_env:DynaLayVectorEnv",
        kwargs={
            "dataset": _spec.name,
            "iterations_per_action": _spec.iterations_per_action,
            "reward": _spec.reward,
        },
    )
