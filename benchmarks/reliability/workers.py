"""Processes that use folders one after another, watched for memory, time and crashes.

A worker is started once and serves until a folder ends it or takes too long.
"""

import json
import multiprocessing
import resource
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dynalay_gym.storage.saved_folder import MANIFEST_NAME, load_folder

SECONDS = 20.0  # a folder that takes longer hangs
MOST_BYTES = 2**30  # that a folder may take
_ADDRESSES = 8 * 2**30  # beyond those of the start; more is refused by the system
_FIRST_SECONDS = 600.0  # imports and compilation
Damage = tuple[str, str, int]  # ``flip`` or ``cut``, a member, a bit or a length
_UNLIMITED = resource.RLIM_INFINITY


@dataclass(frozen=True)
class Outcome:
    """What a folder did to the process that used it.

    Attributes:
        what: ``refused``, ``accepted``, ``not finite``, ``traceback``, ``memory``,
            ``hang`` or ``crash``.
        detail: The message, or the digest of the answers.
    """

    what: str
    detail: str


class Worker:
    """One process, started anew after a hang or a crash.

    Args:
        kinds: Kinds of folders that it will be given.
    """

    def __init__(self, kinds: list[str]) -> None:
        self._kinds = kinds
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._start()

    def _start(self) -> None:
        self._ours, theirs = self._context.Pipe()
        how: Any = {"args": (theirs, self._kinds), "daemon": True}
        self._process = self._context.Process(target=_serve, **how)
        self._process.start()
        theirs.close()
        self._is_ready = False

    def use(self, kind: str, source: str, folder: Path) -> Outcome:
        """Use a folder, or a variant of it."""
        return Outcome(*self._ask(("use", kind, source, str(folder)), SECONDS))

    def damage(
        self, kind: str, source: str, folder: Path, digest: str, jobs: list[Damage]
    ) -> list[str]:
        """Load damaged copies of a folder; return those that load and differ.

        Args:
            kind: Its kind.
            source: Its name.
            folder: A sound folder.
            digest: That of its answers.
            jobs: Each ``flip`` or ``cut``, a member's name, and a bit or a length.
        """
        message = "damage", kind, source, str(folder), digest, jobs
        found = self._ask(message, 60 * SECONDS)
        return list(found) if isinstance(found, list) else [str(found)]

    def _ask(self, message: tuple[Any, ...], seconds: float) -> Any:
        if not self._is_ready:
            assert self._ours.poll(_FIRST_SECONDS), "a worker does not start"
            self._is_ready = self._ours.recv()
        try:
            self._ours.send(message)
            if self._ours.poll(seconds):
                return self._ours.recv()
            found = "hang", f"more than {seconds:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            found = "crash", f"exit code {self._process.exitcode}"
        self.stop()
        self._start()
        return found

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(pipe: Connection, kinds: list[str]) -> None:
    import torch

    from benchmarks.reliability.kinds import KINDS, make_sources

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:  # everything is compiled and imported
        for kind, sources in make_sources(Path(place), kinds).items():
            for name, folder in sources.items():
                KINDS[kind].use(name, folder)
    limit = _status("VmSize") + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, _UNLIMITED))
    pipe.send(True)
    answers: dict[str, Any] = {"use": _use, "damage": _damage}
    while True:
        what, *args = pipe.recv()
        pipe.send(answers[what](*args))


def _status(name: str) -> int:
    """Return a size of this process in bytes, as Linux tells it."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _use(kind: str, source: str, folder: str) -> tuple[str, str]:
    from benchmarks.reliability.kinds import KINDS

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _status("VmRSS")
    found = _classify(lambda: KINDS[kind].use(source, Path(folder)))
    taken = _status("VmHWM") - before
    if taken > MOST_BYTES:
        return "memory", f"{taken / 2**30:.1f} GiB; then {found}"
    return found


def _read(folder: str, kind: str) -> tuple[str, str]:
    """Read a folder as all kinds are read."""
    return _classify(lambda: str(load_folder(folder, kind, dict[str, Any])))


def _classify(use: Any) -> tuple[str, str]:
    from benchmarks.reliability.folders import NotFiniteError
    from dynalay_gym.errors import DynaLayError

    try:
        return "accepted", use()
    except DynaLayError as error:
        message = str(error)
        is_line = "\n" not in message and message.isprintable()
        return (
            "refused" if is_line else "traceback"
        ), f"{type(error).__name__}: {error}"
    except NotFiniteError as error:
        return "not finite", str(error)
    except MemoryError as error:
        return "memory", repr(error)
    except BaseException as error:
        lines = traceback.format_exc().splitlines()
        what = "memory" if "allocate memory" in str(error) else "traceback"
        return what, f"{lines[-1][:200]} ({lines[-3].strip()[-120:]})"


def _damage(
    kind: str, source: str, folder: str, digest: str, jobs: list[Damage]
) -> list[str]:
    """Try damaged files: all kinds are read by one function; what it takes is used."""
    wrong, manifest = [], Path(folder) / MANIFEST_NAME
    stored = json.loads(manifest.read_text("utf-8"))["kind"]
    for what, member, number in jobs:
        path = Path(folder) / member
        whole = path.read_bytes()
        damaged = bytearray(whole[:number] if what == "cut" else whole)
        if what == "flip":
            damaged[number // 8] ^= 1 << number % 8
        path.write_bytes(damaged)
        found = _read(folder, stored)
        if found[0] != "refused":
            found = _use(kind, source, folder)
        path.write_bytes(whole)
        if found[0] != "refused" and found != ("accepted", digest):
            wrong.append(f"{kind} ({source}): {what} {member} {number}: {found}")
    return wrong
