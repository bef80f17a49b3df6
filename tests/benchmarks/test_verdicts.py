"""Relations: what their values are on units made up by hand, and what follows."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.__main__ import EXPERIMENTS
from benchmarks.paper.relations import RELATIONS
from benchmarks.paper.verdicts import Args, main, t_interval, verdicts
from benchmarks.report import Row
from dynalay_gym.errors import ConfigError
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
    assert verdict(81.0, 81.0) == "not enough evidence"


def test_layer_3_is_compared_with_every_other_arm() -> None:
    def unit(name: str, accuracy: float, loss: float) -> Row:
        last = {"accuracy": accuracy, "loss": loss}
        return arm(name, 0, **{"K = 0": {"accuracy": 0.0, "loss": 9.0}, "K = 3": last})

    rows = [unit("layer 3", 84.0, 0.4), unit("all", 83.0, 0.3)]
    assert values("fig7", "layer 3 iterated: more accurate than all", rows) == [1.0]
    lower = values("fig7", "layer 3 iterated: a lower loss than all", rows)
    assert lower == [pytest.approx(-0.1)]


def test_shares_of_choices() -> None:
    rows = [arm("ppo", 0, test=[0.5, 0.25, 0.125, 0.125])]
    assert values("fig3", "to stop", rows) == [25.0]
    assert values("fig3", "layer 1", rows) == [12.5]
    assert values("fig3", "layer 2", rows) == [0.0]
    two_layers = [arm("ppo", 0, test=[0.5, 0.3, 0.2])]
    assert values("fig3", "layer 1", two_layers) == []


def test_a_curve_that_has_settled() -> None:
    def settles(*returns: float) -> float:
        (found,) = values("fig5", "the reward settles", [arm("1", 0, returns=returns)])
        return found

    assert settles(0.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) == pytest.approx(0.1)
    steady = settles(*(k / 12 for k in range(12)))  # the last 3 of 12 rise by 3 / 12
    assert steady == pytest.approx(0.1 * 11 / 12 - 3 / 12)
    assert settles(0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1) < 0  # it has collapsed


def test_layers_are_chosen_less_often_at_a_high_penalty() -> None:
    rows = [
        arm("0.25", 0, shares=[0.4, 0.3, 0.2, 0.1]),
        arm("4", 0, shares=[0.9, 0.1, 0.0, 0.0]),
    ]
    assert values("fig5", "layers are chosen", rows) == [pytest.approx(50)]


def test_pre_trained_is_ahead_where_its_lead_is_least() -> None:
    def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
        return [{"progress": p, "accuracy": a, "full": 1 / a} for p, a in points]

    rows = [  # the first curve has a point before the joint training begins
        arm("pre-trained", 0, curve=curve((0.0, 50), (0.5, 60), (1.0, 70))),
        arm("from scratch", 0, curve=curve((0.25, 20), (0.75, 67), (1.0, 69))),
    ]
    assert values("fig4", "pre-trained is more accurate throughout", rows) == [-2.0]
    assert values("fig4", "pre-trained is more accurate at the end", rows) == [1.0]
    lower = values("fig4", "pre-trained ends with a lower loss", rows)
    assert lower == [pytest.approx(1 / 69 - 1 / 70)]
    rows[1] = {**rows[1], "arm": "longer"}
    assert values("fig4", "the same, from scratch with as many", rows) == [1.0]


def test_losses_fall() -> None:
    losses = [{"test": {"all layers": {"loss": each}}} for each in (2.0, 3.0, 0.5)]
    assert values("fig2", "the test loss", [arm("main network", 0, epochs=losses)]) == [
        1.5
    ]


def test_what_an_agent_saves_and_earns() -> None:
    ppo, nop = {"return": 0.5, "extra": {"mean": 0.25}}, {"return": 0.375}
    rows = [arm("ppo", 0, test={"ppo": ppo, "nop": nop})]
    assert values("cost", "the agent takes less", rows) == [75.0]
    assert values("cost", "the agent's return is above that of nop", rows) == [0.125]
    assert values("cost", "the agent's return is above that of always", rows) == []


def test_compute_that_is_the_same_for_all_inputs_has_no_correlation() -> None:
    rows = [arm("ppo", k, loss={"correlation": c}) for k, c in enumerate((0.5, None))]
    assert values("difficulty", "inputs with", rows) == [0.5, 0.0]


def test_backward_passes_are_faster_if_they_take_less() -> None:
    times = {"3-layer CNN": 2.0, "DynaLay": 1.5, "DEQ Anderson": 4.0}
    rows = [
        arm(name, 0, accuracy=t, **{"backward minutes": t}) for name, t in times.items()
    ]
    assert values("table1", "DynaLay's backward", rows) == [30.0]
    found = values("table1", "the CNN's backward passes are faster than DEQ A", rows)
    assert found == [120.0]
    assert values("table1", "DynaLay is more accurate than 3", rows) == [-0.5]


def test_layers_without_a_bound_have_no_relation() -> None:
    bound = {"share": 0.75, "allowed": 2.0, "apart": 0.5}
    none = {"share": None, "allowed": None, "apart": 0.5}
    rows = [arm("main network", 0, layers=[bound, {**bound, "share": 0.5}, none])]
    assert values("theory", "errors are below", rows) == [0.25]
    assert values("theory", "ten random starts", rows) == [0.75]
    assert values("theory", "errors", [arm("main network", 0, layers=[none])]) == []


def test_relations_are_of_arms_that_experiments_have() -> None:
    for relation in RELATIONS:
        assert {*relation.arms} <= {*EXPERIMENTS[relation.experiment].arms}


def test_relations_whose_arms_are_missing_are_left_out() -> None:
    rows = [arm("Model 3", 0, all={"accuracy": 1.0}, few={"accuracy": 1.0})]
    assert [*verdicts("fig6", rows)] == []


def test_a_folder_is_judged(tmp_path: Path, capsys: Any) -> None:
    rows = [arm("ppo", 0, test=[0.5, 0.3, 0.15, 0.05])]
    write_json(tmp_path / "fig3-digits.json", {"units": rows})
    main(Args(folder=tmp_path, dataset="digits"))
    shown = capsys.readouterr().out
    assert "layer 2 | paper | +15 (-inf to +inf) | points | 1 | not enough" in shown
    assert shown.count("not enough evidence") == 3
    with pytest.raises(ConfigError, match="no results on maze"):
        main(Args(folder=tmp_path, dataset="maze"))
