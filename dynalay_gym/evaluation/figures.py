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
    for row in rows:
        point = row["compute"], row["accuracy"]
        axes.plot(*point, "o")
        axes.annotate(
            row["policy"],
            point,
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ends = [row for row in rows if row["policy"] in ("nop", "always")]
    axes.plot(
        [row["compute"] for row in ends],
        [row["accuracy"] for row in ends],
        linestyle=":",
        color="grey",
        zorder=0,
    )
    axes.set_xlabel("compute (main network's MACs, plain pass = 1)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    return figure
