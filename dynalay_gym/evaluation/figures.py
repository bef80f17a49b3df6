"""Pictures of a comparison of policies: the frontier, and single inputs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.networks.policy import Policy


def plot_frontier(curves: Mapping[str, Sequence[dict[str, Any]]], title: str) -> Figure:
    """Return accuracy against compute: a line with its 95 % band, or a point, each.

    The dotted line joins *nop* and *always*: what mixing the two at random gives.

    Args:
        curves: By policy, points from ``tables.point_row``, in any order.
        title: Title of the figure.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    names: dict[Any, list[str]] = defaultdict(list)  # of single points, by place
    for policy, points in curves.items():
        if len(points) > 1:
            _plot_curve(axes, policy, points)
            continue
        place = points[0]["compute"], points[0]["accuracy"]
        axes.plot(*place, "o")
        names[round(place[0], 2), round(place[1], 3)].append(policy)
    beside: Any = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8}
    for place, policies in names.items():
        axes.annotate(", ".join(policies), place, **beside)
    if {"nop", "always"} <= set(curves):
        _plot_mixtures(axes, curves["nop"][0], curves["always"][0])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.set_xlabel("compute (main network's MACs, plain pass = 1)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    return figure


def _plot_curve(axes: Any, policy: str, points: Sequence[dict[str, Any]]) -> None:
    points = sorted(points, key=lambda point: point["compute"])
    compute = [point["compute"] for point in points]
    accuracy = [point["accuracy"] for point in points]
    line = axes.plot(compute, accuracy, ".-", linewidth=1, label=policy)[0]
    ends = np.transpose([point["accuracy_interval"] for point in points])
    axes.fill_between(compute, *ends, alpha=0.08, color=line.get_color())


def _plot_mixtures(axes: Any, nop: dict[str, Any], always: dict[str, Any]) -> None:
    share = np.linspace(0.0, 1.0, 50)
    ends = ((nop[key], always[key]) for key in ("compute", "accuracy"))
    x, y = (low + share * (high - low) for low, high in ends)
    axes.plot(x, y, linestyle=":", color="grey", zorder=0)


def extremes(result: EvaluationResult, num: int = 2) -> dict[str, list[int]]:
    """Return the easiest and the hardest samples of the split, the extreme ones first.

    Args:
        result: An evaluation; the data set's difficulty decides, and where it has none
            the compute that the policy spent.
        num: How many of each.
    """
    known = np.isfinite(result.difficulty).all()
    hard = result.difficulty if known else result.macs
    order = result.indices[np.argsort(hard, kind="stable")]
    return {"easiest": order[:num].tolist(), "hardest": order[::-1][:num].tolist()}


def draw_path(
    envs: VectorEnv, policy: Policy, index: int, penalty: float
) -> NDArray[np.uint8]:
    """Return a picture of one sample at the stop, the actions taken in its title.

    Args:
        envs: Environment of one row in DISABLED mode with ``render_mode="rgb_array"``.
        policy: Chooses the actions.
        index: The sample.
        penalty: Penalty of the episode.

    Returns:
        uint8 [H, W, 3].
    """
    observations, infos = envs.reset(options={"index": index, "penalty": penalty})
    has_ended = False
    while not has_ended:
        actions = policy.act(observations, infos)
        observations, _, terminations, _, infos = envs.step(actions)
        has_ended = bool(terminations[0])
    frames: Any = envs.render()
    picture: NDArray[np.uint8] = frames[0]
    return picture
