"""Diagnostics against values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

from dynalay_gym.evaluation import diagnostics
from dynalay_gym.evaluation.diagnostics import (
    auroc,
    calibration_error,
    change_rates,
    diagnose,
)
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import PlanPolicy


def test_calibration_error():
    assert calibration_error(np.array([0.9, 0.9]), np.array([1, 0])) == pytest.approx(
        0.4
    )
    # Two bins: 0.5 too low at .5, .1 too high at .1.
    found = calibration_error(np.array([0.5, 0.1]), np.array([1, 0]))
    assert found == pytest.approx((0.5 + 0.1) / 2)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1, 1])) == 0.0
    assert np.isnan(calibration_error(np.array([np.nan]), np.array([1])))


def test_auroc():
    positive = np.array([True, True, False, False])
    assert auroc(np.array([4, 3, 2, 1]), positive) == 1.0
    assert auroc(np.array([1, 2, 3, 4]), positive) == 0.0
    assert auroc(np.ones(4), positive) == 0.5
    assert auroc(np.array([4, 1, 2, 1]), positive) == (2 + 0.5) / 4
    assert np.isnan(auroc(np.ones(2), np.ones(2, dtype=bool)))


def test_breakage_and_repair():
    before, after = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 1, 0])
    found = change_rates(before.astype(bool), after.astype(bool))
    assert found == {"breakage": 0.25, "repair": 0.5}
    assert np.isnan(change_rates(np.ones(1, dtype=bool), np.ones(1))["repair"])


@pytest.fixture
def results():
    """Thirty samples; sample 3 k + 1 takes layer 1, 3 k + 2 layer 2, 3 k none."""
    envs = NeedEnv(7, autoreset_mode=AutoresetMode.DISABLED)
    return [evaluate(envs, PlanPolicy([(0,), (1,), (2,)] * 10, name="mine"))] * 2


def test_without_a_difficulty(results):
    found = diagnose(results)
    assert np.isnan(found["rank_correlation"])
    assert found["by_difficulty"] == []
    assert np.isnan(found["auroc"])  # all answers are right
    confidence = (np.arange(30) + 1) / 31
    assert found["ece"] == pytest.approx(np.mean(1 - confidence))


def test_with_a_difficulty(results, monkeypatch):
    monkeypatch.setattr(diagnostics, "_DIFFICULTY_BINS", 3)
    difficulty = np.arange(30) % 3.0
    found = diagnose([replace(each, difficulty=difficulty) for each in results])
    assert found["rank_correlation"] == pytest.approx(1.0)
    easy, middle, hard = found["by_difficulty"]
    assert [easy["num"], middle["num"], hard["num"]] == [10, 10, 10]
    assert easy["difficulty"] == [0.0, 0.0]
    assert (easy["compute"], hard["compute"]) == (1.0, 1.0 + 6000 / 1000)
    assert easy["actions"] == [1.0, 0.0, 0.0]
    assert middle["actions"] == [0.5, 0.5, 0.0]
    assert hard["accuracy"] == 1.0


def test_bins_as_many_as_asked_for_and_what_compute_is_in_them(results):
    ranked = [replace(each, difficulty=np.arange(30.0)) for each in results]
    easy, hard = diagnostics.difficulty_bins(ranked, 2)
    assert (easy["difficulty"], hard["difficulty"]) == ([0.0, 14.0], [15.0, 29.0])
    for each in (easy, hard):  # thirds of compute 1, 5 and 7
        assert each["num"] == 15
        assert each["compute_quartiles"] == [1.0, 5.0, 7.0]
