"""One process at a time writes a run's folder; its settings and its command line."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.storage import run_folder

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from dynalay_gym.storage import run_folder
with run_folder.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def take(folder: Path) -> None:
    with run_folder.lock(folder):
        pass


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    """Also with one that had no chance to give it back."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="another process is writing"):
        take(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    draft = tmp_path / f".results.json.{uuid.uuid4().hex}.tmp"
    draft.touch()
    with run_folder.lock(tmp_path):
        assert not draft.exists()
    take(tmp_path)


def test_settings_have_to_be_the_same(tmp_path: Path) -> None:
    settings = {"dataset": "digits", "hidden": (8, 8), "batch_size": 4}
    run_folder.write_settings(tmp_path, settings, start=3)
    assert run_folder.read_settings(tmp_path)["start"] == 3
    run_folder.check_same(tmp_path, settings)
    with pytest.raises(ConfigError, match=r"other options \(--batch-size\)"):
        run_folder.check_same(tmp_path, settings | {"batch_size": 8})
    with pytest.raises(ConfigError, match=r"\(--hidden, --rtol\)"):
        other = {key: settings[key] for key in ("dataset", "batch_size")}
        run_folder.check_same(tmp_path, other | {"rtol": 0.1})


def test_changed_settings_are_noticed(tmp_path: Path) -> None:
    """Nobody gives the start of a co-training again."""
    run_folder.write_settings(tmp_path, {"dataset": "digits"}, start=3000)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("3000", "3001"))
    with pytest.raises(CheckpointError, match="hash"):
        run_folder.read_settings(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"options": 3}', "\udcff"])
def test_what_is_no_run_folder_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        data = text.encode(errors="surrogateescape")
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="no run folder"):
        run_folder.check_same(tmp_path, {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--algo ppo", "--algo ppo"),
        ("--resume OLD --algo ppo", "--algo ppo"),
        ("--algo ppo --resume=OLD", "--algo ppo"),
        ("--co-train --warm_up_from OTHER --seed 1", "--co-train --seed 1"),
    ],
)
def test_the_command_to_resume(given: str, kept: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train_agent.py", *given.split()])
    command = run_folder.resume_command(Path("runs/digits/ppo/0"))
    assert command == f"python train_agent.py {kept} --resume runs/digits/ppo/0"
