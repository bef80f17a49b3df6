"""Saving and loading agents by the name of their algorithm.

A saved agent is a folder with safetensors and JSON, whatever library trained it. The
optimiser is not part of it: training continues with fresh moments.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from agents.base import Agent, sizes
from agents.config import AgentConfig
from agents.registry import config_classes, make_agent
from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors

KIND = "agent"


def save_agent(
    folder: str | Path, agent: Agent, envs: VectorEnv, about: Mapping[str, Any]
) -> None:
    """Write an agent: the whole new one or, if that fails, none.

    Args:
        folder: Folder of the agent, made if it is absent.
        agent: The agent.
        envs: An environment that it fits.
        about: JSON-able values to keep beside it.
    """
    observation_size, num_actions = sizes(envs)
    meta = {
        "kind": KIND,
        "algo": agent.config.algo,
        "config": asdict(agent.config),
        "observation_size": observation_size,
        "num_actions": num_actions,
        "facts": dict(about),
    }
    save_tensors(Path(folder), agent.module.state_dict(), meta)


def load_config(folder: str | Path) -> AgentConfig:
    """Return the hyper-parameters of a saved agent; their class is its algorithm.

    Raises:
        CheckpointError: There is no whole agent in the folder.
    """
    return _config(folder, load_tensors(folder)[1])


def load_facts(folder: str | Path) -> dict[str, Any]:
    """Return what `save_agent` was asked to keep beside an agent.

    Raises:
        CheckpointError: There is no whole agent in the folder.
    """
    return dict(load_tensors(folder)[1].get("facts", {}))


def load_agent(
    folder: str | Path,
    envs: VectorEnv,
    *,
    seed: int = 0,
    baseline_envs: VectorEnv | None = None,
) -> Agent:
    """Return a saved agent, ready to act or to learn further.

    Args:
        folder: Folder that `save_agent` wrote.
        envs: Environment in SAME_STEP mode that it fits.
        seed: Seeds exploration and environment.
        baseline_envs: See `make_agent`.

    Raises:
        CheckpointError: It is missing, corrupt, or made for another network.
    """
    tensors, meta = load_tensors(folder)
    config = _config(folder, meta)
    saved = (meta.get("observation_size"), meta.get("num_actions"))
    if saved != sizes(envs):
        raise CheckpointError(
            f"the agent at {folder} takes {saved[0]} features and {saved[1]} actions, "
            f"the environment has {' and '.join(map(str, sizes(envs)))}; give the "
            "agent that was trained on this main network"
        )
    agent = make_agent(envs, config, seed=seed, baseline_envs=baseline_envs)
    try:
        agent.module.load_state_dict(tensors)
    except RuntimeError:
        raise CheckpointError(
            f"the weights at {folder} do not fit the agent beside them; train it again"
        ) from None
    return agent


def _config(folder: str | Path, meta: Mapping[str, Any]) -> AgentConfig:
    """Return the config in an agent's JSON."""
    if meta.get("kind") != KIND:
        raise CheckpointError(
            f"the checkpoint at {folder} holds {meta.get('kind')!r}, not an agent; "
            "give the agent/ folder that train_agent.py wrote"
        )
    try:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in meta["config"].items()
        }
        return config_classes()[meta["algo"]](**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the agent at {folder} has options that this version does not know "
            f"({error}); train it again"
        ) from None
