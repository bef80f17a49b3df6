"""Scripts that are stopped, refused or not listened to, from the command line."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import train_agent
from agents import run as agents_run
from agents.base import NetAgent
from dynalay_gym.storage import run_folder

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = "--dataset digits --algo policy-gradient --num-envs 32 --total-timesteps 1024"
JOINT = " --co-train --co.agent-steps 512 --co.batch-size 32 --co.validations 4"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def main(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["train_agent.py", *shlex.split(command)])
    return train_agent.main()


@pytest.mark.parametrize(
    ("more", "name"), [("", "policy-gradient"), (JOINT, "co-policy-gradient")]
)
def test_a_run_stopped_in_its_evaluation_is_resumed_to_it(
    more: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    reported: list[Any] = []

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came too late")

    with monkeypatch.context() as patch:
        patch.setattr(agents_run, "report", stop)
        assert main(OPTIONS + more, patch) == 143
    folder = f"runs/digits/{name}/0"
    command = f"python train_agent.py {OPTIONS}{more} --resume {folder}"
    errors = capsys.readouterr().err.splitlines()
    assert errors == [f"stopped by SIGTERM; continue with: {command}"]
    before = Path(folder, "metrics.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(NetAgent, "learn", lambda *_: pytest.fail("it learned again"))
        patch.setattr(agents_run, "report", lambda *given: reported.append(given))
        assert main(command.partition(".py ")[2], patch) == 0
    assert len(reported) == 1
    assert Path(folder, "metrics.jsonl").read_text().startswith(before)


def test_a_run_that_is_being_written_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(agents_run, "report", lambda *_: None)
    assert main(OPTIONS, monkeypatch) == 0
    folder = Path("runs/digits/policy-gradient/0")
    capsys.readouterr()
    before = times(folder)
    with run_folder.lock(folder):
        assert main(f"{OPTIONS} --resume {folder}", monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another process is writing runs/digits/policy-gra")
    assert times(folder) == before


def times(folder: Path) -> dict[Path, int]:
    """When each file was written last, but for the lock, which is opened."""
    files = (path for path in folder.rglob("*") if path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in files}


def script(command: str, **env: str) -> "subprocess.Popen[str]":
    name, *options = shlex.split(command)
    return subprocess.Popen(
        [sys.executable, str(ROOT / name), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("command", "folder", "result"),
    [
        ("train_main.py --epochs 3", "main", "last/checkpoint.json"),
        (f"train_agent.py {OPTIONS}000", "policy-gradient", "results.json"),
        (f"train_agent.py {OPTIONS}0{JOINT}", "co-policy-gradient", "results.json"),
    ],
)
def test_the_command_that_a_stopped_script_prints(
    number: signal.Signals, command: str, folder: str, result: str, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "digits" / folder / "0"
    with script(command) as process:
        while not (run / "resume" / "checkpoint.json").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number
    told, _, resume = errors.strip().partition("; continue with: ")
    assert told == f"stopped by {number.name}"
    assert not (run / result).exists()
    if "000" in command:
        return
    with script(resume.removeprefix("python ").removeprefix(f"{ROOT}/")) as again:
        _, errors = again.communicate()
    assert (again.returncode, errors) == (0, "")
    assert (run / result).is_file()


@pytest.mark.slow
def test_nobody_reads_in_a_poor_terminal(tmp_path: Path) -> None:
    """``| head -1`` in 40 columns of ASCII: the agent is trained and evaluated."""
    terminal = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "40"}
    with script(f"train_agent.py {OPTIONS}", NO_COLOR="1", **terminal) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "policy-gradient on digits" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert list(tmp_path.rglob("results.json"))


@pytest.mark.parametrize("option", ["--help", "--bogus"])
def test_help_in_a_poor_terminal(option: str) -> None:
    terminal = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "40"}
    process = script(f"train_agent.py {option}", NO_COLOR="1", **terminal)
    out, errors = process.communicate(timeout=100)
    assert "Traceback" not in out + errors
    assert process.returncode == (0 if option == "--help" else 2)
