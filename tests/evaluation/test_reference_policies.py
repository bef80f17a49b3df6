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
from dynalay_gym.evaluation import comparison, reference_policies
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.reference_policies import (
    RandomPolicy,
    SweepPolicy,
    ThresholdPolicy,
    best_threshold,
    first_observations,
    make_random_mix,
    make_reference_policies,
)
from dynalay_gym.networks.policy import PlanPolicy

PENALTY = 0.2
NAMES = "nop always layer-1 layer-2 random max-prob entropy best-fixed oracle".split()


def disabled(num_envs=7, **options):
    return NeedEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


@pytest.fixture
def enumerated(monkeypatch):
    """The test problem's own enumeration in place of the package's."""
    monkeypatch.setattr(reference_policies, "optimum", need_optimum)
    monkeypatch.setattr(reference_policies, "best_fixed_plan", need_best_fixed_plan)


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
        actions = policy.act(kind(rows), {"action_mask": mask})
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

    def test_it_is_asked_once(self):
        """A sample that goes on does so to the end, however sure it gets."""
        envs = disabled(3)
        policy = ThresholdPolicy(envs, "max_prob", 1, 0.5, name="max-prob")
        result = evaluate(envs, policy)
        confident = (np.arange(30) + 1) / 31 >= 0.5
        assert (result.actions[confident] == [1, 0, 0]).all()
        assert (result.actions[~confident] == [1, 1, 1]).all()


def test_first_observations_cover_the_split():
    envs = disabled(7)
    observations = first_observations(envs, 0.25)
    column = envs.observation_layout["penalty"]
    np.testing.assert_allclose(observations[:, column], 0.2)  # 0.25 / 1.25
    needs = observations[:, envs.observation_layout["activations/0"]].argmax(1)
    assert (needs == envs.needs).all()


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
        for name in ("max-prob", "entropy"):
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
    best = reference_policies.optimum(envs, 0.25).returns
    np.testing.assert_allclose(results["oracle"].returns, best, atol=1e-6)
    fixed = results["best-fixed"].mean_return
    names = ("nop", "always", "layer-1", "layer-2", "layer-3")
    assert fixed >= max(results[name].mean_return for name in names) - 1e-6
    assert fixed <= best.mean()
