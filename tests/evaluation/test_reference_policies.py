"""Reference policies against their definitions."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.networks import make_vec
from helpers.problems import (
    ALWAYS_MACS,
    COSTS,
    PLANS,
    NeedEnv,
    need_best_fixed_plan,
    need_optimum,
    plan_results,
)

from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation import comparison
from dynalay_gym.evaluation.comparison import make_reference_policies
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.reference_policies import (
    Patience,
    RandomPolicy,
    SweepPolicy,
    ThresholdPolicy,
    make_random_mix,
    make_scores,
)
from dynalay_gym.networks.policy import PlanPolicy

PENALTY = 0.2
NAMES = (
    "nop always layer-1 layer-2 random max-prob entropy patience fixed-k "
    "max-prob-once entropy-once best-fixed oracle"
).split()


def disabled(num_envs=7, **options):
    return NeedEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


@pytest.fixture
def enumerated(monkeypatch):
    """The test problem's own enumeration in place of the package's."""
    monkeypatch.setattr(comparison, "optimum", need_optimum)
    monkeypatch.setattr(comparison, "best_fixed_plan", need_best_fixed_plan)


class TestSweep:
    envs = disabled()

    def act(self, plan, last_actions, masks, kind=np.asarray):
        width = self.envs.single_observation_space.shape[0]
        rows = np.zeros((len(masks), width), dtype=np.float32)
        columns = self.envs.observation_layout["last_action"]
        for row, action in zip(rows, last_actions, strict=True):
            row[columns] = np.arange(3) == action  # -1: none yet
        mask = kind(np.array(masks, dtype=np.int8))
        policy = SweepPolicy(self.envs, plan, name="sweep")
        decisions = kind(np.zeros(len(masks), dtype=np.int64))
        infos = {"action_mask": mask, "decisions": decisions}
        actions = policy.act(kind(rows), infos)
        assert type(actions) is type(mask)
        return actions.tolist()

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    def test_an_action_is_repeated_while_it_is_useful(self, kind):
        last = [-1, 1, 1, 2, 2]
        masks = [[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 0]]
        # start; 1 has more to do; 1 is done; 2 has more to do; 2 is done (and 1 is
        # useful again, but the plan has passed it).
        assert self.act((1, 2), last, masks, kind) == [1, 1, 2, 2, 0]

    def test_what_is_useless_is_skipped(self):
        assert self.act((1, 2), [-1, -1], [[1, 0, 1], [1, 0, 0]]) == [2, 0]

    def test_any_order(self):
        assert self.act((2, 1), [-1, 2, 1], [[1, 1, 1], [1, 1, 0], [1, 0, 1]]) == [
            2,
            1,
            0,
        ]

    def test_nothing_to_do_is_nop(self):
        assert self.act((), [-1, 1], [[1, 1, 1]] * 2) == [0, 0]

    def test_a_plan_that_comes_back_is_refused(self):
        with pytest.raises(ConfigError, match="at most once"):
            SweepPolicy(self.envs, (1, 2, 1), name="loop")

    def test_it_takes_the_layers_of_a_real_network_once_each(self):
        envs = make_vec(8, autoreset_mode="Disabled")
        policy = SweepPolicy(envs, envs.full_plan, name="always")
        result = evaluate(envs, policy)
        planned = evaluate(envs, PlanPolicy(envs.full_plan))
        assert (result.actions == 1).all()
        assert (result.returns == planned.returns).all()
        assert (result.macs == planned.macs).all()


class TestThreshold:
    @pytest.mark.parametrize("once", [False, True])
    def test_it_stops_where_the_score_reaches_it(self, once):
        """The score counts decisions; once, whoever goes on does so to the end."""
        envs = disabled(3)
        score = make_scores(envs)["fixed-k"]
        policy = ThresholdPolicy(envs, score, 1.0, name="k", once=once)
        taken = evaluate(envs, policy).actions
        assert (taken == ([1, 1, 1] if once else [1, 1, 0])).all()

    def test_a_sure_sample_stops_at_once(self):
        envs = disabled(3)
        score = make_scores(envs)["max-prob"]
        result = evaluate(envs, ThresholdPolicy(envs, score, 0.5, name="max-prob"))
        confident = (np.arange(30) + 1) / 31 >= 0.5
        assert (result.actions[confident] == [1, 0, 0]).all()
        assert (result.actions[~confident] == [1, 1, 1]).all()

    def test_scores_are_the_parts_that_the_observation_has(self):
        envs = make_vec(2, autoreset_mode="Disabled")
        observations, infos = envs.reset(seed=0)
        scores = make_scores(envs)
        found = {name: score(observations, infos) for name, score in scores.items()}
        layout = envs.observation_layout
        entropy = observations[:, layout["entropy"].start]
        np.testing.assert_array_equal(found["entropy"], -entropy.astype(np.float64))
        assert found["residual"].tolist() == [-1.0, -1.0]  # of every layer, at first
        assert list(scores) == "max-prob entropy residual patience fixed-k".split()
        assert (
            list(make_scores(disabled())) == "max-prob entropy patience fixed-k".split()
        )


def test_patience_counts_unchanged_predictions_of_every_row():
    patience = Patience()
    seen = [  # decisions, predictions, count; row 1 starts anew in between
        ([0, 0], [3, 5], [0, 0]),
        ([1, 1], [3, 5], [1, 1]),
        ([2, 0], [3, 5], [2, 0]),
        ([3, 1], [4, 5], [0, 1]),
        ([4, 2], [4, 6], [1, 0]),
        ([0, 0], [4, 6], [0, 0]),
        ([0, 0, 0], [1, 1, 1], [0, 0, 0]),
    ]
    for decisions, predictions, count in seen:
        infos = {"decisions": np.array(decisions), "prediction": np.array(predictions)}
        assert patience(np.zeros((len(decisions), 1)), infos).tolist() == count


@pytest.mark.usefixtures("enumerated")
class TestAll:
    @pytest.fixture
    def results(self):
        policies = make_reference_policies(disabled(), disabled(), PENALTY)
        assert [policy.name for policy in policies] == NAMES
        return {p.name: evaluate(disabled(), p, penalty=PENALTY) for p in policies}

    def test_fixed_ones_follow_their_plan(self, results):
        returns, correct = plan_results(disabled(), PENALTY)
        for column, name in enumerate(["nop", "layer-1", "layer-2", "always"]):
            result = results[name]
            np.testing.assert_allclose(result.returns, returns[:, column], atol=1e-6)
            assert (result.macs == COSTS[list(PLANS[column])].sum() * ALWAYS_MACS).all()
            assert (result.correct == correct[:, column]).all()

    def test_best_fixed_and_oracle_are_the_optima(self, results):
        returns, _ = plan_results(disabled(), PENALTY)
        best = returns.mean(axis=0).max()
        assert results["best-fixed"].mean_return == pytest.approx(best)
        oracle = returns.max(axis=1).mean()
        assert results["oracle"].mean_return == pytest.approx(oracle)

    def test_thresholds_are_the_best_of_all(self, results):
        returns, _ = plan_results(disabled(), PENALTY)
        # Confidence grows with the sample, so the last k stop and the others go on.
        choices = [
            np.where(np.arange(30) >= k, returns[:, 0], returns[:, -1]).mean()
            for k in range(31)
        ]
        for name in ("max-prob-once", "entropy-once"):
            assert results[name].mean_return == pytest.approx(max(choices), abs=1e-6)

    def test_compare_adds_the_policy_and_a_mix_at_its_compute(self):
        learned = PlanPolicy([(0,), (1,), (2,)] * 10, name="mine")
        results = comparison.compare(learned, disabled(), disabled(), PENALTY)
        assert [r.policy for r in results] == ["mine", *NAMES, "random-mix"]
        assert results[0].accuracy == 1.0
        others = comparison.compare(learned, disabled(), disabled(), PENALTY, seed=1)
        changed = [
            one.policy
            for one, other in zip(results, others, strict=True)
            if (one.actions != other.actions).any()
        ]
        assert changed == ["random", "random-mix"]


def test_random_takes_all_actions_alike():
    envs = disabled(64)
    indices = np.tile(np.arange(30), 200)
    shares = evaluate(envs, RandomPolicy(3), indices=indices).action_shares
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_random_mix_has_the_compute_asked_for():
    policy = make_random_mix(disabled(), 0.3 * ALWAYS_MACS, ALWAYS_MACS)
    result = evaluate(disabled(64), policy, indices=np.tile(np.arange(30), 100))
    assert result.extra_share == pytest.approx(0.3, abs=0.03)
    assert set(map(tuple, result.actions)) == {(1, 0, 0), (1, 1, 1)}


def test_the_package_enumerates_for_itself():
    """With a real network: the oracle earns its optimum, best-fixed no less than."""
    envs = make_vec(8, autoreset_mode="Disabled", transitions="table")
    results = {
        policy.name: evaluate(envs, policy, penalty=0.25)
        for policy in make_reference_policies(envs, envs, 0.25)
    }
    best = comparison.optimum(envs, 0.25).returns
    np.testing.assert_allclose(results["oracle"].returns, best, atol=1e-6)
    fixed = results["best-fixed"].mean_return
    names = ("nop", "always", "layer-1", "layer-2", "layer-3")
    assert fixed >= max(results[name].mean_return for name in names) - 1e-6
    assert fixed <= best.mean()


def test_states_beyond_number_are_not_enumerated(monkeypatch):
    envs = make_vec(8, autoreset_mode="Disabled")
    monkeypatch.setattr(comparison, "MOST_ROWS", 8 * 24 - 1)  # states of 24 samples
    names = [policy.name for policy in make_reference_policies(envs, envs, 0.25)]
    assert names[-1] == "entropy-once"
    monkeypatch.setattr(comparison, "MOST_ROWS", 8 * 24)
    names = [policy.name for policy in make_reference_policies(envs, envs, 0.25)]
    assert names[-2:] == ["best-fixed", "oracle"]
