"""``python -m dynalay_gym.report``: the file that it writes, and what it refuses."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers.runs import edit_json, write_run

from dynalay_gym.report import __main__ as command
from dynalay_gym.storage.run_folder import write_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "0")


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that may be damaged."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "run"))


def run(*options: object) -> int:
    sys.argv = ["report", *map(str, options)]
    return command.main()


def test_a_file_is_written(folder, tmp_path, capsys):
    assert run(folder, "--out", tmp_path / "page.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}: 1 run\n"
    first = (tmp_path / "page.html").read_text("utf-8")
    assert first.strip().startswith("<!DOCTYPE html>")
    assert run(folder, folder) == 0
    assert "2 runs" in (tmp_path / "report.html").read_text("utf-8")


def refusal(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert run(*options) == 2
    assert not Path("report.html").exists()
    line: str = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize("name", ["report.json", "results.json"])
def test_what_is_missing_is_said_with_the_command_that_makes_it(folder, name, capsys):
    write_settings(folder, {"dataset": "maze", "algo": "ppo"})
    (folder / name).unlink()
    line = refusal(capsys, folder)
    assert f"has no {name}" in line
    how = "python train_agent.py --dataset=maze --algo=ppo --resume"
    assert f"{how} {folder}" in line


def test_a_folder_of_no_run_is_refused(folder, tmp_path, capsys):
    assert "give a run folder of train_agent.py" in refusal(capsys, tmp_path)
    assert "give a run folder" in refusal(capsys, tmp_path / "absent")
    assert "give a run folder, such as" in refusal(capsys)


def test_damaged_files_are_refused(folder, capsys):
    edit_json(folder / "report.json", problem=3)
    assert "report.json does not hold what this version reads" in refusal(
        capsys, folder
    )
    edit_json(folder / "report.json", problem="a", more=3)
    assert "has a field 'more'" in refusal(capsys, folder)
    (folder / "report.json").write_text("{")
    assert "truncated or corrupt" in refusal(capsys, folder)


def test_a_picture_is_data_and_nothing_else(folder, capsys):
    text = (folder / "report.json").read_text()
    start = text.index('"picture": "') + len('"picture": "')
    address = text[:start] + "https://example.org/" + text[start:]
    (folder / "report.json").write_text(address)
    assert "does not hold what this version reads" in refusal(capsys, folder)


def test_the_folder_of_the_page_must_be_there(folder, capsys):
    assert "make it" in refusal(capsys, folder, "--out", "absent/report.html")
