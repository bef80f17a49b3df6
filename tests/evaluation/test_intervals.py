"""Bootstrap intervals against what they estimate."""

import numpy as np
import pytest

from dynalay_gym.evaluation.intervals import bootstrap_interval


def test_constant_values_have_no_width():
    assert bootstrap_interval(np.full(10, 0.3)) == pytest.approx((0.3, 0.3))


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(size=4000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=half / 5)


def test_copies_of_one_image_add_nothing():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values)
    copies = np.repeat(values, 9), np.repeat(np.arange(400), 9)
    low_9, high_9 = bootstrap_interval(*copies)
    assert high_9 - low_9 == pytest.approx(high - low, rel=0.05)
    alone, above = bootstrap_interval(copies[0])
    assert above - alone < (high - low) / 2


def test_groups_of_different_size():
    values = np.array([1.0, 1.0, 1.0, 0.0])
    low, high = bootstrap_interval(values, np.array([4, 4, 4, 9]))
    assert (low, high) == (0.0, 1.0)
