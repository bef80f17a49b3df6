"""Does what the predictor skips become time? Realised against counted speed-up.

Every image gets a plan by a seeded choice, so that a given share of the multiply-adds
of iterating everything is skipped; the agent's network runs, and its answer is put
aside for the plan: at every decision (*step by step*), or once (*at once*), after which
the predictor knows the whole plan. Ratios are against *always*: one lean pass with
every layer iterated and nothing around it. There are two of it: *by hand*, as one would
write it in PyTorch (the faster of two memory formats), and the *package's own*, by the
same compiled functions as the predictor's.

- ``realised``: time of always over the predictor's.
- ``attainable``: the same with the predictor's time replaced by that of what cannot be
  skipped: the plain pass, and the kept share of the rest, both of the same kind as
  always.
- ``masked``: plain pass and always for every image, then select.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.common import (
    Clock,
    Options,
    Turn,
    play_rounds,
    ratio,
    result,
    section,
    show,
    spread,
    table,
)
from benchmarks.skipping import KINDS, PACKAGE, Skipping, infer_all, walk
from benchmarks.subjects import load_subject
from dynalay_gym.predictor.predictor import DynaLayPredictor

SKIPPED = (0.3, 0.5, 0.7)


def run(options: Options) -> dict[str, Any]:
    """Measure every preset."""
    found = {name: measure(name, options) for name in options.presets}
    text = "\n".join(found[name].pop("markdown") for name in found)
    return result(text, clock=Clock(options.device).name, presets=found)


def measure(name: str, options: Options) -> dict[str, Any]:
    """One network at all batch sizes and shares."""
    subject, clock = load_subject(name, options), Clock(options.device)
    sizes = {batch: num_images(batch, options.quick) for batch in options.batches}
    bench = Skipping(subject, max(sizes.values()), options.device)
    rounds = 3 if options.quick else 5
    cells = [
        cell
        for batch, num in sizes.items()
        for cell in measure_batch(bench, batch, num, clock, rounds)
    ]
    agent_macs = bench.agent.macs_per_decision
    notes = (
        f"{subject.about}; {clock.name}, {rounds} rounds, {options.num_threads} "
        f"thread(s), {options.device}; agent {agent_macs:,} MACs per decision, "
        f"{agent_macs / bench.plain_macs:.1%} of the plain pass; always "
        f"{bench.always_macs.mean() / bench.plain_macs:.1f} plain passes"
    )
    text = section(f"Inference, {name}", notes, format_cells(cells))
    return {"markdown": text, "network": subject.about, "cells": cells}


def num_images(batch: int, quick: bool) -> int:
    """Images of a turn: a few batches, and not too few images."""
    return max(32, 2 * batch) if quick else max(128, 8 * batch)


def measure_batch(
    bench: Skipping, batch: int, num: int, clock: Clock, rounds: int
) -> list[dict[str, Any]]:
    """Both kinds of policy at all shares and one batch size; variants take turns."""
    batches = list(bench.inputs[:num].split(batch))
    paths = {"always": 2**bench.model.num_layers - 1, "plain": 0}
    variants: dict[str, Turn] = {
        f"{what}: {name}": over_batches(one, batches, clock)
        for what, path in paths.items()
        for name, one in bench.lean(path).items()
    }
    predictors = {
        f"{kind.name}, {share:.0%}": bench.predictor(
            kind, bench.mixture(kind, num, share)
        )
        for kind in KINDS
        for share in SKIPPED
    }
    for name, predictor in predictors.items():
        variants[name] = predicting(predictor, batches, clock)
    seconds = play_rounds(variants, rounds)
    times = {name: spread(1e6 * took / num) for name, took in seconds.items()}
    about = {"batch": batch, "images": num, "us_per_image": times}
    bases = {
        "by_hand": {what: seconds[fastest(seconds, what)] for what in paths},
        "own": {what: seconds[f"{what}: {PACKAGE}"] for what in paths},
    }
    cells = []
    for name, predictor in predictors.items():
        counts = macs_of(bench, predictor, batches)
        figures = {
            kind: speed_ups(counts, seconds[name], **base)
            for kind, base in bases.items()
        }
        cells.append({"policy": name} | about | counts | figures)
    return cells


def over_batches(
    one: Callable[[Tensor], Any], batches: list[Tensor], clock: Clock
) -> Turn:
    """A turn: seconds that a pass takes for all batches."""

    def turn() -> float:
        began = clock()
        for batch in batches:
            one(batch)
        return clock() - began

    return turn


def predicting(
    predictor: DynaLayPredictor, batches: list[Tensor], clock: Clock
) -> Turn:
    """A turn: seconds that a predictor takes for all batches."""

    def turn() -> float:
        began = clock()
        infer_all(predictor, batches)
        return clock() - began

    return turn


def fastest(seconds: dict[str, np.ndarray], what: str) -> str:
    """The variant by hand of the smallest median."""
    names = [name for name in seconds if name.startswith(f"{what}: by hand")]
    return min(names, key=lambda name: float(np.median(seconds[name])))


def macs_of(
    bench: Skipping, predictor: DynaLayPredictor, batches: list[Tensor]
) -> dict[str, float]:
    """Counted speed-up, and the share of what can be skipped that was kept."""
    own, agent = walk(predictor, batches)
    always, plain = bench.always_macs[: len(own)].mean(), bench.plain_macs
    return {
        "skipped": float(1 - (own.mean() + agent) / always),
        "counted": float(always / (own.mean() + agent)),
        "kept": float((own.mean() - plain) / (always - plain)),
    }


def speed_ups(
    counts: dict[str, float], took: np.ndarray, always: np.ndarray, plain: np.ndarray
) -> dict[str, Any]:
    """Realised and attainable speed-up, from seconds per round."""
    bound = plain + counts["kept"] * (always - plain)
    return {
        "realised": spread(always / took),
        "realised_over_counted": ratio(always / took, counts["counted"]),
        "attainable": ratio(always, bound),
        "realised_over_attainable": ratio(bound, took),
        "masked": ratio(always, always + plain),
    }


def format_cells(cells: list[dict[str, Any]]) -> str:
    """Markdown table."""
    head = ["batch", "agent", "skipped", "counted"]
    for base in ("by hand", "own"):
        head += [f"realised, {base} (quartiles)", "÷ counted", "÷ attainable"]
    head += ["masked", *(f"µs {what} (own, by hand)" for what in ("always", "plain"))]
    lines = []
    for cell in cells:
        line = [str(cell["batch"]), cell["policy"].split(",")[0]]
        line += [f"{cell['skipped']:.0%}", f"{cell['counted']:.2f}"]
        for base in (cell["by_hand"], cell["own"]):
            line += [show(base["realised"], ".2f")]
            line += [f"{base['realised_over_counted']:.2f}"]
            line += [f"{base['realised_over_attainable']:.2f}"]
        line += [f"{cell['by_hand']['masked']:.2f}"]
        line += [lean_times(cell["us_per_image"], what) for what in ("always", "plain")]
        lines.append(line)
    return table(head, lines)


def lean_times(times: dict[str, dict[str, float]], what: str) -> str:
    """Median times of the package's own lean pass, and of the best one by hand."""
    lean = {name: t["median"] for name, t in times.items() if name.startswith(what)}
    package = lean.pop(f"{what}: {PACKAGE}")
    return f"{package:.0f}, {min(lean.values()):.0f}"
