"""The environments of a run: one problem over the splits that it needs."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from agents.config import AgentConfig
from agents.options import Options
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split

EVALUATION_ENVS = 256


@dataclass(frozen=True, kw_only=True)
class Environments:
    """The same problem over the splits that a run needs.

    Attributes:
        train: The agent split, in SAME_STEP mode.
        agent: The agent split in DISABLED mode.
        baseline: The same, where the agent needs it for learning; else None.
        validation: In DISABLED mode.
        test: In DISABLED mode, always live.
        penalty: The penalty that policies are compared at.
    """

    train: VectorEnv
    agent: VectorEnv
    baseline: VectorEnv | None
    validation: VectorEnv
    test: VectorEnv
    penalty: float

    @property
    def splits(self) -> dict[str, VectorEnv]:
        """The splits that can be evaluated, by name."""
        return {"agent": self.agent, "validation": self.validation, "test": self.test}


def build_environments(options: Options, config: AgentConfig) -> Environments:
    """Return the environments of a run.

    Args:
        options: The command line.
        config: Hyper-parameters of the agent that will learn.

    Raises:
        DynaLayError: Options are wrong or files missing.
    """
    how: Any = {"transitions": "table" if config.needs_table else options.transitions}
    penalty = options.penalty
    # An agent of a whole range is compared at one number: the break-even.
    fixed = None if penalty is not None and ":" in penalty else penalty
    how_train = how | {"output": config.output}
    rows = options.num_envs or config.num_envs
    train = make_envs(options, "agent", penalty, rows, **how_train)
    agent = make_evaluation_envs(options, "agent", fixed, **how)
    validation = make_evaluation_envs(options, "validation", fixed, **how)
    test: Any = make_evaluation_envs(options, "test", fixed, transitions="live")
    return Environments(
        train=train,
        agent=agent,
        baseline=agent if config.needs_baseline_envs else None,
        validation=validation,
        test=test,
        penalty=test.unwrapped.penalty_range[0],
    )


def make_envs(
    options: Options,
    split: str | Split,
    penalty: str | None,
    num_envs: int,
    **kwargs: Any,
) -> VectorEnv:
    """Return a vector environment over one split.

    Args:
        options: The command line.
        split: Name of the split, or one of your own.
        penalty: A number, a range, or None for the break-even.
        num_envs: Rows.
        **kwargs: Further arguments of the environment.
    """
    arguments = env_arguments(options) | {"split": split, "penalty": penalty} | kwargs
    env_id = dataset_spec(options.dataset).env_id
    return gym.make_vec(env_id, num_envs=num_envs, **arguments)


def env_arguments(options: Options) -> dict[str, Any]:
    """Return the arguments of every environment of a run."""
    names = (
        "checkpoint data_dir download penalty penalty_unit alpha reward rtol max_steps "
        "iterations_per_action recall device"
    )
    given = {name: getattr(options, name) for name in names.split()}
    return {name: value for name, value in given.items() if value is not None}


def make_evaluation_envs(
    options: Options, split: str | Split, penalty: str | None, transitions: str
) -> VectorEnv:
    """Return an environment in which a whole split can be evaluated."""
    how: Any = {"autoreset_mode": "Disabled", "transitions": transitions}
    return make_envs(options, split, penalty, EVALUATION_ENVS, **how)


def make_picture_envs(options: Options) -> VectorEnv:
    """Return an environment of one row over the test split that can be rendered."""
    how: Any = {"autoreset_mode": "Disabled", "render_mode": "rgb_array"}
    return make_envs(options, "test", options.penalty, 1, **how)
