"""A saved training that is none ends in one line, whatever part of it is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.problems import NeedEnv

from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.saved_runs import load_run
from agents.saving import save_agent
from agents.sb3.config import DQNConfig, PPOConfig
from dynalay_gym.errors import CheckpointError

CONFIGS: dict[str, Any] = {
    "policy-gradient": PolicyGradientConfig(num_steps=2, hidden=(8,)),
    "ppo": PPOConfig(n_steps=2, batch_size=4, n_epochs=1, hidden=(8,)),
    "dqn": DQNConfig(buffer_size=48, learning_starts=4, batch_size=4, hidden=(8,)),
}


def make(algo: str) -> tuple[Any, Any, Any]:
    config = CONFIGS[algo]
    envs = NeedEnv(4, output=config.output)
    return make_agent(envs, config), *envs.reset(seed=0)


def trained(algo: str) -> dict[str, Any]:
    agent, *_ = make(algo)
    states: list[dict[str, Any]] = []

    def keep(_: int) -> None:
        parts = agent.training_state().items()
        states.append({name: part.clone() for name, part in parts})

    agent.learn(32, on_progress=keep)
    return states[-1]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "empty": lambda part: part.reshape(-1)[:0],
    "complex": lambda part: part.to(torch.complex64),
    "longer": lambda part: torch.cat([part.reshape(-1), part.reshape(-1)[:1]]),
    "-1": lambda part: torch.full_like(part, -1),
}
# Endings of what is never negative; the rest may hold any finite number.
COUNTS = (
    "taken",
    "counts",
    "lengths",
    "pos",
    "rate",
    "actions",
    "numpy",
    "step",
    "_sq",
)


@pytest.mark.parametrize("algo", CONFIGS)
def test_every_part_is_checked(algo: str) -> None:
    state = trained(algo)
    agent, *shown = make(algo)
    for name, part in state.items():
        others = {key: value for key, value in state.items() if key != name}
        bad = [] if name.startswith("metrics/") else [others]
        for what, change in CHANGES.items():
            is_count = name.endswith(COUNTS) and part.dtype != torch.uint8
            if what != "-1" or (is_count and not name.startswith("metrics/")):
                bad.append(others | {name: change(part)})
        for each in bad:
            with pytest.raises(CheckpointError) as caught:
                agent.load_training_state(each, *shown)
            assert "\n" not in str(caught.value)
    agent.load_training_state(state, *shown)


@pytest.mark.parametrize("algo", ["policy-gradient", "ppo"])
def test_rows_that_are_missing(algo: str) -> None:
    agent, *_ = make(algo)
    with pytest.raises(CheckpointError, match="no rows"):
        agent.load_training_state(trained(algo), None, {})


def test_random_numbers_in_no_possible_state() -> None:
    state, (agent, *shown) = trained("ppo"), make("ppo")
    before = np.random.get_state()[1]  # noqa: NPY002
    for text in (b"{}", b"[" * 9_000, b'{"bit_generator": "PCG64", "state": 3}', b"\0"):
        action = torch.tensor(list(text), dtype=torch.uint8)
        with pytest.raises(CheckpointError):
            agent.load_training_state(state | {"random/actions": action}, *shown)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    "about",
    [
        {"checkpoint": 3},
        {"data_dir": ["a"]},
        {"penalty": 0.1},
        {"penalty": "a:b"},
        {"penalty": "nan:1"},
        {"penalty": "0:inf"},
        {"seed": -1},
        {"num_envs": 2.0},
        {"dataset": "imagenet"},
        {"dataset": 3},
        {"alpha": float("nan")},
    ],
    ids=str,
)
def test_options_of_a_saved_run_are_checked(about: Any, tmp_path: Any) -> None:
    agent, *_ = make("policy-gradient")
    save_agent(tmp_path, agent, NeedEnv(4), {"dataset": "digits"} | about)
    with pytest.raises(CheckpointError) as caught:
        load_run(tmp_path, {})
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
