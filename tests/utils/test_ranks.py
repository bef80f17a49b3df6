"""Ranks and their correlation, against values by hand."""

import numpy as np
import pytest

from dynalay_gym.utils.ranks import rank_correlation, ranks


def test_rank_correlation() -> None:
    assert ranks(np.array([30, 10, 10, 20])).tolist() == [4.0, 1.5, 1.5, 3.0]
    x = np.array([1, 2, 3, 4])
    assert rank_correlation(x, x**3) == pytest.approx(1.0)
    assert rank_correlation(x, -x) == pytest.approx(-1.0)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = (0, 0, 1, -1)
    assert rank_correlation(x, np.array([1, 2, 4, 3])) == pytest.approx(1 - 6 * 2 / 60)
    assert np.isnan(rank_correlation(x, np.ones(4)))
    # mean ranks (1.5, 1.5, 3.5, 3.5)
    tied = np.array([1, 1, 2, 2])
    assert rank_correlation(x, tied) == pytest.approx(2 / 5**0.5)
