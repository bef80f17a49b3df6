"""The figures of a report, drawn with Matplotlib and put into the page as SVG text.

They take their colours from the page, so that they follow its light and dark form, and
are the same text for the same data.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dynalay_gym.report.files import Bin
from dynalay_gym.report.words import spans

# What Matplotlib draws, by the property of the page's style that takes its place.
_COLOURS = {
    "--ink": "#1b1f24",
    "--muted": "#808080",  # Matplotlib's grey
    "--series-1": "#d1495b",
    "--series-2": "#2f6db5",
    "--series-3": "#2a9461",
    "--series-4": "#b07d12",
    "--series-5": "#8055b8",
    "--series-6": "#1b93a8",
    "--series-7": "#b9568f",
    "--series-8": "#6f7d23",
}
SERIES = [colour for name, colour in _COLOURS.items() if name.startswith("--series")]
_INK, _MUTED = _COLOURS["--ink"], _COLOURS["--muted"]
_STYLE: Mapping[str, Any] = {
    "font.size": 11,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": _MUTED,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_SIZE, _SMALL_SIZE = (5.0, 3.6), (3.6, 2.2)  # inches; on a phone 1 pt is 1 px
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def as_svg(name: str, words: str, draw: Callable[[], Figure]) -> str:
    """Return a figure as an SVG element of a page.

    Args:
        name: Begins all ids in it: no other figure of the page may have the same one.
        words: What it shows, for those who cannot see it.
        draw: Makes the figure.
    """
    cycle = f"cycler('color', {SERIES})"
    how = {**_STYLE, "axes.prop_cycle": cycle, "svg.hashsalt": name}
    with style.context(["default", how]):
        figure, file = draw(), io.StringIO()
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    opening, _, text = file.getvalue().partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box, "Matplotlib writes one"
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.S)  # of the page
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, value in _COLOURS.items():
        text = text.replace(value, f"var({colour})")
    return f'<svg {box[0]} role="img" aria-label="{escape(words)}">{text}'


def resized(figure: Figure) -> Figure:
    """Return a figure in the size of the page's."""
    figure.set_size_inches(*_SIZE)
    return figure


def plot_shares(bins: Sequence[Bin], actions: Sequence[str]) -> Figure:
    """Return a bar per bin of difficulty, divided by the shares of the actions.

    Args:
        bins: The bins.
        actions: Names of the actions, as many as there are `SERIES` at most.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes, names = figure.subplots(), spans(bins)
    for number, action in enumerate(actions):
        shares = [100 * each.actions[number] for each in bins]
        before = [100 * sum(each.actions[:number]) for each in bins]
        axes.barh(names, shares, 0.7, left=before, label=action, color=SERIES[number])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of decisions (%)")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=4, fontsize="small")
    return figure


def plot_compute(curves: Mapping[str, Sequence[Bin]], difficulty: str) -> Figure:
    """Return compute against difficulty; the first policy's with its middle half."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for number, (policy, bins) in enumerate(curves.items()):
        middles = [sum(each.difficulty) / 2 for each in bins]
        mean = [each.compute for each in bins]
        axes.plot(middles, mean, ".-", linewidth=1 if number else 2, label=policy)
        if number == 0:
            quartiles = zip(*(each.compute_quartiles for each in bins), strict=True)
            low, _, high = map(list, quartiles)
            axes.fill_between(middles, low, high, alpha=0.15, color=SERIES[0])
    axes.set(xlabel=difficulty, ylabel="compute (plain pass = 1)", ylim=(0, None))
    figure.legend(loc="outside upper left", ncols=5, fontsize="small")
    return figure


def plot_metric(points: Sequence[tuple[int, float]]) -> Figure:
    """Return the curve of a metric over the decisions of a training."""
    figure = Figure(figsize=_SMALL_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), ".-" if len(points) < 30 else "-")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
    axes.set_xlabel("decisions")
    return figure
