"""Files and folders: written atomically, and never over another run's.

Importing it loads no torch.
"""

import errno
import json
import math
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from dynalay_gym.errors import ConfigError

# Errors of network disks that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


def write_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file atomically: afterwards the old file is there or the whole new one.

    Args:
        path: The file; its folder exists.
        write: Writes everything into the draft whose path it is given. If it raises,
            the draft is removed and the old file stays.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    # Beside the target, because a rename is atomic within one file system only.
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(draft)
        # Windows cannot sync a file that is open for reading alone.
        with draft.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes atomically; see `write_file`."""
    write_file(path, lambda draft: draft.write_bytes(data))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as JSON, atomically; see `write_file`.

    Args:
        path: The file.
        value: Anything that `plain` turns into JSON.

    Raises:
        TypeError: Part of the value has no JSON form; nothing is written.
    """
    text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_file(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return what a regular file holds; it never waits, and never takes more memory.

    Args:
        path: The file itself: a link is not followed.
        most_bytes: Largest size.

    Raises:
        OSError: It is missing, a link, a device, a pipe, or larger.
    """
    # A pipe without a writer would wait for ever without O_NONBLOCK.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_BINARY", 0)
    if os.path.islink(path):  # opening it says "too many levels"
        raise OSError(errno.ELOOP, "it is a link; copy the file itself there", path)
    with os.fdopen(os.open(path, flags), "rb") as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if about.st_size > most_bytes:
            what = f"{about.st_size} bytes, where at most {most_bytes} belong"
            raise OSError(errno.EFBIG, what, path)
        return stream.read(most_bytes + 1)


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes out of a folder that they lock, too.

    The lock goes with its process, however that ends. What `write_file` left when
    such a process was killed is removed. On a disk without locks there is none.

    Args:
        folder: The folder.
        wait: Whether to wait for a process that has it.

    Raises:
        filelock.Timeout: Another process has it.
        OSError: The folder cannot be written to.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=wait)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
    try:
        for draft in folder.glob(".*.tmp"):
            draft.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def plain(value: Any) -> Any:
    """Turn a nested value into what strict JSON can hold.

    Arrays, tensors and NumPy scalars become lists and numbers, tuples lists, paths
    strings, and numbers that are not finite None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # arrays, tensors, NumPy scalars
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_run_dir(root: str | os.PathLike[str], *parts: str) -> Path:
    """Make the next free folder `root/<parts>/<k>`, k = 0, 1, ...

    Runs that start at the same moment get different folders: the file system lets
    only one of them create a name.

    Raises:
        ConfigError: The folder cannot be created.
    """
    parent = Path(root).expanduser().joinpath(*parts)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        names = (entry.name for entry in parent.iterdir())
        number = max((int(name) for name in names if name.isdecimal()), default=-1)
        while True:
            number += 1
            folder = parent / str(number)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(
            f"cannot make a run folder in {parent} ({error.strerror}); choose another "
            "place with --log-dir"
        ) from error


def cache_dir() -> Path:
    """Return the folder of files that can be made again; it may not exist yet.

    `$DYNALAY_CACHE_DIR`, or `dynalay_gym` in `$XDG_CACHE_HOME` or `~/.cache`.
    """
    own = os.environ.get("DYNALAY_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "dynalay_gym"
