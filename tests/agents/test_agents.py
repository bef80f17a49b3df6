"""Learners reach the best return of a solvable problem; saving and seeds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv, best_return
from helpers.saved import edit_manifest

from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.saving import load_agent, load_config, save_agent
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from dynalay_gym.errors import CheckpointError, ConfigError, DivergedError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.saved_folder import save_folder

SMALL = {
    "policy-gradient": PolicyGradientConfig(
        total_timesteps=16_000, learning_rate=1e-2, entropy_start=0.1, hidden=(32,)
    ),
    "ppo": PPOConfig(total_timesteps=8_000, n_steps=32, batch_size=128, hidden=(32,)),
    "a2c": A2CConfig(total_timesteps=12_000, n_steps=8, hidden=(32,)),
    "dqn": DQNConfig(
        total_timesteps=8_000, learning_starts=500, batch_size=64, hidden=(32,)
    ),
}
PENALTY = 0.2


def make_need_agent(config, seed=0, **options):
    return make_agent(NeedEnv(output=config.output, **options), config, seed=seed)


def evaluate_need(agent, penalty=PENALTY):
    envs = NeedEnv(8, autoreset_mode=AutoresetMode.DISABLED)
    return evaluate(envs, agent.policy, penalty=penalty)


def weights(agent):
    return torch.nn.utils.parameters_to_vector(agent.module.parameters()).detach()


@pytest.mark.parametrize("algo", SMALL)
def test_learns_the_best_policy(algo):
    agent = make_need_agent(SMALL[algo])
    assert agent.config.algo == agent.policy.name == algo
    seen = []
    agent.learn(SMALL[algo].total_timesteps, on_progress=seen.append)
    result = evaluate_need(agent)
    best = best_return(NeedEnv(), PENALTY)
    assert result.mean_return > best - 0.02
    assert result.accuracy > 0.95
    assert seen == sorted(seen)
    assert seen[-1] >= SMALL[algo].total_timesteps


def test_greedy_baseline_learns_and_needs_its_envs():
    config = replace(SMALL["policy-gradient"], baseline="greedy")
    with pytest.raises(ConfigError, match="baseline_envs"):
        make_need_agent(config)
    agent = make_agent(
        NeedEnv(output="torch"),
        config,
        baseline_envs=NeedEnv(32, autoreset_mode=AutoresetMode.DISABLED),
    )
    agent.learn(config.total_timesteps)
    assert evaluate_need(agent).mean_return > best_return(NeedEnv(), PENALTY) - 0.02


def test_policy_gradient_takes_numpy_environments_too():
    agents = [
        make_agent(NeedEnv(output=output), SMALL["policy-gradient"])
        for output in ("torch", "numpy")
    ]
    for agent in agents:
        agent.learn(256)
    assert torch.equal(weights(agents[0]), weights(agents[1]))


@pytest.mark.parametrize("algo", SMALL)
def test_equal_seeds_give_equal_weights(algo):
    found = []
    for seed in (1, 1, 2):
        agent = make_need_agent(SMALL[algo], seed=seed)
        agent.learn(1_024)
        found.append(weights(agent))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_making_an_agent_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    make_need_agent(SMALL["policy-gradient"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("algo", SMALL)
def test_saved_agents_act_the_same_and_go_on_learning(algo, tmp_path):
    agent = make_need_agent(SMALL[algo])
    agent.learn(1_024)
    save_agent(tmp_path, agent, NeedEnv(), {"seed": 0})
    assert load_config(tmp_path) == agent.config
    loaded = load_agent(tmp_path, NeedEnv(output=agent.config.output), seed=5)
    assert loaded.config.algo == algo
    assert torch.equal(weights(loaded), weights(agent))
    assert (evaluate_need(loaded).actions == evaluate_need(agent).actions).all()
    loaded.learn(1_024)
    assert not torch.equal(weights(loaded), weights(agent))


@pytest.mark.parametrize("algo", SMALL)
def test_divergence_is_an_error_with_a_remedy(algo):
    agent = make_need_agent(SMALL[algo])
    with torch.no_grad():
        for weight in getattr(agent.module, "value_head", agent.module).parameters():
            weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match=rf"--{algo}\.learning-rate"):
        agent.learn(2_000)


@pytest.mark.parametrize("algo", SMALL)
def test_masked_actions_are_never_taken(algo):
    agent = make_need_agent(SMALL[algo])
    envs = NeedEnv(64)
    observations, infos = envs.reset(seed=0)
    for allowed in range(3):
        infos["action_mask"] = np.tile(np.eye(3, dtype=np.int8)[allowed], (64, 1))
        assert (agent.policy.act(observations, infos) == allowed).all()


@pytest.mark.parametrize("algo", SMALL)
def test_decisions_have_a_price(algo):
    agent = make_need_agent(SMALL[algo])
    features = agent.policy.macs_per_decision - 32 * 3
    if algo == "policy-gradient":
        assert agent.policy.macs_per_decision == agent.net.macs
    else:
        assert features == 32 * NeedEnv().single_observation_space.shape[0]


class TestSaving:
    @pytest.fixture
    def folder(self, tmp_path):
        agent = make_need_agent(SMALL["policy-gradient"])
        save_agent(tmp_path, agent, NeedEnv(), {})
        return tmp_path

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"num_actions": 5}, "5 actions"),
            ({"config": {"hidden": [7]}}, "does not fit"),
            ({"config": {"hidden": [65_536, 65_536]}}, "too few"),
            ({"config": {"hidden": ["7"]}}, "make it again"),
            ({"algo": "sarsa"}, "train it again"),
            ({"config": {"warp": 9}}, "make it again"),
            ({"config": None}, "make it again"),
            ({"config": {"num_steps": 0}}, "make it again"),
            ({"config": {"num_steps": True}}, "make it again"),
            ({"config": {"baseline": "none"}}, "make it again"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, folder, facts, words):
        edit_manifest(folder, facts)
        with pytest.raises(CheckpointError, match=words):
            load_agent(folder, NeedEnv(output="torch"))

    def test_no_agent_at_all(self, tmp_path):
        with pytest.raises(CheckpointError):
            load_config(tmp_path)
        save_folder(tmp_path, "main-network", {"x": torch.zeros(1)}, {})
        with pytest.raises(CheckpointError, match="not 'agent'"):
            load_config(tmp_path)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode):
    for config in SMALL.values():
        with pytest.raises(ConfigError, match="SameStep"):
            make_agent(NeedEnv(autoreset_mode=mode), config)


@pytest.mark.parametrize("algo", SMALL)
def test_metrics_have_the_same_tags(algo, tmp_path):
    agent = make_need_agent(SMALL[algo])
    with MetricWriter(tmp_path) as writer:
        agent.learn(12_000 if algo == "a2c" else 3_000, writer=writer)
    tags = set()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        tags |= set(json.loads(line))
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"} <= tags
    assert any(tag.startswith("train/") for tag in tags)
