"""A script among pipes, full disks, signals and poor terminals: a line and a code."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys
from pathlib import Path
from dynalay_gym.errors import ConfigError
from dynalay_gym.storage import run_folder
from dynalay_gym.utils.scripts import run_script

def main():
"""
TAIL = "\n    Path('done').touch()\n\nsys.exit(run_script(main))\n"
TALK = "    for _ in range(20_000): print('0.450 ± 0.003, × 2, — done')"
HELP = "    print('usage'); sys.exit(0)"


def play(
    body: str, cwd: Path, *, stdout: Any = subprocess.PIPE, **env: str
) -> tuple[int, str, str, bool]:
    """Run a script; return its exit code, what it printed, and whether it got done."""
    path = cwd / "play.py"
    path.write_text(HEAD + body + TAIL, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path), "--seed", "1"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    out = (result.stdout or b"").decode()
    return result.returncode, out, result.stderr.decode(), (cwd / "done").exists()


@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_nobody_reads(env: dict[str, str], tmp_path: Path) -> None:
    """As with ``| head -1``: what is left is done, and nothing is said of it."""
    reader, writer = os.pipe()
    os.close(reader)
    code, _, errors, done = play(TALK, tmp_path, stdout=writer, **env)
    os.close(writer)
    assert (code, errors, done) == (0, "", True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("body", [TALK, "    print('a word')", HELP])
def test_standard_output_is_full(body: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        code, _, errors, done = play(body, tmp_path, stdout=full)
    assert done or body == HELP
    assert (code, errors) == (1, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["sys.stdout = None", "sys.stderr = None"])
def test_a_stream_is_closed(closed: str, tmp_path: Path) -> None:
    body = "    print('±', file=sys.stdout); print('±', file=sys.stderr)"
    path = tmp_path / "closed.py"
    path.write_text(HEAD + body + TAIL.replace("sys.exit", f"{closed}\nsys.exit"))
    subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (tmp_path / "done").exists()


def test_a_terminal_of_ascii(tmp_path: Path) -> None:
    body = "    print('0.450 ± 0.003'); print('warning: ×', file=sys.stderr)"
    code, out, errors, _ = play(body, tmp_path, PYTHONIOENCODING="ascii")
    assert (code, out, errors) == (0, "0.450 ? 0.003\n", "warning: ?\n")


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise ConfigError('give another --seed')", 2, "error: give another --seed"),
        ("open('nowhere/file', 'w')", 1, "error: No such file or directory: nowhere/"),
        ("raise OSError(28, os.strerror(28))", 1, "error: No space left on device"),
        ("sys.exit('give another flag')", 1, "give another flag"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "stopped by SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "stopped by SIGINT"),
        ("os.kill(os.getpid(), signal.SIGHUP)", 129, "stopped by SIGHUP"),
    ],
)
def test_what_ends_a_script_is_one_line(
    body: str, code: int, line: str, tmp_path: Path
) -> None:
    found, out, errors, done = play(f"    {body}", tmp_path)
    assert (found, out, done) == (code, "", False)
    assert errors.startswith(line)
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "body", ["raise OSError(28, 'full')", "raise KeyboardInterrupt"]
)
def test_a_run_says_how_to_go_on(body: str, tmp_path: Path) -> None:
    body = f"    with run_folder.resumable(Path('runs/a b')): {body}"
    _, _, errors, _ = play(body, tmp_path)
    command = errors.partition("; continue with: ")[2].strip()
    assert command == f"python {tmp_path}/play.py --seed 1 --resume 'runs/a b'"


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    code, _, errors, _ = play("    raise ZeroDivisionError", tmp_path)
    assert code == 1
    assert "Traceback" in errors


def test_nothing_stays_behind(capsys: pytest.CaptureFixture[str]) -> None:
    from dynalay_gym.utils.scripts import run_script

    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
    assert run_script(lambda: print("±")) == 0
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)) == before
    assert capsys.readouterr().out == "±\n"
