"""Saving and loading agents by the name of their algorithm.

A saved agent is a folder with safetensors and JSON, whatever library trained it. The
optimiser is not part of it: training continues with fresh moments.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.base import Agent, sizes
from agents.config import AgentConfig
from agents.registry import config_classes, make_agent
from dynalay_gym.errors import CheckpointError
from dynalay_gym.storage import saved_folder
from dynalay_gym.storage.schema import read_as

KIND = "agent"
_FEW_WEIGHTS = 2**22


@dataclass(frozen=True, kw_only=True)
class AgentFacts:
    """What the manifest of an agent holds.

    Attributes:
        algo: Name of its algorithm.
        config: Its hyper-parameters by name.
        observation_size: Features of an observation.
        num_actions: Number of actions.
        about: Anything else: the options that it was trained with.
    """

    algo: str
    config: dict[str, Any]
    observation_size: int
    num_actions: int
    about: dict[str, Any] = field(default_factory=dict)


def save_agent(
    folder: str | Path, agent: Agent, envs: VectorEnv, about: Mapping[str, Any]
) -> None:
    """Write an agent: the whole new one or, if that fails, none.

    Args:
        folder: Folder of the agent, made if it is absent.
        agent: The agent.
        envs: An environment that it fits.
        about: JSON-able values to keep beside it.

    Raises:
        DivergedError: A weight is not finite.
    """
    observation_size, num_actions = sizes(envs)
    facts = AgentFacts(
        algo=agent.config.algo,
        config=asdict(agent.config),
        observation_size=observation_size,
        num_actions=num_actions,
        about=dict(about),
    )
    saved_folder.save_folder(folder, KIND, agent.module.state_dict(), asdict(facts))


def load_config(folder: str | Path) -> AgentConfig:
    """Return the hyper-parameters of a saved agent; their class is its algorithm.

    Raises:
        CheckpointError: There is no agent in the folder.
    """
    return load_facts(folder)[0]


def load_facts(folder: str | Path) -> tuple[AgentConfig, dict[str, Any]]:
    """Return a saved agent's hyper-parameters, and what was kept beside it.

    Raises:
        CheckpointError: There is no agent in the folder.
    """
    facts = saved_folder.load_facts(folder, KIND, AgentFacts)
    return _config(folder, facts), facts.about


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
        CheckpointError: It is missing, damaged, or made for another network.
    """
    saved = saved_folder.load_folder(folder, KIND, AgentFacts)
    facts = saved.facts
    config = _config(folder, facts)
    if (facts.observation_size, facts.num_actions) != sizes(envs):
        raise CheckpointError(
            f"the agent at {folder} takes {facts.observation_size} features and "
            f"{facts.num_actions} actions, the environment has "
            f"{' and '.join(map(str, sizes(envs)))}; give the agent that was trained "
            "on this main network"
        )
    _check_widths(folder, facts, config, saved.tensors)
    agent = make_agent(envs, config, seed=seed, baseline_envs=baseline_envs)
    saved_folder.fill(agent.module, saved.tensors, folder)
    return agent


def _check_widths(
    folder: str | Path,
    facts: AgentFacts,
    config: AgentConfig,
    tensors: Mapping[str, Tensor],
) -> None:
    """Refuse large hidden layers, before they are built, if fewer weights are saved.

    Small ones may be built: an algorithm of one's own may do without them.
    """
    widths = (facts.observation_size, *config.hidden, facts.num_actions)
    saved = sum(tensor.numel() for tensor in tensors.values())
    if sum(a * b for a, b in pairwise(widths)) > max(saved, _FEW_WEIGHTS):
        raise CheckpointError(
            f"the weights at {folder} are too few for hidden layers of "
            f"{config.hidden}; train it again"
        )


def load_weights(folder: str | Path, agent: Agent) -> None:
    """Give an agent the weights of a saved one with the same networks.

    Raises:
        CheckpointError: It is missing, damaged, or has other networks.
    """
    saved = saved_folder.load_folder(folder, KIND, AgentFacts)
    saved_folder.fill(agent.module, saved.tensors, folder)


def _config(folder: str | Path, facts: AgentFacts) -> AgentConfig:
    """Return the hyper-parameters of an agent as its algorithm has them."""
    if facts.algo not in config_classes():
        raise CheckpointError(
            f"the agent at {folder} is of the algorithm {facts.algo!r}, which this "
            "version does not have; train it again"
        )
    return read_as(facts.config, config_classes()[facts.algo], f"the agent at {folder}")
