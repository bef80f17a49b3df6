"""A file is written whole or not at all, and no run writes into another's folder."""

import errno
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from dynalay_gym.errors import ConfigError
from dynalay_gym.storage.io import (
    cache_dir,
    locked,
    make_run_dir,
    read_file,
    write_bytes,
    write_file,
    write_json,
)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_writer_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def half(draft: Path) -> None:
        draft.write_bytes(b"ne")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_file(path, half)
    assert only_file(tmp_path).read_bytes() == b"old"
    write_file(path, lambda draft: draft.write_bytes(b"new"))
    assert only_file(tmp_path).read_bytes() == b"new"


def test_what_is_synced_is_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to sync a file that is open for reading alone."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.write(descriptor, b""))
    write_bytes(tmp_path / "a.bin", b"new")
    assert only_file(tmp_path).read_bytes() == b"new"


def test_a_link_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.bin").symlink_to(__file__)
    with pytest.raises(OSError, match="it is a link; copy the file"):
        read_file(tmp_path / "a.bin", 2**20)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()]
)
def test_a_disk_without_locks_is_written_all_the_same(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network disks are."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with locked(tmp_path, wait=True):
        write_bytes(tmp_path / "a.bin", b"new")
    error = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError), locked(tmp_path, wait=True):
        pass


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "nowhere" / "a.bin", b"new")


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tempfile.gettempdir()
    for name in ("DYNALAY_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir() == Path.home() / ".cache" / "dynalay_gym"
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert cache_dir() == Path(home) / "dynalay_gym"
    monkeypatch.setenv("DYNALAY_CACHE_DIR", "~/own")
    assert cache_dir() == Path.home() / "own"


# --- run folders ----------------------------------------------------------------------


def test_run_dirs_count_up_from_the_last(tmp_path: Path) -> None:
    assert make_run_dir(tmp_path, "a", "b") == tmp_path / "a" / "b" / "0"
    (tmp_path / "a" / "b" / "7").mkdir()
    (tmp_path / "a" / "b" / "notes").mkdir()
    assert make_run_dir(tmp_path, "a", "b").name == "8"


def test_simultaneous_threads_get_distinct_run_dirs(tmp_path: Path) -> None:
    with ThreadPoolExecutor(64) as pool:
        folders = list(pool.map(make_run_dir, [tmp_path] * 64, ["ppo"] * 64))
    assert len(set(folders)) == 64
    assert all(folder.is_dir() for folder in folders)


def test_simultaneous_processes_get_distinct_run_dirs(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        folders = list(pool.map(make_run_dir, [tmp_path] * 64, ["ppo"] * 64))
    assert len(set(folders)) == 64


def test_run_dir_below_a_file_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs.*--log-dir"):
        make_run_dir(tmp_path / "runs", "digits")


# --- JSON -----------------------------------------------------------------------------


def test_write_json_turns_arrays_and_odd_numbers_into_strict_json(
    tmp_path: Path,
) -> None:
    write_json(
        tmp_path / "a.json",
        {
            "array": np.array([1.0, np.inf]),
            "scalar": np.float32(0.5),
            "tensor": torch.tensor([1, 2]),
            "nan": float("nan"),
            "path": Path("runs"),
            "tuple": (True, None),
        },
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "array": [1.0, None],
        "scalar": 0.5,
        "tensor": [1, 2],
        "nan": None,
        "path": "runs",
        "tuple": [True, None],
    }


def test_write_json_leaves_the_old_file_when_the_object_has_no_json_form(
    tmp_path: Path,
) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_write_json_leaves_the_old_file_when_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"new": 2})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [0] * 5000)
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write_json, path, [k] * 5000) for k in range(20)]
        while not all(job.done() for job in writing):
            content = json.loads(path.read_text())
            assert len(content) == 5000
            assert len(set(content)) == 1
