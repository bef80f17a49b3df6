"""The algorithms by name; importing this loads no torch.

A new algorithm is one new file, with an agent and a subclass of `AgentConfig` that
names it, and one line below. The line gives the command line its ``--algo`` and
``--<algo>.<option>`` flags, saving, loading and the table; `learn` writes its own
metrics and calls `on_progress`, or nothing is validated.
Where torch is imported at the top of that file, ``--help`` takes a second longer: the
configs of this repository have files of their own for that reason alone.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from gymnasium.vector import VectorEnv

from agents.config import AgentConfig

if TYPE_CHECKING:
    from agents.base import Agent

ALGORITHMS = (
    "agents.policy_gradient.config:PolicyGradientConfig",
    "agents.exact.config:ExactConfig",
    "agents.sb3.config:PPOConfig",
    "agents.sb3.config:A2CConfig",
    "agents.sb3.config:DQNConfig",
)
DEFAULT_ALGO = "ppo"


def config_classes() -> dict[str, type[AgentConfig]]:
    """Return the class of every algorithm's hyper-parameters by its name."""
    classes = (resolve_name(name) for name in ALGORITHMS)
    return {each.algo: each for each in classes}


def make_agent(
    envs: VectorEnv,
    config: AgentConfig,
    *,
    seed: int = 0,
    baseline_envs: VectorEnv | None = None,
) -> "Agent":
    """Return a fresh agent; the config's class chooses the algorithm.

    Args:
        envs: Environment in SAME_STEP mode to learn on.
        config: Hyper-parameters.
        seed: Seeds weights, exploration and environment.
        baseline_envs: Environment in DISABLED mode over the same split, where
            ``config.needs_baseline_envs``; not used otherwise.

    Raises:
        ConfigError: An environment is missing, in the wrong autoreset mode, or without
            the transition table that the algorithm needs; or memory is too small.
    """
    from agents.base import sizes  # loads torch, for which --help does not wait

    config.check_memory(envs.num_envs, *sizes(envs))
    extra = {"baseline_envs": baseline_envs} if config.needs_baseline_envs else {}
    agent: Agent = resolve_name(config.agent)(envs, config, seed=seed, **extra)
    return agent
