"""Damaged and hostile variants of a saved folder, unsigned and honestly signed.

A variant changes a folder in place. What is signed carries the right hashes: a reader
has to see by its content that it is no sound one.
"""

import hashlib
import json
import math
import os
import pickle
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import mul
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dynalay_gym.storage.saved_folder import MANIFEST_NAME
from dynalay_gym.storage.schema import json_digest

Change = Callable[[Path], None]
_TIB = 2**40
_HUGE = 10**18
PAYLOAD = "executed"  # the file that a payload makes beside the folder

# What is put in the place of every fact.
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    3,
    20.5,
    1e-300,
    1e30,
    -0.5,
    10**6,
    10**9,
    _HUGE,
    -_HUGE,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "1",
    "nul \0 in it",
    "../../etc/passwd",
    "long" * 10_000,
    "lone \ud800 surrogate",
    [],
    [0],
    [-1],
    [10**9],
    [1.5, 2.5],
    ["a"],
    [True],
    [[1]],
    [1] * 27,
    [0] * 10**6,
    {},
    {"a": 1},
)


@dataclass(frozen=True)
class Variant:
    """One change of a folder.

    Attributes:
        name: What is changed, and how.
        change: Applies it.
        signed: Whether its hashes are right, so that a reader cannot tell by them.
    """

    name: str
    change: Change
    signed: bool = False


def variants(folder: Path) -> Iterator[Variant]:
    """Yield all variants of a sound folder."""
    manifest = _manifest(folder)
    for member in (MANIFEST_NAME, manifest["weights"]["name"]):
        yield from _of_file(member)
    yield from _of_folder()
    yield from _of_manifest_text()
    yield from _of_weights_bytes()
    yield from _of_tensors(load_file(folder / manifest["weights"]["name"]))
    yield from _of_values(manifest)


def _manifest(folder: Path) -> Any:
    return json.loads((folder / MANIFEST_NAME).read_text("utf-8"))


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["sha256"] = json_digest(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")


# --- files ----------------------------------------------------------------------------


def _of_file(member: str) -> Iterator[Variant]:
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


class _Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.target = str(path.parent.parent / PAYLOAD)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.target, "w")


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Payload(path)))


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
    "archive of torch.save": lambda path: torch.save({"a": _Payload(path)}, path),
}
_OF_CONTENT: dict[str, Callable[[Path, Path], object]] = {
    "grown to 1 TiB": _grown,
    "link to 1 TiB": _link_to_sparse,
    "link out of the folder": lambda path, outside: path.symlink_to(outside),
    "hard link": lambda path, outside: os.link(outside, path),
    "half": _half,
    "twice": lambda path, outside: path.write_bytes(2 * outside.read_bytes()),
}


def _of_folder() -> Iterator[Variant]:
    def linked(folder: Path) -> None:
        outside = folder.parent / f"outside-{folder.name}"
        folder.rename(outside)
        folder.symlink_to(outside)

    def file(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.touch()

    def others_weights(folder: Path) -> None:
        path = folder / _manifest(folder)["weights"]["name"]
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


def _of_manifest_text() -> Iterator[Variant]:
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
        yield Variant(f"manifest: {name}", _text(partial(_other, text)))
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


# --- bytes and tensors of the weights, honestly signed --------------------------------


def _signed(make: Callable[[bytes], bytes]) -> Change:
    """Replace the weights and record their hash."""

    def change(folder: Path) -> None:
        manifest = _manifest(folder)
        path = folder / manifest["weights"]["name"]
        data = make(path.read_bytes())
        path.unlink()
        digest = hashlib.sha256(data).hexdigest()
        name = f"weights-{digest[:12]}.safetensors"
        (folder / name).write_bytes(data)
        size = len(data)
        manifest["weights"] = {"name": name, "sha256": digest, "num_bytes": size}
        _write(folder, manifest)

    return change


def _header(
    edit: Callable[[dict[str, Any]], object], tail: bytes = b""
) -> Callable[[bytes], bytes]:
    """Return what edits the header of a safetensors file."""

    def make(data: bytes) -> bytes:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        edit(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :] + tail

    return make


def _of_weights_bytes() -> Iterator[Variant]:
    def first(header: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = next(v for k, v in header.items() if k[0] != "_")
        return entry

    def put(**entry: Any) -> Callable[[bytes], bytes]:
        return _header(lambda header: first(header).update(entry))

    def many(header: dict[str, Any]) -> None:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header.update({f"x{i}": empty for i in range(200_000)})

    def huge(header: dict[str, Any]) -> None:
        entry = {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}
        header["huge"] = entry

    def length(number: int) -> Callable[[bytes], bytes]:
        return lambda data: struct.pack("<Q", number) + data[8:]

    blank = 99 * 10**6
    makes: dict[str, Callable[[bytes], bytes]] = {
        "nothing": lambda data: b"",
        "random bytes": lambda data: bytes(range(256)) * 4,
        "pickle that runs code": lambda data: pickle.dumps(_Payload(Path("a/b/c"))),
        "header of 2^62 bytes": length(2**62),
        "header of 0 bytes": length(0),
        "header of 99 MB": lambda data: struct.pack("<Q", blank) + b" " * blank,
        "200,000 empty tensors": _header(many),
        "empty tensor of 2^40 rows": _header(huge),
        "64 MiB behind": lambda data: data + bytes(2**26),
        "negative shape": put(shape=[-1]),
        "shape of 2^62": put(shape=[2**62, 4]),
        "shape of texts": put(shape=["2"]),
        "offsets swapped": put(data_offsets=[8, 0]),
        "offsets outside": put(data_offsets=[0, 2**40]),
        "unknown type": put(dtype="F12"),
        "8-bit floats": put(dtype="F8_E4M3"),
        "type is a list": put(dtype=[]),
        "unknown field": put(colour="red"),
        "metadata": _header(lambda header: header.update(__metadata__={"a": "b"})),
        "metadata of numbers": _header(lambda h: h.update(__metadata__={"a": 1})),
        "NUL in a name": _header(lambda h: h.update({"a\0b": first(h)})),
        "surrogate in a name": _header(lambda h: h.update({"\ud800": first(h)})),
        "no tensor at all": lambda data: save({}),
    }
    for name, make in makes.items():
        yield Variant(f"weights: {name}", _signed(make), signed=True)


def _of_tensors(tensors: dict[str, Tensor]) -> Iterator[Variant]:
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "NaN": lambda t: _filled(t, torch.nan),
        "infinity": lambda t: _filled(t, -torch.inf),
        "1e30": lambda t: _filled(t, 1e30),
        "-1e38": lambda t: _filled(t, -1e38),
        "1e-40": lambda t: _filled(t, 1e-40),
        "-1": lambda t: _filled(t, -1),
        "0": torch.zeros_like,
        "float16": lambda t: t.half(),
        "float64": lambda t: t.double(),
        "int32": lambda t: t.int(),
        "complex": lambda t: t.to(torch.complex64),
        "bool": lambda t: t.bool(),
        "flat": lambda t: t.reshape(-1)[None],
        "one more": lambda t: torch.cat([t.reshape(-1), t.new_zeros(1)]),
        "one less": lambda t: t.reshape(-1)[1:],
        "a scalar": lambda t: t.reshape(-1)[:1].reshape(()),
        "empty": lambda t: t.reshape(-1)[:0],
        "random bytes": lambda t: _random_bytes(t),
    }
    for part in tensors:
        for name, edit in edits.items():
            yield _tensors(f"{part} is {name}", part, edit)
        yield _tensors(f"{part} is missing", part, None)
        yield _tensors(f"{part} has another name", part, None, f"{part}0")
    yield _tensors("a tensor more", "extra", lambda _: torch.zeros(3))
    yield _tensors("a number more", "optimizer/99/step", lambda _: torch.zeros(()))
    first, second = (load for load in list(tensors)[:2])
    yield _tensors("two are swapped", first, lambda _: tensors[second])


def _tensors(
    name: str,
    part: str,
    edit: Callable[[Tensor], Tensor] | None,
    new_name: str | None = None,
) -> Variant:
    """Return the variant in which one tensor is another; None leaves it out."""

    def make(data: bytes) -> bytes:
        tensors = _load(data)
        old = tensors.pop(part, torch.zeros(1))
        if edit is not None:
            tensors[part] = edit(old)
        if new_name is not None:
            tensors[new_name] = old
        return save(tensors)

    return Variant(f"tensors: {name}", _signed(make), signed=True)


def _load(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(data)


def _filled(tensor: Tensor, number: float) -> Tensor:
    """Return a tensor of one number, or of the closest integer of its type."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, number)
    if not math.isfinite(number) or tensor.dtype == torch.bool:
        return torch.full(tensor.shape, number)
    limits = torch.iinfo(tensor.dtype)
    return torch.full_like(tensor, int(max(limits.min, min(limits.max, number))))


def _random_bytes(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().view(-1).view(torch.uint8).clone()
    generator = torch.Generator().manual_seed(0)
    flat.copy_(torch.randint(0, 256, flat.shape, generator=generator))
    return flat.view(tensor.dtype).view(tensor.shape)


# --- values of the manifest, honestly signed ------------------------------------------


def _of_values(manifest: dict[str, Any]) -> Iterator[Variant]:
    for path in _paths(manifest):
        if path == ("sha256",):
            continue
        name = ".".join(map(str, path))
        old = _at(manifest, path)
        for value in _VALUES:
            if type(value) is not type(old) or value != old:
                shown = str(value)[:20]
                yield _valued(f"{name} = {shown}", path, partial(_other, value))
        yield _valued(f"{name} as a text", path, str)
        yield _valued(f"{name} in a list", path, lambda value: [value])
        yield _valued(f"{name} missing", path, None)
        if isinstance(old, int | float) and not isinstance(old, bool):
            for factor in (2, 1.001, -1, 1e6):
                yield _valued(f"{name} * {factor}", path, partial(mul, factor))
        if isinstance(old, dict):
            edit = lambda value: value | {"colour": "red"}  # noqa: E731
            yield _valued(f"{name} with a field more", path, edit)
        if isinstance(old, list):
            yield _valued(f"{name} longer", path, lambda value: value + value[-1:])
            yield _valued(f"{name} shorter", path, lambda value: value[:-1])
            yield _valued(f"{name} reversed", path, lambda value: value[::-1])


def _other(new: Any, old: Any) -> Any:
    return new


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a nested one; of many alike, of two."""
    if path:
        yield path
    items: Any = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    is_alike = isinstance(value, list) or len(path) > 3
    for key, each in list(items)[: 2 if is_alike else None]:
        yield from _paths(each, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _valued(
    name: str, path: tuple[Any, ...], edit: Callable[[Any], Any] | None
) -> Variant:
    def change(folder: Path) -> None:
        manifest = _manifest(folder)
        *above, key = path
        place = _at(manifest, tuple(above))
        if edit is None:
            del place[key]
        else:
            place[key] = edit(place[key])
        _write(folder, manifest)

    return Variant(f"value: {name}", change, signed=True)
