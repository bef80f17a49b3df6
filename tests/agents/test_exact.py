"""Exact learning: targets worked out by hand, the oracle's optimum, seeds, store."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import (
    make_vec,
    own_split,
    random_images,
    random_model,
    tiny_config,
)
from helpers.saved import edit_manifest
from helpers.slow import best_slow_return, make_slow
from torch import Tensor

from agents.base import Resumable
from agents.exact.agent import ExactAgent, update_bytes
from agents.exact.config import ExactConfig
from agents.exact.values import action_values, advantage_loss, soft_policy, visits
from agents.registry import make_agent
from agents.saving import load_agent, load_config, save_agent
from dynalay_gym.envs.oracle import (
    DecisionTree,
    best_fixed_plan,
    decision_tree,
    enumerate_nodes,
    optimum,
)
from dynalay_gym.envs.reward import REWARDS
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, ConfigError, DivergedError
from dynalay_gym.evaluation.comparison import make_reference_policies
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.sessions.states import layer_states
from dynalay_gym.storage.metrics import MetricWriter

NUM_SAMPLES = 24
SMALL = ExactConfig(total_timesteps=30_000, learning_rate=1e-2, batch_size=12)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


def make_table(num_envs: int = 1, **changes: Any) -> DynaLayVectorEnv:
    return make_vec(num_envs, transitions="table", **changes)


def two_layers(num_envs: int) -> DynaLayVectorEnv:
    """Environment over a network of two layers and twelve samples."""
    config = tiny_config(
        channels=(2, 3), strides=(1, 2), hidden=(4, 5), pools=(2, 1), max_steps=10
    )
    return DynaLayVectorEnv(
        num_envs,
        checkpoint=random_model(config),
        split=own_split(random_images(config, 12)),
        penalty=0.3,
        transitions="table",
        device="cpu",
    )


def everything(tree: DecisionTree, penalty: float) -> tuple[Tensor, Tensor]:
    """All samples, and the same penalty for each."""
    samples = torch.arange(tree.num_samples)
    return samples, torch.full((len(samples),), penalty)


def start_values(policy: Tensor, values: Tensor) -> Tensor:
    return (policy[:, 0] * values[:, 0]).sum(-1)


def weights(agent: ExactAgent) -> Tensor:
    return torch.nn.utils.parameters_to_vector(agent.module.parameters()).detach()


# --- the tree -------------------------------------------------------------------------


def test_nodes_of_two_layers_are_those_found_by_hand() -> None:
    nodes = enumerate_nodes(layer_states((1, 1)), max_decisions=3)
    # start; 1; 2; 1 then 2; 2 then 1 (which forgets 2)
    assert nodes.state.tolist() == [0b00, 0b01, 0b10, 0b11, 0b01]
    assert nodes.last_action.tolist() == [-1, 1, 2, 2, 1]
    assert nodes.decisions.tolist() == [0, 1, 1, 2, 2]
    assert nodes.children.tolist() == [
        [-1, 1, 2],
        [-1, -1, 3],
        [-1, 4, -1],
        [-1, -1, -1],
        [-1, -1, -1],
    ]
    # Layer 1 can be chosen below an iterated layer 2: that forgets layer 2.
    assert nodes.allowed.int().tolist() == [
        [1, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [1, 1, 0],
        [1, 0, 1],
    ]
    assert nodes.levels == [slice(0, 1), slice(1, 3), slice(3, 5)]


@pytest.mark.parametrize("reward", sorted(REWARDS))
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_every_way_through_the_tree_is_what_the_environment_does(
    reward: str, limit: int
) -> None:
    envs = make_table(NUM_SAMPLES, reward=reward, max_decisions=limit, penalty="0:1")
    tree, nodes = decision_tree(envs), decision_tree(envs).nodes
    samples = torch.arange(NUM_SAMPLES)
    penalty = torch.linspace(0.0, 0.6, NUM_SAMPLES)
    seen, paid = tree.observations(samples, penalty), tree.rewards(samples, penalty)
    visited = set()
    for actions in product(range(4), repeat=limit):
        options = {"index": samples.numpy(), "penalty": penalty.numpy()}
        observations, infos = envs.reset(seed=0, options=options)
        node = 0
        for action in actions:
            visited.add(node)
            assert np.array_equal(observations, seen[:, node].numpy())
            assert (infos["action_mask"] == nodes.allowed[node].numpy()).all()
            if not nodes.allowed[node, action]:
                break
            chosen = np.full(NUM_SAMPLES, action)
            observations, rewards, ends, _, infos = envs.step(chosen)
            assert np.array_equal(rewards, paid[:, node, action].numpy())
            node = int(nodes.children[node, action])
            assert (ends == (node == -1)).all()
            if node == -1:
                break
    assert visited == set(range(nodes.num_nodes))


def test_a_live_environment_has_no_tree() -> None:
    with pytest.raises(ConfigError, match='transitions="table"'):
        decision_tree(make_vec(1))
    with pytest.raises(ConfigError, match='transitions="table"'):
        make_agent(make_vec(1), SMALL)


# --- backward induction ---------------------------------------------------------------


def test_targets_are_the_values_worked_out_by_hand() -> None:
    envs = two_layers(12)
    tree = decision_tree(envs)
    samples, penalty = everything(tree, 0.3)
    rewards, nodes = tree.rewards(samples, penalty), tree.nodes
    scores = torch.randn(rewards.shape, generator=torch.Generator().manual_seed(0))
    policy = soft_policy(scores, nodes.allowed, 0.7)
    values = action_values(rewards, nodes.children, nodes.levels, policy)

    def last_step(*plan: int) -> dict[str, Any]:
        """Infos of the last action of a list, as the environment tells them."""
        envs.reset(seed=0, options={"index": samples.numpy()})
        for action in plan:
            infos = envs.step(np.full(len(samples), action))[-1]["final_info"]
        return infos

    def right(*plan: int) -> Tensor:
        return torch.from_numpy(last_step(*plan)["correct"]) * 0.5

    def cost(*plan: int) -> Tensor:
        macs = torch.from_numpy(last_step(*plan)["macs"])
        return 0.3 * macs / envs.always_extra_macs

    # The budget of three decisions ends every way with the answer it has reached.
    after_12 = policy[:, 3, 0] * right(1, 2)
    after_12 = after_12 + policy[:, 3, 1] * (right(1, 2, 1) - cost(1, 2, 1))
    after_21 = policy[:, 4, 0] * right(2, 1)
    after_21 = after_21 + policy[:, 4, 2] * (right(2, 1, 2) - cost(2, 1, 2))
    after_1 = policy[:, 1, 0] * right(1)
    after_1 = after_1 + policy[:, 1, 2] * (after_12 - cost(1, 2))
    after_2 = policy[:, 2, 0] * right(2)
    after_2 = after_2 + policy[:, 2, 1] * (after_21 - cost(2, 1))
    by_hand = [right(0), after_1 - cost(1), after_2 - cost(2)]
    torch.testing.assert_close(values[:, 0], torch.stack(by_hand, 1).float())


def test_visits_and_lengths() -> None:
    nodes = enumerate_nodes(layer_states((1, 1)), max_decisions=3)
    policy = soft_policy(torch.zeros(1, 5, 3), nodes.allowed, 1.0)
    reached = visits(policy, nodes.children, nodes.levels)[0]
    # From the start 1/3 each; then one of two allowed actions.
    expected = torch.tensor([1, 1 / 3, 1 / 3, 1 / 6, 1 / 6])
    torch.testing.assert_close(reached, expected)


def test_the_loss_ignores_what_all_actions_share_and_what_is_masked() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, shift = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 1)
    allowed = torch.ones(3, 4, dtype=torch.bool)
    allowed[:, 2] = False
    masked = torch.randn(2, 3, 4, generator=generator) * ~allowed
    ones = torch.ones(2, 3)
    assert advantage_loss(scores, scores + shift + masked, allowed, ones) < 1e-12
    wrong = scores.clone()
    wrong[:, :, 0] += 0.6  # errors .4, -.2, -.2 about their mean
    loss = advantage_loss(wrong, scores, allowed, ones)
    assert loss.item() == pytest.approx(0.4**2 + 2 * 0.2**2, abs=1e-6)
    half = advantage_loss(wrong, scores, allowed, 0.5 * ones)
    assert half.item() == pytest.approx(0.5 * loss.item(), abs=1e-6)


@pytest.mark.parametrize("reward", ["paper", "three-term", "log-score"])
@pytest.mark.parametrize("limit", [2, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.05, 0.4])
def test_policy_iteration_without_a_network_is_the_oracle(
    reward: str, limit: int, penalty: float
) -> None:
    envs = make_table(reward=reward, max_decisions=limit)
    tree, best = decision_tree(envs), optimum(envs, penalty).returns
    rewards, nodes = tree.rewards(*everything(tree, penalty)), tree.nodes
    values = torch.zeros_like(rewards)
    for _ in range(limit):
        policy = soft_policy(values, nodes.allowed, 1e-7)
        values = action_values(rewards, nodes.children, nodes.levels, policy)
    policy = soft_policy(values, nodes.allowed, 1e-7)
    found = start_values(policy, values)
    torch.testing.assert_close(found, torch.from_numpy(best), atol=2e-6, rtol=0)


# --- the agent ------------------------------------------------------------------------


def test_learns_what_the_observation_allows() -> None:
    """24 inputs that all look different can be told apart: the oracle is in reach."""
    envs, penalty = make_table(8, autoreset_mode="Disabled"), 0.25
    agent = make_agent(
        make_table(), replace(SMALL, total_timesteps=200_000, learning_rate=1e-2)
    )
    before = evaluate(envs, agent.policy, penalty=penalty).mean_return
    agent.learn(agent.config.total_timesteps)
    learned = evaluate(envs, agent.policy, penalty=penalty).mean_return
    plan = PlanPolicy(best_fixed_plan(envs, penalty))
    fixed = evaluate(envs, plan, penalty=penalty).mean_return
    best = optimum(envs, penalty).returns.mean()
    assert learned > fixed + 0.7 * (best - fixed) > before
    assert learned <= best + 1e-6


def test_what_it_reports_is_what_a_walk_earns() -> None:
    """At a low temperature the soft policy is the greedy one."""
    envs = make_table(8, autoreset_mode="Disabled")
    cold = replace(SMALL, temperature_start=1e-6, temperature_end=1e-6, batch_size=24)
    agent = make_agent(make_table(), replace(cold, learning_rate=1e-9))
    with torch.no_grad():
        for weight in agent.net.policy_head.parameters():
            weight.add_(torch.randn(weight.shape, generator=_generator()))
    walked = evaluate(envs, agent.policy, penalty=0.25)
    seen = agent.update(torch.arange(NUM_SAMPLES), temperature=1e-6)
    reported = seen["rollout/ep_rew_mean"].item()
    assert reported == pytest.approx(walked.mean_return, abs=1e-5)
    length = walked.actions.sum() / NUM_SAMPLES
    assert seen["rollout/ep_len_mean"].item() == pytest.approx(length, abs=1e-4)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_higher_penalty_never_buys_more() -> None:
    """One agent of a whole range, asked at rising penalties."""
    config = replace(SMALL, total_timesteps=150_000)
    agent = make_agent(make_table(penalty="0:0.6"), config)
    agent.learn(config.total_timesteps)
    envs = make_table(8, autoreset_mode="Disabled", penalty="0:0.6")
    macs = [
        evaluate(envs, agent.policy, penalty=p).macs.mean() for p in (0.0, 0.2, 0.6)
    ]
    assert macs[0] > macs[1] > macs[2]


def test_penalties_are_drawn_from_the_environments_range() -> None:
    agent = make_agent(make_table(penalty="0.2:0.6"), SMALL)
    drawn = agent.tree.penalties(torch.tensor([0.0, 0.5, 1.0]))
    assert drawn.tolist() == pytest.approx([0.2, 0.12**0.5, 0.6])  # even in the log


def test_equal_seeds_give_equal_weights() -> None:
    found = []
    for seed in (1, 1, 2):
        agent = make_agent(make_table(penalty="0:1"), SMALL, seed=seed)
        agent.learn(3_000)
        found.append(weights(agent))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_stopped_training_goes_on_to_the_bit() -> None:
    whole = make_agent(make_table(penalty="0:1"), SMALL, seed=1)
    kept: list[dict[str, Tensor]] = []
    whole.learn(
        3_000, on_progress=lambda taken: kept.append(deepcopy(whole.training_state()))
    )
    assert len(kept) > 3
    rest = make_agent(make_table(penalty="0:1"), SMALL, seed=5)
    assert isinstance(rest, Resumable)
    rest.load_training_state(kept[1], None, {})
    rest.learn(3_000)
    assert torch.equal(weights(rest), weights(whole))
    again = weights(rest).clone()
    rest.learn(3_000)  # another training, from the first node on
    assert not torch.equal(weights(rest), again)


def test_saved_agents_act_the_same_and_go_on_learning(tmp_path: Path) -> None:
    envs = make_table()
    agent = make_agent(envs, SMALL)
    agent.learn(3_000)
    save_agent(tmp_path, agent, envs, {})
    assert load_config(tmp_path) == SMALL
    loaded = load_agent(tmp_path, make_table(), seed=5)
    assert loaded.config.algo == "exact"
    assert torch.equal(weights(loaded), weights(agent))
    loaded.learn(3_000)
    assert not torch.equal(weights(loaded), weights(agent))
    edit_manifest(tmp_path, {"config": {"temperature_end": -1}})
    with pytest.raises(CheckpointError, match="make it again"):
        load_config(tmp_path)


def test_the_predictor_takes_it_like_any_agent_net() -> None:
    from dynalay_gym.predictor.policies import NetworkPolicy
    from dynalay_gym.predictor.predictor import DynaLayPredictor

    envs = make_table(8, autoreset_mode="Disabled")
    agent = make_agent(make_table(), SMALL)
    agent.learn(SMALL.total_timesteps)
    walked = evaluate(envs, agent.policy, penalty=0.25)
    predictor = DynaLayPredictor.from_env(
        make_vec(1), NetworkPolicy(agent.policy.net), penalty=0.25
    )
    found = predictor.infer(make_vec(1).problem.inputs)
    plain = envs.plain_macs
    assert np.array_equal(found.macs.numpy() - plain, walked.macs)


def test_divergence_is_an_error_with_a_remedy() -> None:
    agent = make_agent(make_table(), SMALL)
    with torch.no_grad():
        next(agent.net.torso.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"--exact\.learning-rate"):
        agent.learn(3_000)


def test_metrics_have_the_same_tags(tmp_path: Path) -> None:
    agent = make_agent(make_table(), SMALL)
    seen: list[int] = []
    with MetricWriter(tmp_path) as writer:
        agent.learn(3_000, writer=writer, on_progress=seen.append)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    tags = set().union(*(json.loads(line) for line in lines))
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"} <= tags
    assert {"train/value_loss", "train/temperature", "train/learning_rate"} <= tags
    assert seen == sorted(seen)
    assert seen[-1] >= 3_000


@pytest.mark.parametrize("field", ["batch_size", "temperature_end", "learning_rate"])
def test_options_out_of_range_name_their_flag(field: str) -> None:
    flag = field.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"--exact\.{flag} must be an? \w+ >"):
        ExactConfig(**{field: 0})


@pytest.mark.slow
def test_digits_above_every_fixed_rule_and_below_the_optimum() -> None:
    def make(split: str) -> DynaLayVectorEnv:
        return DynaLayVectorEnv(
            256, split=split, transitions="table", autoreset_mode="Disabled"
        )

    agent = make_agent(DynaLayVectorEnv(1, transitions="table"), ExactConfig())
    agent.learn(ExactConfig().total_timesteps)
    test, validation = make("test"), make("validation")
    penalty = test.penalty_range[0]
    returns = {
        policy.name: evaluate(test, policy, penalty=penalty).mean_return
        for policy in (
            agent.policy,
            *make_reference_policies(test, validation, penalty),
        )
    }
    learned, oracle = returns.pop("exact"), returns.pop("oracle")
    assert max(returns.values()) + 0.01 < learned < oracle


# --- levels ---------------------------------------------------------------------------


def test_levels_that_take_many_decisions_are_learned_to_the_end() -> None:
    envs = make_slow(8, transitions="table")
    config = ExactConfig(total_timesteps=60_000, learning_rate=1e-2, batch_size=20)
    agent = make_agent(envs, config)
    agent.learn(config.total_timesteps)
    walked = make_slow(40, autoreset_mode="Disabled")
    found = evaluate(walked, agent.policy, penalty=0.35).mean_return
    assert found == pytest.approx(best_slow_return(), abs=0.01)


def test_an_update_that_needs_too_much_memory_is_refused() -> None:
    envs, config = make_table(), ExactConfig(batch_size=1_000_000)
    with pytest.raises(ConfigError, match=r"GiB \(15 nodes.*--exact\.batch-size"):
        make_agent(envs, config)


def test_the_memory_of_an_update_is_what_its_tensors_take() -> None:
    config = ExactConfig(batch_size=2, hidden=(5, 7))
    # Per node: 2 x 3 features, 4 x 12 layer outputs, 8 x 2 actions; 4 bytes each.
    assert update_bytes(10, (3, 2), config) == 4 * 2 * 10 * (6 + 48 + 16)
