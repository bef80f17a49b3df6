"""Other tensors of a saved folder, honestly signed."""

import hashlib
import json
import math
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks.reliability.file_variants import Payload
from benchmarks.reliability.variant import (
    Change,
    Variant,
    read_manifest,
    write_manifest,
)

_TIB = 2**40
_HUGE = 10**18


def _signed(make: Callable[[bytes], bytes]) -> Change:
    """Replace the weights and record their hash."""

    def change(folder: Path) -> None:
        manifest = read_manifest(folder)
        path = folder / manifest["weights"]["name"]
        data = make(path.read_bytes())
        path.unlink()
        digest = hashlib.sha256(data).hexdigest()
        name = f"weights-{digest[:12]}.safetensors"
        (folder / name).write_bytes(data)
        size = len(data)
        manifest["weights"] = {"name": name, "sha256": digest, "num_bytes": size}
        write_manifest(folder, manifest)

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


def of_weights_bytes() -> Iterator[Variant]:
    """Yield other bytes in the place of the tensors' file."""

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
        "pickle that runs code": lambda data: pickle.dumps(Payload(Path("a/b/c"))),
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


def of_tensors(tensors: dict[str, Tensor]) -> Iterator[Variant]:
    """Yield other tensors under the names of sound ones."""
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
