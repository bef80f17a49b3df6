"""Rules on two mazes of two levels of the near field and three of the map."""

import numpy as np

from benchmarks.maze_bounds import (
    States,
    cascade,
    cheapest,
    everything,
    foreseen,
    plan,
    settled,
)
from dynalay_gym.evaluation.evaluate import EvaluationResult

MACS = np.array([[0, 10, 20], [3, 13, 23]])


def states() -> States:
    always = EvaluationResult(
        policy="always",
        action_names=("stop", "layer 1", "layer 2"),
        indices=np.arange(2),
        returns=np.zeros(2),
        correct=np.ones(2, dtype=bool),
        macs=np.full(2, 23),
        actions=np.zeros((2, 3), dtype=np.int64),
        confidence=np.ones(2),
        difficulty=np.array([2.0, 8.0]),
        plain_macs=10,
        always_extra_macs=23.0,
        macs_per_decision=0,
        seconds=0.0,
    )
    easy = [[0, 0, 1], [1, 1, 1]]  # right after the near field
    hard = [[1, 0, 1], [0, 0, 1]]  # a lucky guess, then nothing until the end
    sure = [[[0.3, 0.6, 0.9], [0.8, 0.8, 0.9]], [[0.4, 0.4, 1.0], [0.4, 0.4, 1.0]]]
    return States(
        correct=np.array([easy, hard], dtype=bool),
        prediction=np.array([easy, hard]),
        macs=np.stack([MACS, MACS]),
        confidence=np.array(sure),
        features=np.zeros((2, 2, 3, 1), dtype=np.float32),
        iterations=np.array([0, 4, 8]),
        difficulty=np.array([2, 8]),
        always=always,
    )


def test_a_plan_takes_the_near_field_first() -> None:
    near, full = plan(states(), 1)
    assert (near.tolist(), full.tolist()) == ([0, 1, 1, 1], [0, 0, 1, 2])
    assert plan(states(), 0)[1].tolist() == [0, 1, 2]


def test_the_cheapest_right_state_may_be_a_guess() -> None:
    best = cheapest(states(), states().correct, everything(states()))[-1]
    assert best.macs.tolist() == [3, 0]
    assert best.correct.all()


def test_a_settled_answer_is_no_guess() -> None:
    along = plan(states(), 1)
    right = states().correct[:, *along]
    points = settled(states(), right, along)
    assert [point.macs.tolist() for point in points] == [
        [0, 0],
        [3, 3],
        [3, 13],
        [3, 23],
    ]
    assert points[-1].correct.all()


def test_what_never_settles_is_not_begun() -> None:
    along = plan(states(), 1)
    good = np.zeros((2, 4), dtype=bool)
    assert settled(states(), good, along)[-1].macs.tolist() == [0, 0]


def test_compute_is_taken_where_it_will_pay() -> None:
    points = foreseen(states(), states().confidence, everything(states()))
    assert points[0].macs.tolist() == [20, 20]  # nearly free, and as sure without near
    assert points[-1].macs.tolist() == [3, 0]  # half of the full plan's price for .5


def test_a_cascade_of_another_plan() -> None:
    points = cascade(states(), states(), 1)
    # The cheapest threshold above nothing lets the second maze go to its end.
    assert {tuple(point.macs.tolist()) for point in points} >= {(3, 23)}
