"""Damaged and hostile files of a saved folder."""

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from benchmarks.reliability.variant import Change, Variant, other_for, read_manifest
from dynalay_gym.storage.saved_folder import MANIFEST_NAME

_TIB = 2**40
PAYLOAD = "executed"  # the file that a payload makes beside the folder


def of_file(member: str) -> Iterator[Variant]:
    """Yield a member with something else in its place, and its content elsewhere."""

    def replaced(make: Callable[[Path], object]) -> Change:
        def change(folder: Path) -> None:
            (folder / member).unlink()
            make(folder / member)

        return change

    def kept(make: Callable[[Path, Path], object]) -> Change:
        def change(folder: Path) -> None:
            outside = folder.parent / f"outside-{folder.name}"
            (folder / member).rename(outside)
            make(folder / member, outside)

        return change

    kind = "manifest" if member == MANIFEST_NAME else "weights"
    for name, make in _IN_PLACE.items():
        yield Variant(f"{kind}: {name}", replaced(make))
    for name, make_of in _OF_CONTENT.items():
        yield Variant(f"{kind}: {name}", kept(make_of))


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(_TIB)


def _listen(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # an address has at most 107 characters
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _link_to_sparse(path: Path, outside: Path) -> None:
    _sparse(outside)
    path.symlink_to(outside)


def _half(path: Path, outside: Path) -> None:
    path.write_bytes(outside.read_bytes()[: outside.stat().st_size // 2])


def _grown(path: Path, outside: Path) -> None:
    path.write_bytes(outside.read_bytes())
    os.truncate(path, _TIB)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.target = str(path.parent.parent / PAYLOAD)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.target, "w")


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path)))


_IN_PLACE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "pipe": os.mkfifo,
    "socket": _listen,
    "folder": lambda path: path.mkdir(),
    "1 TiB of zeros": _sparse,
    "link to zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "link to the terminal": lambda path: path.symlink_to("/dev/tty"),
    "link to standard input": lambda path: path.symlink_to("/dev/stdin"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "pickle that runs code": _write_pickle,
    "archive of torch.save": lambda path: torch.save({"a": Payload(path)}, path),
}
_OF_CONTENT: dict[str, Callable[[Path, Path], object]] = {
    "grown to 1 TiB": _grown,
    "link to 1 TiB": _link_to_sparse,
    "link out of the folder": lambda path, outside: path.symlink_to(outside),
    "hard link": lambda path, outside: os.link(outside, path),
    "half": _half,
    "twice": lambda path, outside: path.write_bytes(2 * outside.read_bytes()),
}


def of_folder() -> Iterator[Variant]:
    """Yield changes of the folder itself."""

    def linked(folder: Path) -> None:
        outside = folder.parent / f"outside-{folder.name}"
        folder.rename(outside)
        folder.symlink_to(outside)

    def file(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.touch()

    def others_weights(folder: Path) -> None:
        path = folder / read_manifest(folder)["weights"]["name"]
        tensors = {name: part + 1 for name, part in load_file(path).items()}
        path.write_bytes(save(tensors))

    def junk(folder: Path) -> None:
        (folder / "__init__.py").write_text("raise SystemExit")
        (folder / "weights-0123456789ab.safetensors").write_bytes(b"junk")

    yield Variant("folder: missing", shutil.rmtree)
    yield Variant("folder: a file", file)
    yield Variant("folder: a link", linked)
    yield Variant("folder: lock is a pipe", lambda f: _pipe(f / ".lock"))
    yield Variant("folder: weights of another save", others_weights)
    yield Variant("folder: other files beside", junk)


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


# --- text of the manifest -------------------------------------------------------------


def of_manifest_text() -> Iterator[Variant]:
    """Yield changes of the text of the manifest."""
    deep = 100_000
    whole = {
        "list": b"[]",
        "null": b"null",
        "number": b"2",
        "deep lists": b"[" * deep + b"]" * deep,
        "deep objects": b'{"a":' * deep + b"1" + b"}" * deep,
        "long number": b'{"format": 1' + b"0" * 100_000 + b"}",
        "not UTF-8": b'{"format": "\xff\xfe"}',
        "NUL": b"\0" * 100,
        "mark of byte order": b"\xef\xbb\xbf{}",
        "17 MiB of blanks": b" " * (17 * 2**20) + b"{}",
        "16 million keys": b"{" + b'"":0,' * 3_000_000 + b'"a":0}',
    }
    for name, text in whole.items():
        yield Variant(f"manifest: {name}", _text(partial(other_for, text)))
    edits: dict[str, Callable[[bytes], bytes]] = {
        "UTF-16": lambda old: old.decode().encode("utf-16"),
        "text behind": lambda old: old + b"{}",
        "comment": lambda old: b"// \n" + old,
        "key twice": lambda old: old.replace(b"{", b'{"format": 1, ', 1),
        "facts twice": lambda old: old.replace(b'"facts"', b'"facts": {}, "facts"', 1),
        "closing brace missing": lambda old: old.rstrip().removesuffix(b"}"),
        "other blanks": lambda old: json.dumps(json.loads(old)).encode(),
        "NaN added": lambda old: old.replace(b"{", b'{"nan": NaN, ', 1),
        "1e999 added": lambda old: old.replace(b"{", b'{"x": 1e999, ', 1),
        "lone surrogate": lambda old: old.replace(b"{", rb'{"\ud800": 1, ', 1),
    }
    for name, edit in edits.items():
        yield Variant(f"manifest: {name}", _text(edit))


def _text(edit: Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        path = folder / MANIFEST_NAME
        path.write_bytes(edit(path.read_bytes()))

    return change
