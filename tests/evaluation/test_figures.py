"""Pictures of a comparison."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.networks import make_vec
from helpers.problems import NeedEnv

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.figures import draw_path, extremes, plot_frontier
from dynalay_gym.networks.policy import PlanPolicy


def point(compute: float, accuracy: float) -> dict[str, object]:
    interval = [accuracy - 0.1, accuracy + 0.1]
    return {"compute": compute, "accuracy": accuracy, "accuracy_interval": interval}


def test_a_policy_is_a_point_or_a_line_in_the_order_of_compute():
    curves = {
        "nop": [point(1.0, 0.5)],
        "always": [point(9.0, 0.9)],
        "layer-1": [point(9.0, 0.9)],
        "mine": [point(4.0, 0.8), point(2.0, 0.6)],
    }
    (axes,) = plot_frontier(curves, "title").axes
    assert [text.get_text() for text in axes.texts] == ["nop", "always, layer-1"]
    assert axes.get_legend_handles_labels()[1] == ["mine"]
    mine, mixtures = axes.lines[3:]
    assert mine.get_xdata().tolist() == [2.0, 4.0]
    assert mine.get_ydata().tolist() == [0.6, 0.8]
    ends = mixtures.get_xdata()[[0, -1]], mixtures.get_ydata()[[0, -1]]
    np.testing.assert_allclose(ends, [[1.0, 9.0], [0.5, 0.9]])


def test_points_alone_need_no_legend():
    (axes,) = plot_frontier({"mine": [point(2.0, 0.6)]}, "title").axes
    assert axes.get_legend() is None


@pytest.fixture
def result():
    envs = NeedEnv(7, autoreset_mode=AutoresetMode.DISABLED)
    return evaluate(envs, PlanPolicy([(0,), (1,), (2,)] * 10), indices=np.arange(3, 30))


def test_extremes_by_compute(result):
    assert extremes(result) == {"easiest": [3, 6], "hardest": [29, 26]}


def test_extremes_by_difficulty(result):
    object.__setattr__(result, "difficulty", -result.indices.astype(float))
    assert extremes(result, 1) == {"easiest": [29], "hardest": [3]}


def test_the_picture_of_a_path_shows_its_end():
    envs = make_vec(1, autoreset_mode="Disabled", render_mode="rgb_array")
    pictures = [
        draw_path(envs, PlanPolicy(plan), index=3, penalty=0.25)
        for plan in ((), (1, 2), (1, 2))
    ]
    assert pictures[0].dtype == np.uint8
    assert pictures[0].ndim == 3
    assert (pictures[1] == pictures[2]).all()
    assert (pictures[0] != pictures[1]).any()
