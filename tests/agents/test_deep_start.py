"""Deep start and penalty warm-up: what they set, and what they are against."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.problems import NeedEnv
from helpers.slow import best_slow_return, make_slow

from agents.config import AgentConfig
from agents.deep_start import PenaltyWarmUp, set_stop_probability
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.sb3.config import A2CConfig, PPOConfig
from dynalay_gym.envs.oracle import optimum
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.agent_net import AgentNet

DEEP: dict[str, Any] = {"initial_stop_probability": 0.05, "penalty_warm_up": 0.5}


def make_config(algo: str, **options: Any) -> AgentConfig:
    options |= {"hidden": (32,)}
    if algo == "policy-gradient":
        return PolicyGradientConfig(
            total_timesteps=40_000, learning_rate=1e-2, **options
        )
    if algo == "a2c":
        return A2CConfig(total_timesteps=40_000, learning_rate=3e-3, **options)
    return PPOConfig(total_timesteps=20_000, n_steps=32, batch_size=256, **options)


ALGOS = ["policy-gradient", "ppo", "a2c"]


@pytest.mark.parametrize("algo", ALGOS)
def test_without_them_an_agent_collapses_and_with_them_it_is_perfect(algo: str) -> None:
    returns, test = [], make_slow(40, autoreset_mode="Disabled")
    for options in ({}, DEEP):
        config = make_config(algo, **options)
        agent = make_agent(make_slow(32, output=config.output), config, seed=0)
        agent.learn(config.total_timesteps)
        returns.append(evaluate(test, agent.policy, penalty=0.35).mean_return)
    assert optimum(test).returns.mean() == pytest.approx(best_slow_return())
    assert returns == pytest.approx([0.0, best_slow_return()], abs=0.01)


@pytest.mark.parametrize("algo", ALGOS)
def test_a_fresh_agent_stops_as_rarely_as_asked(algo: str) -> None:
    envs = NeedEnv(output=make_config(algo).output)
    agent = make_agent(envs, make_config(algo, **DEEP))
    observations = torch.rand(64, envs.single_observation_space.shape[0])
    with torch.no_grad():
        scores = agent.policy.net(observations)
    found = scores.softmax(1).mean(0)
    assert found[0].item() == pytest.approx(0.05, abs=0.01)
    assert found[1].item() == pytest.approx(found[2].item(), rel=0.2)


@pytest.mark.parametrize("num_actions", [2, 3, 6])
def test_the_others_share_the_rest_as_before(num_actions: int) -> None:
    net = AgentNet(4, num_actions)
    with torch.no_grad():
        for name, part in net.policy_head.named_parameters():
            part.mul_(float("bias" in name))
    set_stop_probability(net.policy_head.head.bias, 0.1)
    found = net(torch.rand(1, 4)).exp()[0]
    others = [0.9 / (num_actions - 1)] * (num_actions - 1)
    assert found.tolist() == pytest.approx([0.1, *others], abs=1e-6)


def test_the_warm_up_rises_to_the_whole_penalty() -> None:
    envs = NeedEnv()
    warm_up, scales = PenaltyWarmUp(envs, 0.5), []
    for done in (0.0, 0.25, 0.5, 1.0):
        warm_up.set(done)
        scales.append(envs.penalty_scale)
    assert scales == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("algo", ALGOS)
def test_an_agent_pays_and_sees_the_rising_penalty(algo: str) -> None:
    config = make_config(algo, penalty_warm_up=0.5)
    envs = make_slow(32, output=config.output)
    agent = make_agent(envs, config)
    penalties = []

    def on_progress(_: int) -> None:
        penalties.append(float(np.max(envs.process.episode.penalty)))

    agent.learn(8_192, on_progress=on_progress)
    assert penalties == sorted(penalties)
    assert penalties[0] < 0.1
    assert penalties[-1] == pytest.approx(0.35)


def test_an_environment_without_a_scale_is_refused() -> None:
    class Bare(NeedEnv):
        def __getattribute__(self, name: str) -> Any:
            if name == "penalty_scale":
                raise AttributeError(name)
            return super().__getattribute__(name)

    assert PenaltyWarmUp(Bare(), 0.0).set(0.5) is None
    with pytest.raises(ConfigError, match="penalty_scale"):
        PenaltyWarmUp(Bare(), 0.5)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"initial_stop_probability": 1.0}, "initial-stop-probability"),
        ({"initial_stop_probability": 0.0}, "initial-stop-probability"),
        ({"penalty_warm_up": 1.5}, "penalty-warm-up"),
    ],
)
def test_values_out_of_range_are_named_by_their_flag(
    options: dict[str, float], flag: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--ppo\.{flag}"):
        make_config("ppo", **options)
