"""Values of a run in words."""

import pytest

from dynalay_gym.report.files import Bin, Step
from dynalay_gym.report.words import (
    in_words,
    measure,
    measure_title,
    path_words,
    percent,
    short,
    spans,
)


def test_paths_say_equal_actions_together() -> None:
    steps = [
        Step(action=action, answer="1", is_right=True, compute=1.0)
        for action in ("", "layer 1", "layer 2", "layer 2", "stop")
    ]
    assert path_words(steps) == "layer 1, layer 2 × 2, stop"
    assert path_words(steps[:1]) == ""


def test_bins_are_spans_or_single_numbers() -> None:
    ends = ((2.0, 10.0), (12.0, 12.0), (0.004, 0.184))
    bins = [
        Bin(
            difficulty=each,
            num=1,
            accuracy=1.0,
            compute=1.0,
            compute_quartiles=(1.0, 1.0, 1.0),
            actions=[1.0],
        )
        for each in ends
    ]
    assert spans(bins) == ["2 to 10", "12", "0.00 to 0.18"]
    assert [short(None), short(3.0), short(0.125)] == ["–", "3", "0.12"]


def test_measures_of_frontiers() -> None:
    assert measure((0.5, 0.4, 0.7), "compute@0.95") == "50.0 ± 15.0"
    assert measure((None, None, None), "compute@0.95") == "never"
    assert measure((-0.5, None, 0.7), "compute@0.95", "lead") == "–"
    assert measure((0.1, -0.1, 0.3), "area", "lead") == "(+10.0)"
    titles = [measure_title(name) for name in ("accuracy@0.1", "compute@0.95", "area")]
    assert titles == ["accuracy at 10 %", "compute for 95 %", "area"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        ([1, "a"], "1, a"),
        ({"a": None, "b": [2]}, "a –, b 2"),
        (True, "True"),
    ],
)
def test_values_of_files(value: object, text: str) -> None:
    assert in_words(value) == text
    assert percent(0.0423) == "4.2\N{NO-BREAK SPACE}%"
