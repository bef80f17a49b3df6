"""One walk of the full plan against running every threshold."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.networks import make_vec
from helpers.problems import NeedEnv
from test_own_network import make_vec as make_tokens

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.reference_policies import ThresholdPolicy, make_scores
from dynalay_gym.evaluation.walk import sweep_thresholds, walk_full_plan

PENALTY = 0.2
FIELDS = ("correct", "macs", "actions", "confidence")


def need(num_envs: int = 7) -> NeedEnv:
    return NeedEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED)


def layers(**options: Any) -> Any:
    return make_vec(5, autoreset_mode="Disabled", **options)


def tokens(**options: Any) -> Any:
    return make_tokens(7, autoreset_mode="Disabled", **options)


@pytest.mark.parametrize("reward", ["paper", "three-term", "log-score", "blockdrop"])
@pytest.mark.parametrize("once", [False, True])
def test_a_stop_in_the_walk_is_the_policy_in_the_environment(reward, once):
    check_every_score(layers(reward=reward), once)


@pytest.mark.parametrize("max_decisions", [6, 4, 3])  # 4 portions and the stop: 5
def test_a_walk_of_portions_that_may_be_cut_short(max_decisions):
    check_every_score(tokens(max_decisions=max_decisions), once=False)


def test_tensors_and_a_problem_without_residuals():
    check_every_score(tokens(output="torch"), once=False)
    check_every_score(need(), once=False)


def check_every_score(envs: Any, once: bool) -> None:
    walk = walk_full_plan(envs, PENALTY)
    for name, score in make_scores(envs).items():
        middle = float(np.median(walk.scores[name][:, 1]))
        finite = middle if np.isfinite(middle) else 1.0
        for threshold in (-np.inf, finite, np.inf):
            policy = ThresholdPolicy(envs, score, threshold, name=name, once=once)
            run = evaluate(envs, policy, penalty=PENALTY)
            read = walk.stop(name, threshold, once=once)
            np.testing.assert_allclose(read.returns, run.returns, atol=1e-5)
            for field in FIELDS:
                np.testing.assert_array_equal(getattr(read, field), getattr(run, field))


def test_the_best_threshold_is_the_best_of_all():
    envs = tokens()
    walk = walk_full_plan(envs, PENALTY)
    for name in walk.scores:
        tried = np.unique(walk.scores[name])  # a threshold on each score, infinity last
        best = max(walk.stop(name, each).mean_return for each in [-np.inf, *tried])
        found = walk.stop(name, walk.best_threshold(name)).mean_return
        assert found == pytest.approx(best, abs=1e-12)


def test_a_budget_is_used_as_far_as_thresholds_allow():
    walk = walk_full_plan(tokens(), PENALTY)
    thresholds, costs = sweep_thresholds(walk.scores["max-prob"], walk.macs)
    assert costs[0] == 0.0
    assert costs[-1] == pytest.approx(walk.always.macs.mean())
    assert (np.diff(costs) >= 0).all()
    budget = 0.3 * walk.always.macs.mean()
    threshold = walk.budget_threshold("max-prob", budget)
    above = thresholds[thresholds > threshold][0]
    assert walk.stop("max-prob", threshold).macs.mean() <= budget
    assert walk.stop("max-prob", above).macs.mean() > budget


class TestSweepThresholds:
    def test_two_decisions(self):
        scores = np.array([[0.9, np.inf], [0.2, np.inf]])
        values = np.array([[1.0, 0.0], [0.0, 2.0]])
        thresholds, means = sweep_thresholds(scores, values)
        np.testing.assert_allclose(thresholds, [-np.inf, 0.55, np.inf])
        np.testing.assert_allclose(means, [0.5, 1.5, 1.0])

    def test_a_score_that_falls_again_stops_nobody_later(self):
        scores = np.array([[0.5, 0.2, np.inf]])
        thresholds, means = sweep_thresholds(scores, np.array([[1.0, 5.0, 3.0]]))
        assert thresholds.tolist() == [-np.inf, np.inf]
        assert means.tolist() == [1.0, 3.0]

    def test_equal_scores_stay_together(self):
        scores = np.array([[0.5, np.inf], [0.5, np.inf]])
        thresholds, means = sweep_thresholds(scores, np.array([[1.0, 0], [0, 1]]))
        assert thresholds.tolist() == [-np.inf, np.inf]
        assert means.tolist() == [0.5, 0.5]
