"""Relations: what their values are on units made up by hand, and what follows."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.__main__ import EXPERIMENTS
from benchmarks.paper.verdicts import RELATIONS, Args, main, t_interval, verdicts
from benchmarks.report import Row
from dynalay_gym.storage.io import write_json


def values(experiment: str, claim: str, rows: Sequence[Row]) -> list[float]:
    """Return the values of the one relation whose claim begins so."""
    (found,) = (
        relation
        for relation in RELATIONS
        if relation.experiment == experiment and relation.claim.startswith(claim)
    )
    return found.values(rows)


def arm(name: str, seed: int, **found: Any) -> Row:
    return {"arm": name, "seed": seed, **found}


def test_the_interval_is_students() -> None:
    # Mean 2, standard error 1 / sqrt(3); t of 2 degrees of freedom at 97.5 %: 4.3027.
    found = t_interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    assert found["low"] == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert t_interval([2.0]) == {"mean": 2.0, "low": -inf, "high": inf}


def test_an_interval_decides() -> None:
    def models(*full: float) -> list[Row]:
        return [
            arm(name, seed, all={"accuracy": each}, few={"accuracy": 0.0})
            for seed, value in enumerate(full)
            for name, each in (("Model 0", 80.0), ("Model 3", value))
        ]

    def verdict(*full: float) -> str:
        first = next(verdicts("fig6", models(*full)))
        assert first["seeds"] == len(full)
        return str(first["verdict"])

    assert verdict(84.0, 85.0, 86.0) == "holds"
    assert verdict(74.0, 75.0, 76.0) == "does not hold"
    assert verdict(79.0, 80.0, 82.0) == "not enough evidence"
    assert verdict(99.0) == "not enough evidence"


def test_the_best_of_the_others_is_what_is_compared_with() -> None:
    rows = [
        arm(name, seed, **{"K = 0": {"accuracy": 0.0}, "K = 3": {"accuracy": value}})
        for seed, own in enumerate(((80.0, 84.0, 83.0), (82.0, 83.0, 86.0)))
        for name, value in zip(("no FPI", "layer 1", "layer 3"), own, strict=True)
    ]
    assert values("fig7", "iterating layer 3", rows) == [-1.0, 3.0]
    assert values("fig7", "iterating layer 3", rows[:1]) == []


def test_shares_of_choices() -> None:
    rows = [arm("ppo", 0, test=[0.5, 0.25, 0.125, 0.125])]
    assert values("fig3", "NOP", rows) == [25.0]
    assert values("fig3", "layer 3", rows) == [0.0]
    assert values("fig3", "layer 1", rows) == [12.5]


def test_a_curve_that_has_settled() -> None:
    def settles(*returns: float) -> float:
        (found,) = values("fig5", "the reward settles", [arm("1", 0, returns=returns)])
        return found

    assert settles(0.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) == pytest.approx(0.1)
    steady = settles(*(k / 12 for k in range(12)))  # the last 3 of 12 rise by 3 / 12
    assert steady == pytest.approx(0.1 * 11 / 12 - 3 / 12)


def test_pre_trained_is_ahead_where_its_lead_is_least() -> None:
    def curve(*accuracies: float) -> list[dict[str, float]]:
        return [{"accuracy": each, "full": 1 / each} for each in accuracies]

    rows = [
        arm("pre-trained", 0, curve=curve(50, 60, 70)),
        arm("from scratch", 0, curve=curve(20, 62, 69)),
    ]
    assert values("fig4", "pre-trained is more accurate throughout", rows) == [-2.0]
    assert values("fig4", "pre-trained is more accurate at the end", rows) == [1.0]
    lower = values("fig4", "pre-trained has the lower loss", rows)
    assert lower == [pytest.approx(1 / 69 - 1 / 70)]
    assert values("fig4", "the same with as many steps", rows) == []


def test_backward_passes_are_faster_if_they_take_less() -> None:
    times = {"3-layer CNN": 2.0, "DynaLay": 1.5, "DEQ Anderson": 4.0}
    rows = [arm(name, 0, **{"backward minutes": t}) for name, t in times.items()]
    assert values("table1", "DynaLay's backward", rows) == [30.0]
    found = values("table1", "the CNN's backward passes are faster than DEQ A", rows)
    assert found == [120.0]


def test_layers_without_a_bound_have_no_relation() -> None:
    bound = {"share": 0.75, "allowed": 2.0, "apart": 0.5}
    none = {"share": None, "allowed": None, "apart": 0.5}
    rows = [arm("main network", 0, layers=[bound, {**bound, "share": 0.5}, none])]
    assert values("theory", "errors are below", rows) == [0.25]
    assert values("theory", "ten random starts", rows) == [0.75]
    assert values("theory", "errors", [arm("main network", 0, layers=[none])]) == []


def test_relations_are_of_experiments() -> None:
    assert {relation.experiment for relation in RELATIONS} <= {*EXPERIMENTS}


def test_a_folder_is_judged(tmp_path: Path, capsys: Any) -> None:
    rows = [arm("ppo", 0, test=[0.5, 0.3, 0.15, 0.05])]
    write_json(tmp_path / "fig3-digits.json", {"units": rows})
    main(Args(folder=tmp_path, dataset="digits"))
    shown = capsys.readouterr().out
    assert "| fig3 | NOP is the most frequent choice | +20 (-inf to +inf)" in shown
    assert shown.count("not enough evidence") == 3
