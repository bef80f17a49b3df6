"""Pictures of a comparison."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.networks import make_vec
from helpers.problems import NeedEnv

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.figures import draw_path, extremes, follow, plot_frontier
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
    assert [text.get_text() for text in axes.texts] == ["nop", "always"]
    assert axes.get_legend_handles_labels()[1] == ["layer-1", "mine"]
    mine, mixtures = axes.lines[3:]
    assert mine.get_xdata().tolist() == [2.0, 4.0]
    assert mine.get_ydata().tolist() == [0.6, 0.8]
    ends = mixtures.get_xdata()[[0, -1]], mixtures.get_ydata()[[0, -1]]
    np.testing.assert_allclose(ends, [[1.0, 9.0], [0.5, 0.9]])


def test_the_lines_of_agents_are_over_the_others():
    curves = {name: [point(1.0, 0.5), point(2.0, 0.6)] for name in ("mine", "max-prob")}
    (axes,) = plot_frontier(curves, "title", ["mine"]).axes
    mine, other = axes.lines
    assert mine.get_zorder() > other.get_zorder()
    assert mine.get_linewidth() > other.get_linewidth()


def test_points_alone_need_no_legend():
    curves = {name: [point(2.0, 0.6)] for name in ("mine", "layer-1", "always")}
    (axes,) = plot_frontier(curves, "title").axes
    assert axes.get_legend() is None
    assert [text.get_text() for text in axes.texts] == ["mine, layer-1, always"]


@pytest.fixture
def result():
    envs = NeedEnv(7, autoreset_mode=AutoresetMode.DISABLED)
    return evaluate(envs, PlanPolicy([(0,), (1,), (2,)] * 10), indices=np.arange(3, 30))


def test_extremes_by_compute(result):
    assert extremes(result) == {"easiest": [3, 6], "hardest": [29, 26]}


def test_extremes_by_difficulty(result):
    object.__setattr__(result, "difficulty", -result.indices.astype(float))
    assert extremes(result, 1) == {"easiest": [29], "hardest": [3]}


def test_numbers_of_compute_are_written_out():
    (axes,) = plot_frontier({"mine": [point(2.0, 0.6), point(30.0, 0.9)]}, "").axes
    axes.figure.draw_without_rendering()
    shown = {text.get_text() for text in axes.get_xticklabels()}
    assert {"2", "5", "10", "20"} <= shown


def test_an_episode_is_followed_from_its_start_to_the_stop():
    envs = make_vec(1, autoreset_mode="Disabled")
    moments = list(follow(envs, PlanPolicy((1, 2)), 3, 0.25))
    assert [moment.action for moment in moments] == [None, 1, 2, 0]
    assert [moment.has_ended for moment in moments] == [False] * 3 + [True]
    assert [int(moment.infos["decisions"][0]) for moment in moments] == [0, 1, 2, 3]
    assert {int(moment.infos["index"][0]) for moment in moments} == {3}


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
