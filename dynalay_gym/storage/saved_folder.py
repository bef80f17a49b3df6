"""Saved folders: safetensors for tensors, one JSON file for everything else.

Networks, agents, predictors and unfinished trainings are saved alike: a folder with
``checkpoint.json``, the manifest, and the tensors in a file that it names. The manifest
has the hash of that file and of itself. It is replaced last and in one step, so a
folder always holds a whole save: the previous one or the new one.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from dynalay_gym import __version__
from dynalay_gym.errors import CheckpointError, DivergedError
from dynalay_gym.storage.io import locked, plain, read_file, write_bytes, write_json
from dynalay_gym.storage.schema import json_digest, parse_json, read_as
from dynalay_gym.utils.device import torch_defaults
from dynalay_gym.utils.finite import broken_part

FORMAT = 2
MANIFEST_NAME = "checkpoint.json"
# Tensors of unknown shapes are not read beyond this.
MOST_BYTES = 2**28
_MOST_MANIFEST_BYTES = 2**24
_HEADER_BYTES = 2**20  # of a safetensors file: names and shapes of 10,000 tensors
_ATTEMPTS = 200  # each meets a save about every other time, if saves never stop

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The file of a folder's tensors: its name, hash and size."""

    name: Annotated[str, Meta(pattern=r"^weights-[0-9a-f]{12}\.safetensors$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``checkpoint.json`` holds.

    Attributes:
        format: `FORMAT`.
        version: Of the package that wrote it.
        kind: What was saved.
        weights: The tensors.
        facts: Everything else; the kind decides what.
        sha256: Hash of all the other fields.
    """

    format: int
    version: str
    kind: str
    weights: TensorFile
    facts: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Saved(Generic[T]):
    """What a folder holds: facts, and tensors by name."""

    facts: T
    tensors: dict[str, Tensor]


def save_folder(
    folder: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Any
) -> None:
    """Write a folder; what it held stays whole until the new content is.

    Saves into the same folder wait for each other.

    Args:
        folder: Made if it is absent.
        kind: What is saved.
        tensors: By name, on any device.
        facts: What goes beside them, JSON-able.

    Raises:
        DivergedError: A tensor has NaN or infinite numbers.
        TypeError: A fact has no JSON form.
    """
    broken = broken_part(tensors)
    if broken is not None:
        raise DivergedError(
            f"{broken} is not finite; it is not saved, and {folder} stays as it is"
        )
    data = save_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "kind": kind,
        "weights": {"name": name, "sha256": digest, "num_bytes": len(data)},
        "facts": plain(facts),
    }
    manifest["sha256"] = json_digest(manifest)
    _write(Path(folder), manifest, data)


def copy_folder(source: Path, target: Path, kind: str) -> None:
    """Write what a folder of some kind holds to another one.

    Raises:
        CheckpointError: See `load_folder`.
    """
    manifest = _read_manifest(source, kind)
    data = _read_tensors(source, manifest.weights, manifest.weights.num_bytes)
    _write(target, asdict(manifest), data)


def _write(folder: Path, manifest: Mapping[str, Any], data: bytes) -> None:
    """Write tensors, then the manifest; remove what it no longer names."""
    name = manifest["weights"]["name"]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):
        write_bytes(folder / name, data)
        write_json(folder / MANIFEST_NAME, manifest)
        for old in folder.glob("weights-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)


def load_folder(
    folder: str | Path,
    kind: str,
    schema: type[T],
    *,
    expected: Callable[[T], Mapping[str, Tensor]] | None = None,
    most_bytes: int = MOST_BYTES,
    device: str | torch.device = "cpu",
) -> Saved[T]:
    """Read a folder: all of it as it was saved, or nothing.

    Args:
        folder: What `save_folder` wrote.
        kind: What it must hold.
        schema: Type of the facts; see `dynalay_gym.storage.schema.read_as`.
        expected: Returns tensors like those that belong to some facts, as a rule on
            the device ``meta``: no more than they take is read, and names, shapes and
            types must be theirs.
        most_bytes: Most bytes that are read where nothing is `expected`.
        device: Where the tensors go.

    Raises:
        CheckpointError: It is missing, damaged, of another kind, not what the schema
            says, or holds NaN or infinite numbers.
    """
    folder = Path(folder)
    for _ in range(_ATTEMPTS):
        manifest = _read_manifest(folder, kind)
        facts = read_as(manifest.facts, schema, folder / MANIFEST_NAME)
        like = None if expected is None else _expect(expected, facts, folder)
        limit = most_bytes if like is None else _num_bytes(like) + _HEADER_BYTES
        try:
            data = _read_tensors(folder, manifest.weights, limit)
        except CheckpointError:
            # Somebody may have saved after the manifest was read.
            if _read_manifest(folder, kind) == manifest:
                raise
            continue
        return Saved(facts, _to_tensors(data, like, folder, device))
    raise CheckpointError(f"{folder} is being written all the time; read it later")


def is_saved(folder: str | Path) -> bool:
    """Return whether a save into a folder has ended; it may be of any kind."""
    return Path(folder, MANIFEST_NAME).is_file()


def saved_kind(folder: str | Path) -> str:
    """Return what a folder holds.

    Raises:
        CheckpointError: It is missing, or its manifest is damaged.
    """
    return _read_manifest(Path(folder)).kind


def load_facts(folder: str | Path, kind: str, schema: type[T]) -> T:
    """Return the facts of a folder alone; see `load_folder`."""
    folder = Path(folder)
    return read_as(_read_manifest(folder, kind).facts, schema, folder / MANIFEST_NAME)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Give a module its weights.

    Args:
        module: The module.
        tensors: Its state dict, exactly.
        where: Where they come from, for the message.

    Raises:
        CheckpointError: A name, shape or type is another.
    """
    check_like(tensors, module.state_dict(), where)
    module.load_state_dict(tensors)


@torch_defaults()
def restore(make: Callable[[], M], tensors: Mapping[str, Tensor], where: object) -> M:
    """Return a module with its weights; no memory is taken before they fit.

    Args:
        make: Builds the module.
        tensors: Its state dict, exactly; the module goes to their device.
        where: Where they come from, for the message.

    Raises:
        CheckpointError: A name, shape or type is another.
    """
    with torch.device("meta"):
        check_like(tensors, make().state_dict(), where)
    module = make().to(next(iter(tensors.values())).device)
    module.load_state_dict(tensors)
    return module


def check_like(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: object
) -> None:
    """Raise CheckpointError unless names, shapes and types are the expected ones."""
    if tensors.keys() != expected.keys():
        name = min(tensors.keys() ^ expected.keys())
        what = "is missing" if name in expected else "has no place"
        raise CheckpointError(f"{where}: {name!r} {what}; train it again")
    for name, tensor in tensors.items():
        found = (tuple(tensor.shape), tensor.dtype)
        wanted = (tuple(expected[name].shape), expected[name].dtype)
        if found != wanted:
            raise CheckpointError(
                f"{where}: {name!r} is {found[1]} {found[0]}, which does not fit "
                f"{wanted[1]} {wanted[0]}; train it again"
            )


def _read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        data = read_file(path, _MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {folder} (it has no {MANIFEST_NAME}); give a folder "
            "with one, such as best/ or agent/ in the run's folder"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    value = parse_json(data, path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    manifest = read_as(value, Manifest, path)
    if manifest.sha256 != json_digest(value):
        raise CheckpointError(
            f"{path} is corrupt (its hash is not the one recorded); "
            "copy the folder again, or train it again"
        )
    if kind not in (None, manifest.kind):
        raise CheckpointError(
            f"the checkpoint at {folder} holds {manifest.kind!r}, not {kind!r}; "
            "give a folder of that kind"
        )
    return manifest


@torch_defaults()
def _expect(
    expected: Callable[[T], Mapping[str, Tensor]], facts: T, folder: Path
) -> Mapping[str, Tensor]:
    """Return what the tensors of some facts are like."""
    try:
        with torch.device("meta"):
            return expected(facts)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].strip()
        raise CheckpointError(
            f"the architecture at {folder} cannot be built ({reason}); train it again"
        ) from None


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _read_tensors(folder: Path, weights: TensorFile, most_bytes: int) -> bytes:
    path = folder / weights.name
    if weights.num_bytes > most_bytes:
        raise CheckpointError(
            f"checkpoint weights {path} have {weights.num_bytes} bytes, where at most "
            f"{most_bytes} belong; train it again, or give a larger most_bytes"
        )
    try:
        data = read_file(path, weights.num_bytes)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint weights {path} cannot be read ({error.strerror}); "
            "copy the whole folder again, or train it again"
        ) from None
    if hashlib.sha256(data).hexdigest() != weights.sha256:
        raise CheckpointError(
            f"checkpoint weights {path} are truncated or corrupt (their hash is not "
            "the one recorded); copy the folder again, or train it again"
        )
    return data


def _to_tensors(
    data: bytes,
    like: Mapping[str, Tensor] | None,
    folder: Path,
    device: str | torch.device,
) -> dict[str, Tensor]:
    try:
        if int.from_bytes(data[:8], "little") > _HEADER_BYTES:
            raise ValueError("its header is larger than that of any network")
        tensors = load_bytes(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = "".join(each if each.isprintable() else "?" for each in str(error))
        raise CheckpointError(f"{folder} has no safetensors: {reason}") from None
    if like is not None:
        check_like(tensors, like, folder)
    broken = broken_part(tensors)
    if broken is not None:
        raise CheckpointError(
            f"{folder}: {broken!r} has NaN or infinite numbers (a training diverged); "
            "take an earlier one, or train it again"
        )
    return {name: tensor.to(device) for name, tensor in tensors.items()}
