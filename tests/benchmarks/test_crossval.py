"""Cross-validation: who is held out, and which weight is chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.options import Options
from benchmarks.paper.crossval import CrossValidation, folds
from benchmarks.paper.experiment import Setting
from dynalay_gym.data.splits import Split


def test_every_sample_is_held_out_once_and_groups_stay_together() -> None:
    groups = torch.arange(400) // 4
    split = Split(torch.arange(400.0)[:, None], torch.zeros(400).long(), groups)
    held_out = []
    for learn, held in folds(split):
        assert len(learn) + len(held) == 400
        assert not set(learn.groups.tolist()) & set(held.groups.tolist())
        assert 11 <= len(held.groups.unique()) <= 12
        held_out += held.inputs[:, 0].tolist()
    assert sorted(held_out) == list(range(400))
    first, second = ([h.groups.tolist() for _, h in folds(split)] for _ in range(2))
    assert first == second


def row(arm: str, accuracy: list[float], compute: float) -> dict[str, Any]:
    parts = {"accuracy": accuracy, "compute": [compute] * 9}
    return {"arm": arm, "seed": 0, "penalty": 0.1} | parts


def test_the_cheapest_within_a_standard_error_of_the_best_is_chosen() -> None:
    # Two seeds whose mean has 90, 92 and 94: standard error 1.732 / 3 = 0.577.
    rows = [
        row("0", [89.0, 91.0, 93.0] * 3, 3.0),
        row("0", [91.0, 93.0, 95.0] * 3, 3.0),
        row("1", [91.5] * 9, 2.0),
        row("2", [91.3] * 9, 1.0),
    ]
    (table,) = CrossValidation().tables(rows, Setting())
    assert table.rows[0]["error"] == pytest.approx(0.57735, abs=1e-4)
    assert "Chosen: 1," in table.notes
    assert len(CrossValidation().draw(rows, Setting()).axes) == 1


def test_a_weight_is_in_break_evens_or_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fold(options: Options, decisions: int | None, *parts: Split) -> dict[str, Any]:
        asked.append((options.penalty, decisions, sum(map(len, parts))))
        return {"accuracy": 90.0, "compute": 2.0}

    where = "benchmarks.paper.crossval"
    monkeypatch.setattr(f"{where}._fold", fold)
    monkeypatch.setattr(f"{where}.agent_penalty", lambda *_: 0.02)
    monkeypatch.setattr(f"{where}.shared_network", lambda *_: tmp_path)
    setting = Setting(dataset="digits", decisions=7)
    num = len(setting.splits()["agent"])
    for arm, penalty in (("0.5", "0.01"), ("0", "0.0"), ("paper 0.3", "0.3")):
        asked.clear()
        found = CrossValidation().run(arm, 0, setting, tmp_path / f"a/{arm}-0")
        assert asked == [(penalty, 7, num)] * 9
        assert found["accuracy"] == [90.0] * 9
