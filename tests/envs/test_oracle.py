"""The plan table against the environment itself, and against every other policy."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers.networks import make_vec

from dynalay_gym.envs.oracle import plan_table
from dynalay_gym.envs.reward import REWARDS
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.sessions.calibration import ascending_plan

NUM_SAMPLES = 24


def play(
    envs: DynaLayVectorEnv, plans: np.ndarray, index: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, extra macs and outcomes of one plan per row, int [N, T] (0: NOP)."""
    options = {"index": index, "penalty": penalty}
    envs.reset(seed=0, options=options)
    n = len(index)
    going = np.ones(n, dtype=bool)
    returns, macs, correct = np.zeros(n), np.zeros(n, int), np.zeros(n, bool)
    for actions in plans.T:
        _, rewards, ends, _, infos = envs.step(actions)
        final = infos["final_info"]
        returns[going] += rewards[going]
        macs[going] += final["macs"][going]
        correct[going] = final["correct"][going].astype(bool)
        going &= ~ends
        if not going.any():
            break
    assert not going.any()
    return returns, macs, correct


def padded(plan: tuple[int, ...], length: int) -> list[int]:
    return [*plan, *[0] * (length - len(plan))]


@pytest.mark.parametrize("reward", sorted(REWARDS))
@pytest.mark.parametrize("config", [{}, {"form": "state", "max_decisions": 3}])
def test_plans_earn_what_the_environment_pays(
    reward: str, config: dict[str, Any]
) -> None:
    envs = make_vec(NUM_SAMPLES, reward=reward, **config)
    index = np.arange(NUM_SAMPLES)
    for penalty in (0.0, 0.4):
        table = plan_table(envs, penalty)
        assert len(table.plans) == 8
        for column, plan in enumerate(table.plans):
            plans = np.tile(padded(plan, envs.max_decisions), (NUM_SAMPLES, 1))
            returns, macs, correct = play(envs, plans, index, penalty)
            np.testing.assert_allclose(table.returns[:, column], returns, atol=2e-6)
            assert np.array_equal(table.macs[:, column], macs)
            assert np.array_equal(table.correct[:, column], correct)


def test_columns_are_the_reference_policies() -> None:
    table = plan_table(make_vec(1))
    assert table.plans[0] == ()
    assert table.plans[-1] == (1, 2, 3)
    assert [table.plans[1 << (k - 1)] for k in (1, 2, 3)] == [(1,), (2,), (3,)]
    assert table.plans == tuple(ascending_plan(path) for path in range(8))
    assert table.returns.dtype == np.float32
    assert (table.macs[:, 0] == 0).all()
    assert table.correct.dtype == np.bool_


@pytest.mark.parametrize("limit", [1, 2, 4])
@pytest.mark.parametrize("reward", ["paper", "three-term", "log-score"])
def test_no_sequence_of_actions_beats_the_best_plan(limit: int, reward: str) -> None:
    samples = np.arange(3)
    sequences = np.array(list(product(range(4), repeat=limit)))
    n = len(sequences)
    envs = make_vec(n, reward=reward, max_decisions=limit)
    for penalty in (0.05, 0.3):
        table = plan_table(envs, penalty)
        for sample in samples:
            index = np.full(n, sample)
            returns, _, _ = play(envs, sequences, index, penalty)
            best = table.returns[sample, table.best()[sample]]
            assert returns.max() == pytest.approx(best, abs=2e-6)


def test_plans_beyond_the_budget_cannot_be_chosen() -> None:
    envs = make_vec(1, max_decisions=2)
    table = plan_table(envs, 0.0)
    assert (table.returns[:, -1] == -np.inf).all()
    assert np.isfinite(table.returns[:, :-1]).all()
    assert (table.best() != 7).all()


def test_best_is_never_below_any_single_plan_and_prices_matter() -> None:
    envs = make_vec(1)
    previous = np.inf
    for penalty in (0.0, 0.1, 1.0, 100.0):
        table = plan_table(envs, penalty)
        best = table.returns.max(1)
        rows = np.arange(NUM_SAMPLES)
        assert np.array_equal(table.returns[rows, table.best()], best)
        assert best.mean() <= previous
        previous = best.mean()
    assert (table.best() == 0).all(), "at this price nothing is worth it"


def test_the_default_penalty_is_the_environments_lowest() -> None:
    envs = make_vec(1, penalty="0.2:0.6")
    assert np.array_equal(plan_table(envs).returns, plan_table(envs, 0.2).returns)


def test_the_table_does_not_depend_on_the_rows_of_the_environment() -> None:
    one, many = plan_table(make_vec(1), 0.3), plan_table(make_vec(7), 0.3)
    assert np.array_equal(one.returns, many.returns)
    assert np.array_equal(one.macs, many.macs)


def test_break_even_makes_stopping_and_always_worth_the_same() -> None:
    envs = DynaLayVectorEnv(1, split="agent")
    table = plan_table(envs)
    means = table.returns.mean(0)
    # The default penalty is rounded to 1e-3.
    assert means[0] == pytest.approx(means[-1], abs=6e-4)
    assert table.returns.max(1).mean() > means.max() + 0.01, "choosing per input pays"
    always = table.macs[:, -1].mean()
    assert envs.always_extra_macs == pytest.approx(always, rel=1e-3)
