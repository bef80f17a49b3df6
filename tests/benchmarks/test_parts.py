"""Every part measures, and says what in tables; figures themselves are not asserted."""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.report import Table, show, spread, table
from benchmarks.speed import run
from benchmarks.speed.common import Clock, Options, empty_cache, play_rounds, ratio
from benchmarks.speed.parts import agents, env, predictor, race, ratios, selective
from benchmarks.speed.parts import table as table_part
from dynalay_gym.errors import ConfigError
from dynalay_gym.storage.io import cache_dir


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Options:
    monkeypatch.setattr(Options, "rounds", 1)
    monkeypatch.setattr(Options, "seconds", 0.0)
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    small = {"rows": (8, 16), "batches": (4,), "presets": ("digits",)}
    return Options(out=tmp_path, quick=True, **small)


def check(tables: list[Table]) -> list[dict[str, Any]]:
    """Return the rows of tables that show something in every cell of some row."""
    assert tables
    for each in tables:
        assert each.rows
        for key, _ in each.columns.values():
            assert any(row.get(key, "") != "" for row in each.rows), key
        json.dumps(each.rows, allow_nan=False)
        assert len(each.markdown().splitlines()) == 6 + len(each.rows)
    return [row for each in tables for row in each.rows]


def test_the_environments_variants(options: Options) -> None:
    rows = check(env.measure(options))
    assert [row["variant"].split(",")[0] for row in rows] == [
        *("by hand", "by hand", "DynaLayEnv", "batched", "batched")
    ]
    assert all(row["macs_per_ns"] > 0 for row in rows)


def test_the_table_against_the_network_and_cartpole(options: Options) -> None:
    rows = check(table_part.measure(options))
    assert [row["rows"] for row in rows] == ["8", "16"]
    assert {"table", "live", "cartpole"} <= set(rows[0])


def test_the_predictor_at_all_chances(options: Options) -> None:
    rows = check(predictor.measure(options))
    assert len(rows) == 2 * len(predictor.CHANCES)
    counted = [row["counted"] for row in rows[:3]]
    assert counted == sorted(counted, reverse=True)
    assert counted[0] > 1


def test_chosen_layers_cost_less_than_all(options: Options) -> None:
    rows = check(selective.measure(options))
    backward = [row["macs_backward"] for row in rows]
    assert backward == sorted(backward)
    assert len(set(backward)) == 4


def test_trainings_and_where_their_time_goes(options: Options) -> None:
    rows = check(agents.measure(options))
    assert len(rows) == 8
    for row in rows:
        assert 0 < row["in_env"] < 1
        assert row["in_env"] + row["in_agent"] == pytest.approx(1)


def test_a_kernel_beside_pytorchs(options: Options) -> None:
    pytest.importorskip("numba", reason="needs the extra [fast]")
    from benchmarks.speed.parts import kernels

    rows = check(kernels.measure(options))
    assert [row["layer"] for row in rows] == ["1", "2", "3"]


def test_ratios_are_added_to_their_history(options: Options) -> None:
    ratios.add_to_history(options, [])
    rows = check(ratios.measure(options))
    lines = (options.out / "ratios.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 2
    line = json.loads(lines[1])
    assert line["ratios"] == rows
    assert {"date", "commit", "cpu"} <= set(line)


def test_a_way_stops_at_the_first_budget_that_reaches_the_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def train(way: Any, budget: int, seed: int, judge: Any) -> dict[str, float]:
        tried.append((budget, seed))
        return {"seconds": budget, "test_return": budget / 100 + seed}

    monkeypatch.setattr(race, "train_from_nothing", train)
    way = race.Way("some", "table", None, (10, 20, 30))  # type: ignore[arg-type]
    row = race.race(way, 1.15, None)  # type: ignore[arg-type]
    # The median of the seeds 0, 1 and 2 is what counts.
    assert row == {"way": "some", "decisions": 20, "seconds": 20, "test_return": 1.2}
    assert tried == [(b, seed) for b in (10, 20) for seed in range(3)]
    assert race.race(way, 9.0, None)["decisions"] == 30  # type: ignore[arg-type]


@pytest.mark.parametrize("name", race.BASELINES)
def test_baselines_train_on_the_same_task(name: str) -> None:
    made, like = race.BASELINES[name]()(), gym.make(race.ENV_ID)
    assert made.observation_space == like.observation_space
    expected = like.reset(seed=0, options={"index": 7})[0]
    seen = made.reset(seed=0, options={"index": 7})[0]
    np.testing.assert_allclose(seen, expected, atol=1e-4)


@pytest.mark.slow
def test_a_small_race(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = race.make_ways(2048)
    monkeypatch.setattr(race, "make_ways", lambda steps: [ways[1], ways[3]])
    rows = check(race.measure(options))
    assert [row["way"] for row in rows[:2]] == list(race.BASELINES)
    assert len(rows) == 4


def test_the_driver_writes_both_forms(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = Table("Found", "some", {"x": ("x", ".1f")}, [{"x": 1.0}])
    monkeypatch.setattr(table_part, "measure", lambda options: [found])
    monkeypatch.setitem(sys.modules, "benchmarks.speed.parts.kernels", None)
    monkeypatch.setattr(run, "PARTS", ("kernels", "table"))
    run.main(options)
    assert "kernels: not measured" in capsys.readouterr().out
    assert "| 1.0 |" in (options.out / "table.md").read_text("utf-8")
    written = json.loads((options.out / "table.json").read_text("utf-8"))
    assert written["tables"] == [
        {"title": "Found", "notes": "some", "rows": [{"x": 1.0}]}
    ]
    assert written["args"]["quick"] is True
    with pytest.raises(ConfigError, match=r"'bench'.*kernels, table"):
        run.main(Options(parts=("bench",)))


def test_every_part_exists() -> None:
    folder = Path(run.__file__).with_name("parts")
    assert set(run.PARTS) == {p.stem for p in folder.glob("*.py")} - {"__init__"}


def test_make_bench_runs_the_driver() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    assert "-m benchmarks.speed.run" in makefile.read_text(encoding="utf-8")


def test_turns_are_played_in_rounds_and_the_first_is_dropped() -> None:
    played: list[str] = []

    def turn(name: str) -> float:
        played.append(name)
        return float(len(played))

    figures = play_rounds({k: lambda k=k: turn(k) for k in "ab"}, 2)
    assert "".join(played) == "ababab"
    assert {k: v.tolist() for k, v in figures.items()} == {"a": [3, 5], "b": [4, 6]}
    assert ratio(figures["a"], figures["b"]) == pytest.approx((3 / 4 + 5 / 6) / 2)


def test_a_rate_counts_units() -> None:
    clock = Clock("cpu")
    now = iter(range(100))
    clock.__class__ = type("Fake", (Clock,), {"__call__": lambda self: next(now)})
    assert clock.rate(lambda: 3, 2.5) == 3 * 3 / 4  # looks at 0, 1, 2, 3 and 4
    assert clock.time(lambda: None) == 1
    assert clock.turn(lambda: None, 4)() == 1e6 / 4


def test_an_empty_cache_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("/somewhere", None):
        if before is None:
            monkeypatch.delenv("DYNALAY_CACHE_DIR", raising=False)
        else:
            monkeypatch.setenv("DYNALAY_CACHE_DIR", before)
        usual = cache_dir()
        with empty_cache():
            inside = cache_dir()
            assert list(inside.iterdir()) == []
        assert cache_dir() == usual
        assert not inside.exists()


def test_tables_are_markdown() -> None:
    columns = {"A": ("a", ".1f"), "B": ("b", "")}
    rows = [{"a": 1.25, "b": "x"}, {"a": spread(np.arange(5.0))}]
    lines = ["| A | B |", "| --- | --- |", "| 1.2 | x |", "| 2.0 (1.0 to 3.0) |  |"]
    assert table(columns, rows).splitlines() == lines
    assert show(1234, ",d") == "1,234"
