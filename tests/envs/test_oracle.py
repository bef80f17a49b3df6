"""The exact optimum against the environment itself, and against every other policy."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import make_vec

from dynalay_gym.envs.oracle import (
    best_fixed_plan,
    decision_tree,
    enumerate_nodes,
    optimum,
)
from dynalay_gym.envs.reward import REWARDS
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.states import layer_states

NUM_SAMPLES = 24


def play(
    envs: DynaLayVectorEnv, plans: np.ndarray, index: np.ndarray, penalty: float
) -> np.ndarray:
    """Returns of one plan per row, int [N, T] (0: NOP)."""
    envs.reset(seed=0, options={"index": index, "penalty": penalty})
    going, returns = np.ones(len(index), dtype=bool), np.zeros(len(index))
    for actions in plans.T:
        _, rewards, ends, _, _ = envs.step(actions)
        returns[going] += rewards[going]
        going &= ~ends
        if not going.any():
            break
    assert not going.any()
    return returns


@pytest.mark.parametrize("reward", sorted(REWARDS))
@pytest.mark.parametrize("config", [{}, {"form": "state", "max_decisions": 3}])
def test_the_best_plan_earns_what_the_environment_pays(
    reward: str, config: dict[str, Any]
) -> None:
    envs = make_vec(NUM_SAMPLES, reward=reward, **config)
    for penalty in (0.0, 0.4):
        best = optimum(envs, penalty)
        assert best.plans.shape == (NUM_SAMPLES, envs.max_decisions)
        played = play(envs, best.plans, np.arange(NUM_SAMPLES), penalty)
        np.testing.assert_allclose(best.returns, played, atol=2e-6)


@pytest.mark.parametrize("limit", [1, 2, 4])
@pytest.mark.parametrize("reward", ["paper", "three-term", "log-score"])
def test_no_sequence_of_actions_beats_the_optimum(limit: int, reward: str) -> None:
    sequences = np.array(list(product(range(4), repeat=limit)))
    n = len(sequences)
    envs = make_vec(n, reward=reward, max_decisions=limit)
    for penalty in (0.05, 0.3):
        best = optimum(envs, penalty)
        for sample in range(3):
            returns = play(envs, sequences, np.full(n, sample), penalty)
            assert returns.max() == pytest.approx(best.returns[sample], abs=2e-6)


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_no_fixed_sequence_beats_the_best_one(limit: int) -> None:
    envs = make_vec(NUM_SAMPLES, max_decisions=limit)
    index = np.arange(NUM_SAMPLES)
    for penalty in (0.0, 0.05, 0.3):
        means = [
            play(envs, np.tile(plan, (NUM_SAMPLES, 1)), index, penalty).mean()
            for plan in product(range(4), repeat=limit)
        ]
        found = best_fixed_plan(envs, penalty)
        padded = [*found, *[0] * (limit - len(found))]
        earned = play(envs, np.tile(padded, (NUM_SAMPLES, 1)), index, penalty).mean()
        assert earned == pytest.approx(max(means), abs=2e-6)


def test_prices_matter() -> None:
    envs, previous = make_vec(1), np.inf
    for penalty in (0.0, 0.1, 1.0, 100.0):
        best = optimum(envs, penalty)
        assert best.returns.mean() <= previous
        previous = best.returns.mean()
    assert (best.plans == 0).all(), "at this price nothing is worth it"


def test_the_default_penalty_is_the_environments_lowest() -> None:
    envs = make_vec(1, penalty="0.2:0.6")
    assert np.array_equal(optimum(envs).returns, optimum(envs, 0.2).returns)


def test_the_optimum_does_not_depend_on_the_rows_of_the_environment() -> None:
    one, many = optimum(make_vec(1), 0.3), optimum(make_vec(7), 0.3)
    assert np.array_equal(one.returns, many.returns)
    assert np.array_equal(one.plans, many.plans)


def test_choosing_per_input_pays_at_break_even() -> None:
    envs = DynaLayVectorEnv(1, split="agent")
    tree, penalty = _tree_of(envs)
    samples = torch.arange(tree.num_samples)
    rewards = tree.rewards(samples, torch.full((len(samples),), penalty))
    stop = rewards[:, 0, 0].mean()
    always, node = torch.zeros(len(samples)), 0
    for action in (1, 2, 3, 0):
        always += rewards[:, node, action]
        node = int(tree.nodes.children[node, action])
    # The default penalty is rounded to 1e-3.
    assert float(stop) == pytest.approx(float(always.mean()), abs=6e-4)
    assert optimum(envs).returns.mean() > float(stop) + 0.01


def _tree_of(envs: DynaLayVectorEnv) -> tuple[Any, float]:
    table = DynaLayVectorEnv(1, split="agent", transitions="table")
    return decision_tree(table), envs.penalty_range[0]


def test_exact_learning_needs_a_table() -> None:
    with pytest.raises(ConfigError, match='transitions="table"'):
        decision_tree(make_vec(1))


# --- nodes ----------------------------------------------------------------------------


def test_nodes_of_one_layer_by_hand() -> None:
    nodes = enumerate_nodes(layer_states((1,)), max_decisions=3)
    assert nodes.state.tolist() == [0, 1]
    assert nodes.last_action.tolist() == [-1, 1]
    assert nodes.consecutive.tolist() == [0, 1]
    assert nodes.allowed.tolist() == [[True, True], [True, False]]
    assert nodes.children.tolist() == [[-1, 1], [-1, -1]]
    assert nodes.levels == [slice(0, 1), slice(1, 2)]


def test_nodes_of_two_portions_count_consecutive_choices() -> None:
    nodes = enumerate_nodes(layer_states((2,)), max_decisions=4)
    assert nodes.state.tolist() == [0, 1, 2]
    assert nodes.consecutive.tolist() == [0, 1, 2]
    assert nodes.children[:, 1].tolist() == [1, 2, -1]
    assert nodes.allowed[:, 1].tolist() == [True, True, False]


def test_the_last_decision_leads_nowhere() -> None:
    nodes = enumerate_nodes(layer_states((1, 1, 1)), max_decisions=2)
    assert nodes.num_nodes == 4
    assert (nodes.children[1:] == -1).all()
    assert nodes.decisions.tolist() == [0, 1, 1, 1]
