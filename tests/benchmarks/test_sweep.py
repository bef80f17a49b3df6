"""Sweeps: processes share a study, one that is killed loses its trial alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from agents.options import Options
from agents.sb3.config import PPOConfig
from benchmarks import sweep
from benchmarks.sweep import Args, command, rounded
from dynalay_gym.errors import ConfigError, DivergedError

pytest.importorskip("optuna")
from benchmarks.shared_study import MOST_RETRIES, SharedStudy

# Of an option that is no experiment any more in later versions.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE: Any = {"x": (0.1, 10.0), "name": ["a", "b"]}
FIRST = {"x": 1.0, "name": "b"}
ROOT = Path(__file__).parents[2]
# A process that announces its first trial and never ends it.
HANGS = """
import sys, time
from pathlib import Path
from tests.benchmarks.test_sweep import open_study
def hang(given, report):
    print("begun", flush=True)
    time.sleep(600)
open_study(Path(sys.argv[1])).work(hang, 5)
"""


def open_study(folder: Path, **settings: Any) -> SharedStudy:
    return SharedStudy(folder, SPACE, {"steps": 5} | settings, FIRST)


def distance(given: dict[str, Any], report: Any) -> float:
    return -abs(given["x"] - 3)


def found(study: SharedStudy) -> dict[int, tuple[dict[str, Any], float | None]]:
    return {each.number: (each.params, each.value) for each in study.trials()}


def test_the_first_trial_is_the_default_and_the_best_comes_first(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path)
    study.work(distance, 8)
    trials = study.trials()
    assert len(trials) == 8
    assert found(study)[0] == (FIRST, -2.0)
    assert [each.value for each in trials] == sorted(
        (-abs(each.params["x"] - 3) for each in trials), reverse=True
    )


def test_a_stop_between_trials_changes_nothing(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    open_study(whole).work(distance, 14)
    for most in (3, 11, 14):
        open_study(parts).work(distance, most)
    assert found(open_study(parts)) == found(open_study(whole))


def test_what_is_behind_the_median_is_ended_early(tmp_path: Path) -> None:
    study, reported = open_study(tmp_path), list[int]()

    def objective(given: dict[str, Any], report: Any) -> float:
        number = len(study.study.get_trials()) - 1
        for step in (1, 2, 3, 4):
            reported.append(step)
            report(step, -float(number))
        return -float(number)

    study.work(objective, 7)
    assert reported == [1, 2, 3, 4] * 5 + [1, 2, 3] * 2  # five come first
    assert [each.state.name for each in study.trials()].count("PRUNED") == 2


def test_a_trial_that_diverges_is_kept_as_such(tmp_path: Path) -> None:
    def diverge(given: dict[str, Any], report: Any) -> float:
        raise DivergedError("lower --ppo.learning-rate")

    study = open_study(tmp_path)
    study.work(diverge, 2)
    (about,) = {each.user_attrs["diverged"] for each in study.trials()}
    assert about == "lower --ppo.learning-rate"


def test_the_trial_of_a_killed_process_is_run_by_another(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HANGS, str(tmp_path)]
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": places}
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        beside = open_study(tmp_path)
        beside.work(distance, 2)  # of which the other process has one
        states = {each.number: each.state.name for each in beside.trials()}
        assert states == {0: "RUNNING", 1: "COMPLETE"}
        process.send_signal(signal.SIGKILL)
    beside.work(distance, 3)
    trials = {each.number: each for each in beside.trials()}
    assert trials[0].state.name == "FAIL"
    assert (trials[2].params, trials[2].value) == (FIRST, -2.0)
    assert len(trials) == 4  # three that count


def test_what_kills_every_process_is_given_up(tmp_path: Path) -> None:
    for _ in range(MOST_RETRIES + 1):
        with pytest.raises(MemoryError):
            open_study(tmp_path).work(too_large, 1)
    study = open_study(tmp_path)
    study.work(distance, 1)
    (done,) = (each for each in study.trials() if each.value is not None)
    assert done.params != FIRST
    assert "retries" not in done.user_attrs


def too_large(given: dict[str, Any], report: Any) -> float:
    raise MemoryError


def test_a_sweep_with_other_options_is_refused(tmp_path: Path) -> None:
    open_study(tmp_path)
    with pytest.raises(ConfigError, match=r"\(--steps\).*another --folder"):
        open_study(tmp_path, steps=6)


def test_agents_are_swept_and_a_second_start_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sweep.SPACES, "ppo", {"n_epochs": [1, 10]})
    options = Options(dataset="digits", total_timesteps=2048, num_envs=64, seed=3)
    for trials in (1, 2):
        sweep.main(Args(folder=tmp_path, trials=trials, options=options))
    text = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    first, second = results["trials"]
    assert {first["state"], second["state"]} == {"complete"}
    assert results["best"] == {"n_epochs": first["n_epochs"]}
    assert first["return"] >= second["return"]
    assert list(first["validations"]) == ["5"]  # after the first of two rollouts
    assert results["command"] in text
    read = tyro.cli(Options, args=shlex.split(results["command"])[2:])
    assert read.config().n_epochs == first["n_epochs"]  # type: ignore[attr-defined]
    assert (read.dataset, read.seed, read.transitions) == ("digits", 3, "table")


def test_the_command_has_what_differs_from_the_defaults() -> None:
    options = Options(recall=True, download=False, penalty="0.1")
    words = command(options, PPOConfig(hidden=(8, 4)))
    assert words == (
        "python train_agent.py --algo ppo --penalty 0.1 --no-download --recall "
        "--transitions table --ppo.hidden 8 4"
    )


def test_numbers_can_be_typed() -> None:
    given = {"learning_rate": 0.00123456, "n_steps": 8}
    assert rounded(given) == {"learning_rate": 0.00123, "n_steps": 8}


def ppo(**changed: Any) -> Options:
    return Options(configs={"ppo": PPOConfig(**changed)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(co_train=True), "--co-train"),
        (Options(total_timesteps=0), "nothing to train"),
        (ppo(n_epochs=7), r"--ppo.n-epochs 7 .*one of \[5, 10, 20\]"),
        (ppo(learning_rate=1.0), r"--ppo.learning-rate 1.0 .*0.0003 to 0.01"),
        (Options(algo="dqn"), r"--algo dqn.*choose from ppo"),
    ],
)
def test_what_cannot_be_swept_is_refused(options: Options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Args(folder=Path("none"), options=options).check()


def test_without_optuna_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dynalay-gym\[sweep\]"):
        Args(folder=Path("none")).check()
