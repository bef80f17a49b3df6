"""Figures of a comparison of policies."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure


def plot_rows(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Return accuracy against compute, one point per policy.

    The dotted line joins *nop* and *always*: what mixing the two at random gives.

    Args:
        rows: From ``tables.make_rows``.
        title: Title of the figure.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    points = {row["policy"]: (row["compute"], row["accuracy"]) for row in rows}
    beside: Any = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8}
    for policy, point in points.items():
        axes.plot(*point, "o")
        axes.annotate(policy, point, **beside)
    ends = [points[policy] for policy in ("nop", "always") if policy in points]
    if ends:
        axes.plot(*zip(*ends, strict=True), linestyle=":", color="grey", zorder=0)
    axes.set_xlabel("compute (main network's MACs, plain pass = 1)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    return figure
