"""Units as tasks of Ray: each is run once, an error is raised, a remedy is named."""

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.experiment import Setting
from benchmarks.paper.ray_pool import RayPool
from benchmarks.paper.runner import run_units
from dynalay_gym.errors import ConfigError
from tests.benchmarks.test_paper_runner import BROKEN, UNITS, Counting, runs

# Ray warns of changes to come, and leaves files of its processes open.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.slow
def test_every_unit_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"folder": Path("units"), "jobs": 2, "ray": "local"}
    rows = run_units(Counting(), UNITS, Setting(), **how)
    assert [row["value"] for row in rows] == [6, 1, 26, 21]
    names = ("an-arm-0", "b-0", "an-arm-2", "b-2")
    assert runs(tmp_path / "units") == dict.fromkeys(names, 1)


@pytest.mark.slow
def test_an_error_of_a_unit_is_raised(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(RuntimeError, match="broken"):
        run_units(Counting(), UNITS, BROKEN, tmp_path, ray="local")


@pytest.mark.slow
def test_tasks_are_waited_for_or_ended(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pool = RayPool("local", 1)
    running, waiting = (pool.submit(time.sleep, 45) for _ in range(2))
    while not running.running():
        time.sleep(0.1)
    pool.shutdown(wait=False, cancel_futures=True)
    assert running.exception() is not None and waiting.cancelled()


def test_without_ray_there_is_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.paper.ray_pool.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dynalay-gym\[ray\].*--jobs"):
        run_units(Counting(), UNITS, Setting(), tmp_path, ray="local")
    assert runs(tmp_path) == {}


def test_without_a_cluster_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def init(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"no cluster of Ray at 'auto'.*ray start"):
        RayPool("auto", 1)
