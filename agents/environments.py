"""The environments of a run: one problem over the splits that it needs."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from agents.config import AgentConfig, ExactConfig, PolicyGradientConfig
from agents.options import Options
from dynalay_gym.data.registry import dataset_spec

EVALUATION_ENVS = 256


@dataclass(frozen=True, kw_only=True)
class Environments:
    """The same problem over the splits that a run needs."""

    train: VectorEnv
    baseline: VectorEnv | None
    validation: VectorEnv
    test: VectorEnv
    penalty: float  # that policies are compared at


def build_environments(options: Options, config: AgentConfig) -> Environments:
    """Return the environments; wrong options and missing files show here."""
    own = isinstance(config, PolicyGradientConfig)
    exact = isinstance(config, ExactConfig)
    transitions = "table" if exact else options.transitions
    penalty = options.penalty
    # An agent of a whole range is compared at one number: the break-even.
    fixed = None if penalty is not None and ":" in penalty else penalty
    train = make_envs(
        options,
        "agent",
        penalty,
        options.num_envs,
        output="torch" if own else "numpy",
        transitions=transitions,
    )
    baseline = None
    if isinstance(config, PolicyGradientConfig) and config.baseline == "greedy":
        baseline = make_evaluation_envs(options, "agent", fixed, transitions)
    test = make_evaluation_envs(options, "test", fixed, "live")
    return Environments(
        train=train,
        baseline=baseline,
        validation=make_evaluation_envs(options, "validation", fixed, transitions),
        test=test,
        penalty=test.unwrapped.penalty_range[0],  # type: ignore[attr-defined]
    )


def make_envs(
    options: Options, split: str, penalty: str | None, num_envs: int, **kwargs: Any
) -> VectorEnv:
    """Return the vector environment over one split."""
    return gym.make_vec(
        dataset_spec(options.dataset).env_id,
        num_envs=num_envs,
        checkpoint=None if options.checkpoint is None else str(options.checkpoint),
        split=split,
        data_dir=None if options.data_dir is None else str(options.data_dir),
        download=options.download,
        penalty=penalty,
        alpha=options.alpha,
        reward=options.reward,
        rtol=options.rtol,
        max_steps=options.max_steps,
        device=options.device,
        **kwargs,
    )


def make_evaluation_envs(
    options: Options, split: str, penalty: str | None, transitions: str
) -> VectorEnv:
    """Return an environment in which a whole split can be walked."""
    return make_envs(
        options,
        split,
        penalty,
        EVALUATION_ENVS,
        autoreset_mode="Disabled",
        transitions=transitions,
    )
