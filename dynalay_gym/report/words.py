"""Values of a run in the words of its report."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from dynalay_gym.evaluation.tables import format_measure
from dynalay_gym.report.files import Bin, Measured, Step


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def spans(bins: Sequence[Bin]) -> list[str]:
    """Return bins of difficulty in words."""
    ends = (map(short, each.difficulty) for each in bins)
    return [low if low == high else f"{low} to {high}" for low, high in ends]


def short(number: float | None) -> str:
    """Return a difficulty in words: a whole number, or one with two decimals."""
    if number is None:
        return "–"
    return f"{number:.0f}" if number == round(number) else f"{number:.2f}"


def in_words(value: Any) -> str:
    """Return a value of a run's files in words."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    return str(value)


def path_words(steps: Sequence[Step]) -> str:
    """Return the actions of a path in words, equal ones together."""
    groups = groupby(step.action for step in steps[1:])
    counted = ((action, len(list(group))) for action, group in groups)
    return ", ".join(f"{a} × {num}" if num > 1 else a for a, num in counted)


def measure(numbers: Measured, name: str, part: str = "measures") -> str:
    """Return a measure of a frontier in words."""
    if part == "lead" and None in numbers:  # one of the two never gets there
        return "–"
    known = [math.inf if number is None else number for number in numbers]
    return format_measure(name, known, part)


def measure_title(name: str) -> str:
    """Return the heading of a measure's column: ``accuracy at 10 %``."""
    kind, _, share = name.partition("@")
    how = "at" if kind == "accuracy" else "for"
    return f"{kind} {how} {100 * float(share):g} %" if share else kind


FILTERS = {
    each.__name__: each
    for each in (percent, short, in_words, path_words, measure, measure_title)
}
