"""Schedules of a training."""

import pytest

from dynalay_gym.utils.schedules import geometric, linear


def test_both_reach_their_ends():
    for schedule in (linear, geometric):
        assert schedule(8.0, 2.0, 0.0) == 8.0
        assert schedule(8.0, 2.0, 1.0) == 2.0
    assert linear(8.0, 2.0, 0.5) == 5.0
    assert geometric(8.0, 2.0, 0.5) == pytest.approx(4.0)


def test_zero_cannot_be_reached_geometrically():
    assert geometric(0.4, 0.0, 0.5) == linear(0.4, 0.0, 0.5) == 0.2
