"""Pictures of a comparison of policies: the frontier, and single inputs."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.networks.policy import Infos, Policy, as_numpy

ENDS = ("nop", "always")  # of the line that mixing them gives


def plot_frontier(
    curves: Mapping[str, Sequence[dict[str, Any]]],
    title: str,
    agents: Collection[str] = (),
) -> Figure:
    """Return accuracy against compute: a line with its 95 % band, or a point, each.

    The dotted line joins *nop* and *always*: what mixing the two at random gives.

    Args:
        curves: By policy, points from ``tables.point_row``, in any order.
        title: Title of the figure.
        agents: Policies whose lines are thicker, and over those of the others.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    has_lines = any(len(points) > 1 for points in curves.values())
    names: dict[Any, list[str]] = defaultdict(list)  # beside their points, by place
    for policy, points in curves.items():
        if len(points) > 1:
            _plot_curve(axes, policy, points, policy in agents)
            continue
        place = points[0]["compute"], points[0]["accuracy"]
        own: Any = {"color": "grey"} if policy in ENDS else {}
        if has_lines and policy not in ENDS:
            own["label"] = policy
        else:
            names[round(place[0], 2), round(place[1], 3)].append(policy)
        axes.plot(*place, "o", zorder=3, **own)
    for place, policies in names.items():
        _annotate(axes, place, policies)
    if set(ENDS) <= set(curves):
        _plot_mixtures(axes, *(curves[end][0] for end in ENDS))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("compute (main network's MACs, plain pass = 1)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    return figure


def _annotate(axes: Any, place: tuple[float, float], policies: Sequence[str]) -> None:
    """Name a point: the ends below it to the right, others above it to the left."""
    is_end = not set(ENDS).isdisjoint(policies)
    how: Any = {"ha": "left", "va": "top"} if is_end else {"ha": "right"}
    axes.annotate(
        ", ".join(policies),
        place,
        xytext=(4, -4) if is_end else (-4, 4),
        textcoords="offset points",
        fontsize="small",
        **how,
    )


def _plot_curve(
    axes: Any, policy: str, points: Sequence[dict[str, Any]], is_agent: bool
) -> None:
    points = sorted(points, key=lambda point: point["compute"])
    compute = [point["compute"] for point in points]
    accuracy = [point["accuracy"] for point in points]
    how: Any = {"linewidth": 2, "zorder": 2.5} if is_agent else {"linewidth": 1}
    line = axes.plot(compute, accuracy, ".-", label=policy, **how)[0]
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


class Moment(NamedTuple):
    """Where the episode of a single row stands.

    Attributes:
        action: What was taken last; None at the start.
        infos: What the environment says, one entry per row.
        has_ended: Whether the policy has stopped.
    """

    action: int | None
    infos: Infos
    has_ended: bool


def follow(
    envs: VectorEnv, policy: Policy, index: int, penalty: float
) -> Iterator[Moment]:
    """Let a policy decide on one sample; yield the start and what follows each action.

    Args:
        envs: Environment of one row in DISABLED mode.
        policy: Chooses the actions.
        index: The sample.
        penalty: Penalty of the episode.
    """
    observations, infos = envs.reset(options={"index": index, "penalty": penalty})
    moment = Moment(None, infos, False)
    yield moment
    while not moment.has_ended:
        actions = policy.act(observations, infos)
        observations, _, terminations, _, infos = envs.step(actions)
        moment = Moment(int(as_numpy(actions)[0]), infos, bool(terminations[0]))
        yield moment


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
    deque(follow(envs, policy, index, penalty), maxlen=0)
    frames: Any = envs.render()
    picture: NDArray[np.uint8] = frames[0]
    return picture
