"""Figure 4: what the arms have before their joint training, and how they differ."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.experiment import Setting
from benchmarks.paper.fig4 import Fig4


@pytest.mark.slow
def test_arms_differ_in_what_they_begin_with(tmp_path: Path) -> None:
    setting = Setting(dataset="digits", epochs=2, decisions=8_192)
    rows = {
        arm: Fig4().run(arm, 0, setting, tmp_path / f"fig4-digits/{arm}-0")
        for arm in Fig4.arms
    }
    for row in rows.values():
        progress = [point["progress"] for point in row["curve"]]
        assert progress == sorted(progress)
        assert 0 <= progress[0] < progress[-1] == 1
        assert all(0 <= point["accuracy"] <= 100 for point in row["curve"])
    pre_trained, from_scratch, longer = (row["main_steps"] for row in rows.values())
    assert pre_trained == pytest.approx(from_scratch, rel=0.2)  # turns are whole
    extra = 2 * (7_200 // 128)  # all shifts of 800 digits, twice
    assert longer - from_scratch == pytest.approx(extra, abs=3)
    first = {arm: row["curve"][0]["plain"] for arm, row in rows.items()}
    assert first["pre-trained"] < first["from scratch"]


def test_the_table_pairs_seeds() -> None:
    def unit(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
        end = dict.fromkeys(("compute", "return", "plain", "full"), 1.0)
        curve = [end | {"accuracy": a, "progress": a} for a in (0.0, accuracy)]
        return {"arm": arm, "seed": seed, "curve": curve, "main_steps": 10}

    rows = [
        unit("pre-trained", 0, 0.75),
        unit("pre-trained", 1, 1.0),
        unit("longer", 0, 0.5),
        unit("longer", 1, 0.5),
    ]
    (table,) = Fig4().tables(rows, Setting())
    first, other = table.rows
    assert "more" not in first
    assert other["more"] == {"mean": -0.375, "low": -0.5, "high": -0.25}
    assert len(Fig4().draw(rows, Setting()).axes) == 2
