"""The limitations that DynaLay's authors name, measured.

``memory`` that a training step keeps, by gradient and iterations; ``convergence`` of
solves, by form and contraction bound, and by ``activation``; the ``agent``, beside the
network that it decides for; and the ``growth`` of compute with the size of a network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    mean_and_range,
    of_arm,
)
from benchmarks.paper.limits_activations import ACTIVATIONS, activations
from benchmarks.paper.limits_costs import ITERATIONS, agent, growth
from benchmarks.paper.limits_solves import BATCH, COMMON, Entry, convergence, memory
from benchmarks.report import Columns, Row, Table

_MEASURES = {
    "memory": memory,
    "convergence": convergence,
    "activation": activations,
    "agent": agent,
    "growth": growth,
}


class Limits(Experiment):
    """Memory, convergence, the agent and growth; see `Experiment`."""

    name = "limits"
    title = "Limitations"
    arms = tuple(_MEASURES)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Measure one of the limitations."""
        return {"entries": _MEASURES[arm](setting, seed, folder)}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return a table of each arm."""
        return [
            Table(*_WORDS[arm], _COLUMNS[arm], summary(of_arm(rows, arm)))
            for arm in arms_of(rows)
        ]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return a panel of each arm, with means over seeds."""
        arms = arms_of(rows)
        figure = Figure(figsize=(4.2 * len(arms), 3.6), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(arms)))
        for axes, arm in zip(panels, arms, strict=True):
            _PANELS[arm](axes, summary(of_arm(rows, arm)))
            axes.set_title(arm)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
        return figure


def summary(rows: Sequence[Row]) -> list[Entry]:
    """Return an arm's entries, with mean, lowest and highest of what seeds change.

    Times of single samples are in milliseconds.
    """
    found = []
    for same in zip(*(row["entries"] for row in rows), strict=True):
        entry = dict(same[0])
        for name in entry.keys() - _SAME:
            scale = 60_000 if name in _SHORT else 1
            entry[name] = mean_and_range([scale * each[name] for each in same])
        found.append(entry)
    return found


def _draw_memory(axes: Any, entries: Sequence[Entry]) -> None:
    steps = [entry["steps"] for entry in entries]
    for rule in ("implicit", "unroll"):
        kept = [entry[rule]["mean"] / 2**10 for entry in entries]
        axes.plot(steps, kept, "o-", label=rule)
    axes.set_xlabel("iterations of each solve")
    axes.set_ylabel("kept for a sample, KiB")


def _draw_convergence(axes: Any, entries: Sequence[Entry]) -> None:
    """Draw a line of each form; a network without a bound is drawn at 1."""
    curves = dict[str, dict[float, list[float]]]()
    for entry in entries:
        curve = curves.setdefault(f"{entry['form']}, {entry['weights']}", {})
        at = curve.setdefault(entry.get("kappa", 1.0), [])
        at.append(entry["common iterations"]["mean"])
    for label, curve in curves.items():
        means = [np.mean(each) for each in curve.values()]
        axes.plot([*curve], means, "o-", label=label)
    axes.set_xlabel("bound of the contraction (1: none)")
    axes.set_ylabel(f"iterations to {COMMON.rtol:g}, mean over layers")


def _draw_activation(axes: Any, entries: Sequence[Entry]) -> None:
    """Draw the iterations with each activation, a line of each network."""
    for label in dict.fromkeys(f"{e['form']}, {e['weights']}" for e in entries):
        own = [e for e in entries if f"{e['form']}, {e['weights']}" == label]
        axes.plot([e["iterations"]["mean"] for e in own], "o", label=label)
    axes.set_xticks(range(len(ACTIVATIONS)), [*ACTIVATIONS], rotation=40, ha="right")
    axes.set_ylabel(f"iterations to {COMMON.rtol:g}, mean over layers")


def _draw_agent(axes: Any, entries: Sequence[Entry]) -> None:
    own = next(entry for entry in entries if entry["part"] == "agent")
    shares = ("parameters share", "macs share", "minutes share")
    labels = ("parameters", "multiply-adds\nof a decision", "training\ntime")
    axes.bar(labels, [own[name]["mean"] for name in shares])
    axes.set_ylabel("the agent's, % of the network's")


def _draw_growth(axes: Any, entries: Sequence[Entry]) -> None:
    """Draw how many times as much a network takes as the smallest of its kind."""
    for num, what in enumerate(dict.fromkeys(entry["what"] for entry in entries)):
        own = [entry for entry in entries if entry["what"] == what]
        sizes = np.array([entry["size"] for entry in own])
        macs = np.array([entry["iterated"] for entry in own])
        times = np.array([entry["iterated minutes"]["mean"] for entry in own])
        how: Any = {"base": 2, "color": f"C{num}"}
        axes.loglog(sizes / sizes[0], macs / macs[0], "o-", label=what, **how)
        axes.loglog(sizes / sizes[0], times / times[0], "x--", **how)
    axes.set_xlabel("size (the smallest: 1)")
    axes.set_ylabel("multiply-adds (dashed: time) of\neverything iterated")


_PANELS = {
    "memory": _draw_memory,
    "convergence": _draw_convergence,
    "activation": _draw_activation,
    "agent": _draw_agent,
    "growth": _draw_growth,
}
_SHORT = {"plain minutes", "iterated minutes"}  # times of one sample
# What no seed changes: what an entry is about, and closed forms.
_SAME = {
    *("steps", "form", "map", "weights", "kappa", "layer", "rtol", "allowed"),
    *("activation", "slope"),
    *("part", "parameters", "what", "size", "plain", "iterated"),
}
_SEEDS = "means over seeds, lowest and highest in brackets."
_WORDS = {
    "memory": (
        "Memory of a training step",
        "Bytes that autograd keeps for the backward pass for each sample of a batch: "
        f"what {2 * BATCH} samples need beyond {BATCH}. Fresh weights, everything "
        f"iterated; {_SEEDS}",
    ),
    "convergence": (
        "Convergence of solves",
        "Test samples; solves end at a relative residual below the tolerance, or else "
        "are capped: by the network's own tolerance and most iterations, and by common "
        f"ones, {COMMON.rtol:g} and {COMMON.max_steps}; {_SEEDS}",
    ),
    "activation": (
        "Convergence by activation",
        "The solves of convolutional layers with other functions in place of their "
        f"ReLU, for the same input and weights, to {COMMON.rtol:g} in at most "
        f"{COMMON.max_steps} iterations; slope is a function's steepest; test samples, "
        f"means over layers and seeds, lowest and highest seed in brackets.",
    ),
    "agent": (
        "The agent beside its network",
        "Multiply-adds of a decision, a plain pass, or a solve (test samples); the "
        "processor's minutes of the training: the agent's, on the table of the "
        "network's states (whose making is not in them), and the network's; shares of "
        f"the network's; {_SEEDS}",
    ),
    "growth": (
        "Growth of compute",
        f"Of a sample, {ITERATIONS} iterations in every solve, fresh weights; the "
        f"processor's time is of batches of {BATCH}; {_SEEDS}",
    ),
}
_COLUMNS: dict[str, Columns] = {
    "memory": {
        "iterations": ("steps", "d"),
        "taken": ("taken", ".1f"),
        "implicit, bytes": ("implicit", ",.0f"),
        "unrolled, bytes": ("unroll", ",.0f"),
    },
    "convergence": {
        "form": ("form", ""),
        "map": ("map", ""),
        "weights": ("weights", ""),
        "bound": ("kappa", ".2f"),
        "layer": ("layer", "d"),
        "tolerance": ("rtol", "g"),
        "most": ("allowed", "d"),
        "iterations": ("iterations", ".2f"),
        "largest": ("largest", ".0f"),
        "capped, %": ("capped", ".1f"),
        "common: iterations": ("common iterations", ".2f"),
        "common: capped, %": ("common capped", ".1f"),
    },
    "activation": {
        "form": ("form", ""),
        "weights": ("weights", ""),
        "bound": ("kappa", ".2f"),
        "activation": ("activation", ""),
        "slope": ("slope", ".3g"),
        "iterations": ("iterations", ".2f"),
        "largest": ("largest", ".0f"),
        "capped, %": ("capped", ".1f"),
    },
    "agent": {
        "part": ("part", ""),
        "parameters": ("parameters", ",.0f"),
        "%": ("parameters share", ".1f"),
        "multiply-adds": ("macs", ",.0f"),
        "of the plain pass, %": ("macs share", ".1f"),
        "minutes": ("minutes", ".2f"),
        "of the network's, %": ("minutes share", ".1f"),
    },
    "growth": {
        "what": ("what", ""),
        "size": ("size", "d"),
        "plain, multiply-adds": ("plain", ",.0f"),
        "iterated, multiply-adds": ("iterated", ",.0f"),
        "plain, ms": ("plain minutes", ".3f"),
        "iterated, ms": ("iterated minutes", ".3f"),
    },
}
