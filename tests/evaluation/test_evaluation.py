"""Walks over a split, reference policies and reports, against known answers."""

import json

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import (
    ALPHA,
    ALWAYS_MACS,
    COSTS,
    PLAIN_MACS,
    NeedEnv,
    need_plan_table,
)

import dynalay_gym.evaluation.reference_policies
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import bootstrap_interval, first_observations, walk
from dynalay_gym.evaluation.reference_policies import (
    PlanPolicy,
    RandomPolicy,
    best_threshold,
    make_baselines,
    make_random_mix,
)
from dynalay_gym.evaluation.report import (
    format_regret,
    format_table,
    make_rows,
    plot_rows,
    write_results,
)

PENALTY = 0.2
NUM_SAMPLES = 30


def disabled(num_envs=7, **options):
    return NeedEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


class Recorder:
    """Stops at once, and remembers which samples and penalties it saw."""

    name = "recorder"
    macs_per_decision = 5

    def __init__(self):
        self.seen = []

    def act(self, observations, infos):
        self.seen += zip(infos["index"], infos["penalty"], strict=True)
        return np.zeros(len(observations), dtype=np.int64)


@pytest.mark.parametrize("num_envs", [1, 7, 30, 64])
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_walk_takes_every_sample_once_whatever_the_batch(num_envs, output):
    policy = PlanPolicy("layer-1", [(1,)], 0)
    result = walk(disabled(num_envs, output=output), policy, penalty=PENALTY)
    needs = np.arange(NUM_SAMPLES) % 3
    assert (result.indices == np.arange(NUM_SAMPLES)).all()
    assert (result.correct == (needs != 2)).all()
    expected = ALPHA * (needs != 2) - PENALTY * COSTS[1]
    np.testing.assert_allclose(result.returns, expected, atol=1e-6)
    assert (result.macs == int(COSTS[1] * ALWAYS_MACS)).all()
    assert (result.actions == [1, 1, 0]).all()


def test_walk_of_chosen_samples_each_at_its_own_penalty():
    indices = np.array([5, 4, 3, 20, 11])
    penalties = np.array([0.1, 0.2, 0.3, 0.4, 0.5], dtype=np.float32)
    policy = PlanPolicy("always", [(1, 2)], 0)
    result = walk(disabled(2), policy, indices=indices, penalty=penalties)
    np.testing.assert_allclose(result.returns, ALPHA - penalties, atol=1e-6)
    recorder = Recorder()
    walk(disabled(2), recorder, indices=indices, penalty=penalties)
    assert set(recorder.seen) == set(zip(indices, penalties, strict=True))


def test_result_in_figures():
    policy = PlanPolicy("mixed", [(), (1,), (1, 2)] * 10, 0, per_sample=True)
    policy.macs_per_decision = 100
    result = walk(disabled(), policy, penalty=PENALTY)
    # Ten samples each: stop; layer 1; layers 1 and 2. So 1 + 2 + 3 decisions.
    np.testing.assert_allclose(result.action_shares, [1 / 2, 1 / 3, 1 / 6])
    extra = (0.0 + 0.4 + 1.0) / 3
    assert result.extra_share == pytest.approx(extra)
    assert result.compute == pytest.approx(1 + extra * ALWAYS_MACS / PLAIN_MACS)
    assert result.accuracy == 1.0
    total = PLAIN_MACS + extra * ALWAYS_MACS
    assert result.agent_macs_share == pytest.approx(2 * 100 / total)
    assert result.seconds_per_sample == result.seconds / NUM_SAMPLES > 0


def test_walk_refuses_environments_that_reset_themselves():
    with pytest.raises(ConfigError, match="Disabled"):
        walk(NeedEnv(), Recorder())


def test_first_observations_cover_the_split():
    envs = disabled(7)
    batches = list(first_observations(envs, 0.25))
    assert np.concatenate([rows for rows, _ in batches]).tolist() == list(range(30))
    observations = np.concatenate([batch for _, batch in batches])
    column = envs.observation_layout["penalty"]
    np.testing.assert_allclose(observations[:, column], 0.2)  # 0.25 / 1.25
    needs = observations[:, envs.observation_layout["activations/0"]].argmax(1)
    assert (needs == envs.needs).all()


class TestBootstrap:
    def test_constant_values_have_no_width(self):
        assert bootstrap_interval(np.full(10, 0.3)) == pytest.approx((0.3, 0.3))

    def test_width_is_that_of_the_normal_approximation(self):
        values = np.random.default_rng(0).normal(size=4000)
        low, high = bootstrap_interval(values)
        half = 1.96 * values.std() / np.sqrt(4000)
        assert (high - low) / 2 == pytest.approx(half, rel=0.1)
        assert (high + low) / 2 == pytest.approx(values.mean(), abs=half / 5)

    def test_copies_of_one_image_add_nothing(self):
        values = np.random.default_rng(0).normal(size=400)
        low, high = bootstrap_interval(values)
        copies = np.repeat(values, 9), np.repeat(np.arange(400), 9)
        low_9, high_9 = bootstrap_interval(*copies)
        assert high_9 - low_9 == pytest.approx(high - low, rel=0.05)
        alone, above = bootstrap_interval(copies[0])
        assert above - alone < (high - low) / 2

    def test_groups_of_different_size(self):
        values = np.array([1.0, 1.0, 1.0, 0.0])
        low, high = bootstrap_interval(values, np.array([4, 4, 4, 9]))
        assert (low, high) == (0.0, 1.0)


class TestThreshold:
    def test_separable(self):
        confidence = np.array([0.9, 0.2, 0.8, 0.1])
        threshold = best_threshold(
            confidence, np.array([1.0, 0, 1, 0]), np.full(4, 0.5)
        )
        assert threshold == 0.5

    @pytest.mark.parametrize(("go", "expected"), [(2.0, np.inf), (-1.0, -np.inf)])
    def test_one_side_always_better(self, go, expected):
        threshold = best_threshold(np.arange(4.0), np.zeros(4), np.full(4, go))
        assert threshold == expected

    def test_equal_confidences_stay_together(self):
        threshold = best_threshold(
            np.array([0.5, 0.5, 0.1]), np.array([1.0, -3.0, 0.0]), np.full(3, 0.5)
        )
        assert threshold == np.inf

    def test_plans_that_are_too_long_are_never_chosen(self):
        threshold = best_threshold(np.arange(3.0), np.zeros(3), np.full(3, -np.inf))
        assert threshold == -np.inf


class TestBaselines:
    @pytest.fixture
    def results(self, monkeypatch):
        monkeypatch.setattr(
            dynalay_gym.evaluation.reference_policies, "plan_table", need_plan_table
        )
        policies = make_baselines(disabled(), disabled(), PENALTY)
        return {p.name: walk(disabled(), p, penalty=PENALTY) for p in policies}

    def test_all_are_there(self, results):
        expected = (
            "nop always layer-1 layer-2 random max-prob entropy best-fixed oracle"
        )
        assert set(results) == set(expected.split())

    def test_fixed_ones_follow_their_plan(self, results):
        table = need_plan_table(disabled(), PENALTY)
        for column, name in enumerate(["nop", "layer-1", "layer-2", "always"]):
            result = results[name]
            np.testing.assert_allclose(
                result.returns, table.returns[:, column], atol=1e-6
            )
            assert (result.macs == table.macs[:, column]).all()
            assert (result.correct == table.correct[:, column]).all()

    def test_best_fixed_and_oracle_are_the_optima(self, results):
        returns = need_plan_table(disabled(), PENALTY).returns
        best = returns.mean(axis=0).max()
        assert results["best-fixed"].mean_return == pytest.approx(best)
        oracle = returns.max(axis=1).mean()
        assert results["oracle"].mean_return == pytest.approx(oracle)

    def test_thresholds_are_the_best_of_all(self, results):
        returns = need_plan_table(disabled(), PENALTY).returns
        # Confidence grows with the sample, so the last k stop and the others go on.
        choices = [
            np.where(np.arange(30) >= k, returns[:, 0], returns[:, -1]).mean()
            for k in range(31)
        ]
        for name in ("max-prob", "entropy"):
            assert results[name].mean_return == pytest.approx(max(choices), abs=1e-6)

    def test_random_takes_all_actions_alike(self):
        envs = disabled(64)
        indices = np.tile(np.arange(30), 200)
        shares = walk(envs, RandomPolicy(3), indices=indices).action_shares
        np.testing.assert_allclose(shares, 1 / 3, atol=0.02)

    def test_random_mix_has_the_compute_asked_for(self):
        policy = make_random_mix(disabled(), 0.3 * ALWAYS_MACS, ALWAYS_MACS)
        result = walk(disabled(64), policy, indices=np.tile(np.arange(30), 100))
        assert result.extra_share == pytest.approx(0.3, abs=0.03)
        assert set(map(tuple, result.actions)) == {(1, 0, 0), (1, 1, 1)}


class TestReport:
    @pytest.fixture
    def rows(self):
        plans = {"nop": (), "policy-gradient": (1,), "always": (1, 2)}
        results = [
            walk(disabled(), PlanPolicy(name, [plan], 0), penalty=PENALTY)
            for name, plan in plans.items()
        ]
        return make_rows(results, np.arange(NUM_SAMPLES) // 3)

    def test_table_fits_80_columns_with_four_actions(self, rows):
        for row in rows:
            row["actions"]["3"] = 1.0
        lines = format_table(rows).splitlines()
        assert len(lines) == 2 + len(rows)
        assert max(map(len, lines)) <= 80
        assert "66.7 %" in lines[3]

    def test_rows_hold_the_interval(self, rows):
        for row in rows:
            low, high = row["return_interval"]
            assert low <= row["return"] <= high
        assert rows[0]["actions"] == {"nop": 1.0, "1": 0.0, "2": 0.0}

    def test_regret_is_the_paired_distance_to_the_oracle(self, rows):
        assert all("regret" not in row for row in rows)
        table, env = need_plan_table(disabled(), PENALTY), disabled()
        plans = [table.plans[k] for k in table.best()]
        oracle = PlanPolicy("oracle", plans, 0, per_sample=True)
        results = [
            walk(env, policy, penalty=PENALTY)
            for policy in (PlanPolicy("nop", [()], 0), oracle)
        ]
        nop, best = make_rows(results, np.arange(NUM_SAMPLES))
        assert best["regret"] == 0.0
        assert best["regret_interval"] == [0.0, 0.0]
        # Two of three samples need a layer: .5 less what it costs.
        assert nop["regret"] == pytest.approx((0.42 + 0.38) / 3, abs=1e-6)
        low, high = nop["regret_interval"]
        assert low < nop["regret"] < high
        assert format_regret(nop).startswith("regret of nop to the oracle: 0.2667 [")

    def test_files(self, rows, tmp_path):
        write_results(tmp_path, rows, 100, {"seed": 0})
        kept = json.loads((tmp_path / "results.json").read_text())
        assert kept["seed"] == 0
        assert [row["policy"] for row in kept["policies"]] == [
            row["policy"] for row in rows
        ]
        lines = (tmp_path / "policies" / "nop" / "metrics.jsonl").read_text()
        steps = [json.loads(line)["step"] for line in lines.splitlines()]
        assert steps == [0, 100]
        assert '"eval/accuracy"' in lines

    def test_figure_has_a_point_per_policy(self, rows):
        (axes,) = plot_rows(rows, "title").axes
        labels = [text.get_text() for text in axes.texts]
        assert labels == ["nop", "policy-gradient", "always"]
