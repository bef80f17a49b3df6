"""Entry points of the environments over networks whose blocks are skipped."""

from typing import Any

from dynalay_gym.envs.config import SHIPPED, EnvProperties
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.skipping.one_shot import OneShot, OneShotVector
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError
from dynalay_gym.sessions.skip.decisions import ACTION_NAMES

_REMEDY = (
    "train one with `python train_main.py --dataset cifar10 --preset fast` and give "
    "its folder as checkpoint="
)


def skip_env(**config: Any) -> DynaLayEnv:
    """Return the single environment; see `EnvConfig` for the arguments."""
    env = DynaLayEnv(**_with_network(config))
    _check_network(env)
    return env


def skip_vector_env(num_envs: int = 1, **config: Any) -> DynaLayVectorEnv:
    """Return the batched environment; see `DynaLayVectorEnv` for the arguments."""
    envs = DynaLayVectorEnv(num_envs, **_with_network(config))
    _check_network(envs)
    return envs


def one_shot_env(**config: Any) -> OneShot:
    """Return the single environment with one decision for all blocks."""
    return OneShot(skip_env(**config))


def one_shot_vector_env(num_envs: int = 1, **config: Any) -> OneShotVector:
    """Return the batched environment with one decision for all blocks."""
    return OneShotVector(skip_vector_env(num_envs, **config))


def _with_network(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the network that ships, if none is given."""
    if config.get("checkpoint") is not None:
        return config
    return config | {"checkpoint": SHIPPED / "cifar10-skip"}


def _check_network(env: EnvProperties) -> None:
    """Raise CheckpointError for a network whose blocks cannot be skipped."""
    if env.action_names[: len(ACTION_NAMES)] != ACTION_NAMES:
        raise CheckpointError(
            "this environment needs a network with residual blocks; the one given has "
            f"the actions {', '.join(env.action_names)}; {_REMEDY}"
        )
