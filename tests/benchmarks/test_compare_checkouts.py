"""Two checkouts take turns, each with its own packages."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import compare_checkouts
from benchmarks.speed.compare_checkouts import Args, Worker, main
from benchmarks.speed.workloads import WORKLOADS
from dynalay_gym.errors import ConfigError

ROOT = Path(__file__).parents[2]
OWN = """
import os, sys
def make():
    assert sys.path[0] == os.getcwd()
    return lambda: 1_000_000
def fail():
    raise SystemExit("no such work")
WORKLOADS = {"some work": make, "a failure": fail}
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks" / "speed"
    folder.mkdir(parents=True)
    (folder / "workloads.py").write_text(OWN, encoding="utf-8")
    return tmp_path


def test_a_worker_runs_in_its_checkout(other: Path) -> None:
    worker = Worker(other, other / "benchmarks/speed/workloads.py", "some work")
    try:
        assert 0 <= worker.turn(0.0) < 1
        assert worker.turn(0.01) > 0
    finally:
        worker.close()


def test_a_failure_is_reported(other: Path) -> None:
    with pytest.raises(ConfigError, match="failed"):
        Worker(other, other / "benchmarks/speed/workloads.py", "a failure")


def test_figures_are_written(
    other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = other / "ours.py"
    ours.write_text(OWN, encoding="utf-8")
    made = []

    class Fake:
        def __init__(self, checkout: Path, workloads: Path, name: str) -> None:
            made.append((checkout, workloads, name))
            self.figure = 1.0 if checkout == ROOT else 3.0

        def turn(self, seconds: float) -> float:
            self.figure *= 2  # both double, so that the ratio stays
            return self.figure

        def close(self) -> None:
            made.append("closed")

    monkeypatch.setattr(compare_checkouts, "Worker", Fake)
    main(Args(other=other, only=("table, made",), processes=2, out=other / "found"))
    theirs = other / "benchmarks/speed/workloads.py"
    pair = [
        (ROOT, ROOT / "benchmarks/speed/workloads.py", "table, made"),
        (other, theirs, "table, made"),
        *("closed", "closed"),
    ]
    assert made == pair * 2
    (table,) = json.loads((other / "found.json").read_text("utf-8"))["tables"]
    (row,) = table["rows"]
    assert row["workload"] == "table, made"
    assert row["speed_up"] == {"low": 3.0, "median": 3.0, "high": 3.0}
    assert row["this"]["median"] == 8.0
    assert "| table, made |" in (other / "found.md").read_text("utf-8")
    assert "| table, made |" in capsys.readouterr().out


def test_every_workload_does_units_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.workloads.STEPS", 512)
    assert len(WORKLOADS) > 10
    for name, make in WORKLOADS.items():
        if "1024" not in name and "256" not in name and "made" not in name:
            assert make()() > 0, name
