"""Units of an experiment: which ones are run, and what a second run does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.paper.__main__ import EXPERIMENTS, Args, main
from benchmarks.paper.experiment import Experiment, Setting, unit_name
from benchmarks.paper.networks import new_network, trained
from benchmarks.paper.runner import all_units, run_unit, run_units
from benchmarks.report import Row, Table
from dynalay_gym.errors import ConfigError
from dynalay_gym.storage.io import locked


class Counting(Experiment):
    """Adds a line to a file at every run."""

    name, title, arms = "counting", "Counts", ("an arm", "b")

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        with (folder / "runs").open("a") as stream:
            stream.write("x")
        if setting.decisions == BROKEN.decisions:
            raise RuntimeError("broken")
        return {"value": len(arm) + 10 * seed}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        return [Table("Values", "", {"value": ("value", "d")}, [*map(dict, rows)])]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        return Figure()


BROKEN = Setting(decisions=13)
UNITS = all_units(Counting.arms, (0, 2))


def runs(folder: Path) -> dict[str, int]:
    """Return how often each unit was run."""
    return {path.parent.name: len(path.read_text()) for path in folder.glob("*/runs")}


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_unit_is_run_once(tmp_path: Path, jobs: int, capsys: Any) -> None:
    for units in (UNITS[:1], UNITS, UNITS):
        rows = run_units(Counting(), units, Setting(), tmp_path, jobs)
    assert [row["value"] for row in rows] == [6, 1, 26, 21]
    assert [(row["arm"], row["seed"]) for row in rows] == UNITS
    assert runs(tmp_path) == dict.fromkeys(("an-arm-0", "b-0", "an-arm-2", "b-2"), 1)
    shown = capsys.readouterr().out
    assert shown.count("is done") == 4 and "3 of 3 units" in shown
    assert "about 0 more" in shown


def test_a_unit_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    own = tmp_path / "b-0"
    own.mkdir()
    with locked(own, wait=False):
        assert not run_unit(Counting(), ("b", 0), Setting(), tmp_path)
    assert run_unit(Counting(), ("b", 0), Setting(), tmp_path)
    assert runs(tmp_path) == {"b-0": 1}


def test_a_unit_that_fails_is_run_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run_units(Counting(), UNITS[:1], BROKEN, tmp_path)
    run_units(Counting(), UNITS[:1], Setting(), tmp_path)
    assert runs(tmp_path) == {"an-arm-0": 2}


def test_units_of_another_setting_are_refused(tmp_path: Path) -> None:
    run_units(Counting(), UNITS[:1], Setting(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match=r"made in another setting \(training\)"):
        run_units(Counting(), UNITS, Setting(epochs=2), tmp_path)
    assert runs(tmp_path) == {"an-arm-0": 1}  # nothing was run beside it
    files = Setting(epochs=1, data_dir=tmp_path)  # the same data wherever they are
    assert run_units(Counting(), UNITS[:1], files, tmp_path)[0]["value"] == 6


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown experiment 'fig70'.*fig7"):
        main(Args(experiment="fig70", folder=tmp_path))
    with pytest.raises(ConfigError, match=r"unknown arms \['layer 9'\]"):
        main(Args(experiment="fig7", folder=tmp_path, arms=("layer 9",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "fig6", "dataset": "maze"}, r"needs a network of 3 layers"),
        ({"experiment": "fig3", "preset": "fast"}, r"'fast' is no main network"),
        ({"experiment": "fig4", "every": 2}, r"leave --every"),
        ({"experiment": "table1", "dataset": "imdb"}, r"convolutional layers, imdb"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("benchmarks.paper.deq.find_spec", lambda name: name)
    options = {"dataset": "cifar10"} | options
    with pytest.raises(ConfigError, match=message):
        main(Args(folder=tmp_path / "paper", **options))
    assert not (tmp_path / "paper").exists()


def test_names_of_units_are_folders() -> None:
    for experiment in EXPERIMENTS.values():
        for arm in experiment.arms:
            assert Path(unit_name(arm, 0)).parts == (unit_name(arm, 0),)


def test_other_processes_get_a_setting_that_they_can_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def keep(experiment: Any, units: Any, setting: Any, *_: Any) -> Any:
        given.append(setting)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.paper.__main__.run_units", keep)
    with pytest.raises(KeyboardInterrupt):
        main(Args(experiment="fig7", folder=tmp_path, epochs=3, every=2))
    assert given == [Setting(epochs=3, every=2)] and type(given[0]) is Setting


def test_a_saved_network_is_of_one_setting(tmp_path: Path) -> None:
    setting = Setting(epochs=1, every=40)
    data = setting.splits()["main"]
    first = trained(setting, data, (0,), 0, tmp_path)
    assert trained(setting, data, (0,), 0, tmp_path).minutes == first.minutes
    assert first.steps == len(data) // 128
    with pytest.raises(ConfigError, match=r"another setting \(every\)"):
        trained(Setting(epochs=1, every=20), data, (0,), 0, tmp_path)
    for states, seed in (((0, 7), 0), (None, 0), ((0,), 1)):
        with pytest.raises(ConfigError, match="other states, seed or options"):
            trained(setting, data, states, seed, tmp_path)


def test_the_command_writes_tables_and_pictures(tmp_path: Path) -> None:
    options: Any = {
        "experiment": "fig7",
        "dataset": "digits",
        "epochs": 1,
        "every": 40,
        "seeds": (3,),
        "arms": ("no FPI", "layer 1"),
    }
    for folder in ("a", "b"):
        main(Args(folder=tmp_path / folder, **options))
    for ending in ("json", "md", "png", "svg"):
        assert (tmp_path / f"a/fig7-digits.{ending}").stat().st_size > 100
    first, second = (
        json.loads((tmp_path / name / "fig7-digits.json").read_text("utf-8"))
        for name in ("a", "b")
    )
    for each in (first, second):
        for row in (*each["units"], *each["tables"][0]["rows"]):
            del row["minutes"]
    assert first == second
    assert len(first["units"]) == 2
    assert first["setting"]["every"] == 40


def test_a_network_that_goes_on_has_one_normalisation_in_all_states(
    tmp_path: Path,
) -> None:
    setting = Setting(epochs=1, every=20)
    data = setting.splits()["main"]
    before = trained(setting, data, (0,), 0, tmp_path / "no-FPI-0/network").network
    after = new_network(Setting(start_from=tmp_path), data, 0)
    plain, *others = after.head_norm.weight
    assert torch.equal(plain, before.head_norm.weight[0])
    assert all(torch.equal(plain, other) for other in others)
    assert not torch.equal(before.head_norm.weight[0], before.head_norm.weight[7])
    assert torch.equal(after.head, before.head)


def test_all_runs_what_the_setting_allows(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Counting):
        name = "refusing"

        def check(self, setting: Setting) -> None:
            raise ConfigError("not here")

    class Failing(Counting):
        name = "failing"

        def run(self, *args: Any) -> dict[str, Any]:
            raise ConfigError("no break-even")

    for each in (Refusing, Failing, Counting):
        monkeypatch.setitem(EXPERIMENTS, each.name, each)
    for name in set(EXPERIMENTS) - {"refusing", "failing", "counting"}:
        monkeypatch.delitem(EXPERIMENTS, name)
    args = Args(experiment="all", folder=tmp_path, seeds=(0,))
    with pytest.raises(ConfigError, match="failing failed"):
        main(args)
    shown = capsys.readouterr().out
    assert "failing has failed: no break-even" in shown
    assert "refusing is left out: not here" in shown and "counting: 0.0 min" in shown
    assert (tmp_path / "counting-digits.json").exists()
    with pytest.raises(ConfigError, match="leave them out"):
        main(Args(experiment="all", folder=tmp_path, arms=("b",)))
    with pytest.raises(ConfigError, match="digitz"):
        main(Args(experiment="all", folder=tmp_path, dataset="digitz"))
    for name in ("failing", "counting"):
        monkeypatch.delitem(EXPERIMENTS, name)
    with pytest.raises(ConfigError, match="no experiment fits"):
        main(Args(experiment="all", folder=tmp_path))
