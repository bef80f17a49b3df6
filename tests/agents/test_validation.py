"""Validation during a training: when it is due, and which weights are kept."""

from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv, best_return

from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.validation import Validation
from dynalay_gym.evaluation.evaluate import evaluate

CONFIG = PolicyGradientConfig(total_timesteps=16_000, learning_rate=1e-2, hidden=(32,))


def make_validation(total: int, times: int = 10) -> Validation:
    envs = NeedEnv(8, autoreset_mode=AutoresetMode.DISABLED)
    agent: Any = make_agent(NeedEnv(output="torch"), CONFIG, seed=0)
    return Validation(agent, envs, 0.2, total, times)


def test_it_evaluates_at_equal_intervals() -> None:
    validation = make_validation(total=100, times=4)
    due = [step for step in range(10, 101, 10) if validation.after(step) is not None]
    assert due == [30, 50, 80, 100]


def test_the_best_weights_come_back_whatever_is_learned_later() -> None:
    validation = make_validation(CONFIG.total_timesteps)
    agent: Any = validation.agent
    agent.learn(CONFIG.total_timesteps, on_progress=validation.after)
    best = validation.best_return
    assert best > best_return(NeedEnv(), 0.2) - 0.02
    for spoiled in agent.module.parameters():
        with torch.no_grad():
            spoiled.zero_()
    result = validation.after(2 * CONFIG.total_timesteps)
    assert result is not None
    assert result.mean_return < best
    validation.restore()
    found = evaluate(validation.envs, agent.policy, penalty=0.2).mean_return
    assert found == best == validation.best_return
    assert validation.best_step <= CONFIG.total_timesteps


def test_without_an_evaluation_the_weights_stay() -> None:
    validation = make_validation(total=100)
    agent: Any = validation.agent
    before = [part.clone() for part in agent.module.parameters()]
    validation.restore()
    for part, old in zip(agent.module.parameters(), before, strict=True):
        assert torch.equal(part, old)
