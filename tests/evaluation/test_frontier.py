"""Measures of a frontier against values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.frontier import Measure, average, measure_frontier
from dynalay_gym.networks.policy import PlanPolicy


def result(correct: list[int], macs: list[int]) -> EvaluationResult:
    """Four samples; the plain pass takes 100 multiply-adds."""
    envs = NeedEnv(2, num_samples=4, autoreset_mode=AutoresetMode.DISABLED)
    blank = evaluate(envs, PlanPolicy(()))
    parts = {"correct": np.array(correct), "macs": np.array(macs), "plain_macs": 100}
    return replace(blank, **parts)


NOP = result([1, 0, 0, 0], [0] * 4)
ALWAYS = result([1, 1, 1, 1], [900] * 4)
HALF = result([1, 1, 1, 0], [0, 0, 450, 450])  # .75 at a quarter of 900


def values(points: list[EvaluationResult], **options: object) -> dict[str, float]:
    found = measure_frontier(points, NOP, ALWAYS, **options)  # type: ignore[arg-type]
    return {name: measure.value for name, measure in found.items()}


def test_a_straight_line_from_nop_to_always():
    found = values([ALWAYS], budgets=(0.0, 0.2, 1.0), gains=(0.5, 0.99))
    assert found["accuracy@0"] == 0.25
    assert found["accuracy@0.2"] == pytest.approx(0.25 + 0.2 * 0.75)
    assert found["accuracy@1"] == 1.0
    assert found["compute@0.5"] == pytest.approx(0.5)
    assert found["compute@0.99"] == pytest.approx(0.99)
    # Heights .25 and 1 at log 1 and log 10.
    assert found["area"] == pytest.approx(0.625)


def test_a_frontier_that_ends_early_stays_level_and_misses_the_gain():
    found = values([HALF], budgets=(0.125, 0.25, 0.9), gains=(0.5, 0.95))
    assert found["accuracy@0.125"] == pytest.approx(0.5)
    assert found["accuracy@0.25"] == found["accuracy@0.9"] == pytest.approx(0.75)
    assert found["compute@0.5"] == pytest.approx(0.25 * 0.75)
    assert found["compute@0.95"] == np.inf
    bend = np.log10(1 + 2.25)
    assert found["area"] == pytest.approx(0.5 * bend + 0.75 * (1 - bend))


def test_the_order_of_points_does_not_matter():
    assert values([HALF, ALWAYS]) == values([ALWAYS, HALF])


def test_intervals_hold_their_value_and_are_of_whole_groups():
    found = measure_frontier([HALF, ALWAYS], NOP, ALWAYS)
    for name, measure in found.items():
        value, low, high = measure.interval()
        assert low <= value <= high, name
    alone = measure_frontier([HALF, ALWAYS], NOP, ALWAYS, np.zeros(4))
    for measure in alone.values():
        value, low, high = measure.interval()
        assert value == pytest.approx(low) == pytest.approx(high)


def test_differences_are_paired():
    first, second, ends = (
        measure_frontier(points, NOP, ALWAYS, budgets=(1.0,))["accuracy@1"]
        for points in ([ALWAYS], [result([1, 1, 1, 1], [900] * 4)], [HALF])
    )
    assert (first - second).interval() == [0.0, 0.0, 0.0]
    value, low, high = (first - ends).interval()
    assert value == 0.25  # one of four samples
    assert (low, high) == (0.0, 0.75)


def test_infinite_measures_have_a_difference():
    never = Measure(value=np.inf, draws=np.array([np.inf, 1.0]))
    some = Measure(value=0.5, draws=np.array([0.5, 1.0]))
    assert (never - never).interval() == [0.0, 0.0, 0.0]
    assert (some - never).value == -np.inf
    assert (some - never).draws.tolist() == [-np.inf, 0.0]


def test_seeds_are_averaged_by_sample():
    mean = average([NOP, HALF])
    assert mean.correct.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert mean.macs.tolist() == [0.0, 0.0, 225.0, 225.0]
    assert mean.accuracy == 0.5
