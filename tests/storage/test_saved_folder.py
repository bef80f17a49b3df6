"""A folder loads whole and as it was saved, or not at all."""

import json
import multiprocessing
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saved import edit_manifest, visible, weights_of
from torch import nn

from dynalay_gym.errors import CheckpointError, DivergedError
from dynalay_gym.storage import saved_folder
from dynalay_gym.storage.saved_folder import (
    MANIFEST_NAME,
    fill,
    load_facts,
    load_folder,
    restore,
    save_folder,
)

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3),
    "half": torch.ones(2, dtype=torch.float16),
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    note: str
    sizes: tuple[int, ...] = ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "new" / "saved", "test", TENSORS, {"note": "old"})
    return tmp_path / "new" / "saved"


def load(folder: Path) -> saved_folder.Saved[Facts]:
    return load_folder(folder, "test", Facts)


def test_everything_comes_back_as_it_was(folder: Path) -> None:
    saved = load(folder)
    assert saved.facts == Facts(note="old") == load_facts(folder, "test", Facts)
    assert saved.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(saved.tensors[name], tensor)
        assert saved.tensors[name].dtype == tensor.dtype


def test_views_and_gradients_do_not_matter(tmp_path: Path) -> None:
    base = torch.randn(4, 6, requires_grad=True)
    save_folder(tmp_path, "test", {"t": base.T, "part": base[1]}, {"note": ""})
    tensors = load(tmp_path).tensors
    assert torch.equal(tensors["t"], base.detach().T)
    assert torch.equal(tensors["part"], base.detach()[1])


def test_saving_replaces_and_leaves_nothing_behind(folder: Path) -> None:
    (folder / f".{MANIFEST_NAME}.0.tmp").touch()  # of a process that was killed
    save_folder(folder, "test", {"b": torch.zeros(2)}, {"note": "new"})
    assert load(folder).facts.note == "new"
    assert len(visible(folder)) == 2
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_not_saved(number: float, folder: Path) -> None:
    broken = {"good": torch.zeros(2), "bad": torch.tensor([1.0, number])}
    with pytest.raises(DivergedError, match="bad is not finite"):
        save_folder(folder, "test", broken, {"note": "new"})
    assert load(folder).facts.note == "old"


def test_facts_without_a_json_form_are_refused_and_the_old_ones_stay(
    folder: Path,
) -> None:
    with pytest.raises(TypeError):
        save_folder(folder, "test", TENSORS, {"note": object()})
    assert load(folder).facts.note == "old"


# --- damage ---------------------------------------------------------------------------


def missing_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def missing_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()


def missing_weights(folder: Path) -> None:
    weights_of(folder).unlink()


def truncated_weights(folder: Path) -> None:
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:-1])


def longer_weights(folder: Path) -> None:
    with weights_of(folder).open("ab") as stream:
        stream.write(b"\0")


def empty_weights(folder: Path) -> None:
    weights_of(folder).write_bytes(b"")


def sparse_weights(folder: Path) -> None:
    with weights_of(folder).open("r+b") as stream:
        stream.truncate(2**40)


def truncated_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:100])


def manifest_of(content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MANIFEST_NAME).write_bytes(content)

    return damage


def sparse_manifest(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("r+b") as stream:
        stream.truncate(2**40)


def pipe_for(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (path,) = folder.glob(name)
        path.unlink()
        os.mkfifo(path)

    return damage


def link_for(name: str, target: str | None = None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (path,) = folder.glob(name)
        moved = path.rename(folder.parent / "elsewhere")
        path.symlink_to(moved if target is None else target)

    return damage


def directory_for(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (path,) = folder.glob(name)
        path.unlink()
        path.mkdir()

    return damage


def signed(facts: dict[str, Any] | None = None, **top: Any) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, facts, **top)


def weights(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        edit_manifest(folder, weights=manifest["weights"] | changes)

    return damage


def unsigned(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text("utf-8").replace('"old"', '"odd"'), "utf-8")


DAMAGES = {
    "missing folder": missing_folder,
    "missing manifest": missing_manifest,
    "missing weights": missing_weights,
    "truncated weights": truncated_weights,
    "longer weights": longer_weights,
    "empty weights": empty_weights,
    "1 TiB of weights": sparse_weights,
    "truncated manifest": truncated_manifest,
    "1 TiB of manifest": sparse_manifest,
    "empty manifest": manifest_of(b""),
    "binary manifest": manifest_of(b"\xff\xfe\x00garbage"),
    "list for a manifest": manifest_of(b"[1, 2]"),
    "deep manifest": manifest_of(b"[" * 100_000 + b"]" * 100_000),
    "NaN in the manifest": manifest_of(b'{"format": NaN}'),
    "lone surrogate": manifest_of(rb'{"format": "\ud800"}'),
    "pipe for weights": pipe_for("weights-*"),
    "pipe for a manifest": pipe_for(MANIFEST_NAME),
    "link for weights": link_for("weights-*"),
    "link to an endless device": link_for("weights-*", "/dev/zero"),
    "link for a manifest": link_for(MANIFEST_NAME),
    "folder for weights": directory_for("weights-*"),
    "folder for a manifest": directory_for(MANIFEST_NAME),
    "changed fact": unsigned,
    "old format": signed(format=1),
    "true for a format": signed(format=True),
    "another kind": signed(kind="agent"),
    "unknown field": signed(colour="red"),
    "unknown fact": signed({"colour": "red"}),
    "fact of another type": signed({"note": 3}),
    "true for an int": signed({"sizes": [True]}),
    "float for an int": signed({"sizes": [1.0]}),
    "weights elsewhere": weights(name="../saved/weights-000000000000.safetensors"),
    "negative size": weights(num_bytes=-1),
    "wrong hash": weights(sha256="0" * 64),
    "no hash": weights(sha256=None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_in_one_line_that_names_the_place(
    damage: Callable[[Path], None], folder: Path
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def flips(path: Path, step: int) -> Callable[[], bool]:
    """Return a function that flips the next bit of a file; False after the last."""
    whole = path.read_bytes()
    positions = iter(range(0, 8 * len(whole), step))

    def flip() -> bool:
        position = next(positions, None)
        if position is None:
            path.write_bytes(whole)
            return False
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        return True

    return flip


@pytest.mark.parametrize("name", ["weights-*", MANIFEST_NAME])
def test_no_flipped_bit_goes_unnoticed(name: str, folder: Path) -> None:
    (path,) = folder.glob(name)
    flip = flips(path, 13)
    while flip():
        with pytest.raises(CheckpointError):
            load(folder)


@pytest.mark.parametrize("name", ["weights-*", MANIFEST_NAME])
def test_no_cut_goes_unnoticed(name: str, folder: Path) -> None:
    (path,) = folder.glob(name)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(folder)


def signed_weights(folder: Path, data: bytes) -> None:
    """Put other bytes in the place of the weights, honestly signed."""
    weights_of(folder).write_bytes(data)
    digest = saved_folder.hashlib.sha256(data).hexdigest()
    weights(sha256=digest, num_bytes=len(data))(folder)


NUL_IN_A_NAME = b'{"a\\u0000b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
NUL_IN_A_NAME = len(NUL_IN_A_NAME).to_bytes(8, "little") + NUL_IN_A_NAME + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        (2**62).to_bytes(8, "little"),
        saved_folder.save_bytes({str(k): torch.empty(0) for k in range(20_000)}),
        b"pickle" * 9,
        NUL_IN_A_NAME,
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes, folder: Path) -> None:
    signed_weights(folder, data)
    with pytest.raises(CheckpointError, match="no safetensors") as caught:
        load(folder)
    assert str(caught.value).isprintable()


def test_numbers_that_are_not_finite_are_not_loaded(folder: Path) -> None:
    broken = {"bad": torch.tensor([1.0, torch.nan])}
    signed_weights(folder, saved_folder.save_bytes(broken))
    with pytest.raises(CheckpointError, match="'bad' has NaN"):
        load(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weight": torch.zeros(2, 3)}, "'bias' is missing"),
        ({"extra": torch.zeros(1)}, "'extra' has no place"),
        ({"weight": torch.zeros(3, 2)}, "does not fit"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int32)}, "does not fit"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float16)}, "does not fit"),
        ({"weight": torch.zeros(2, 3, dtype=torch.complex64)}, "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    changed: dict[str, torch.Tensor], words: str
) -> None:
    tensors = nn.Linear(3, 2).state_dict() | changed
    if words.endswith("missing"):
        del tensors["bias"]
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    for put in (
        lambda: fill(module, tensors, "there"),
        lambda: restore(lambda: nn.Linear(3, 2), tensors, "there"),
    ):
        with pytest.raises(CheckpointError, match=rf"there.*{words}"):
            put()
    assert torch.equal(module.weight, before)


def test_no_memory_is_taken_before_the_shapes_fit(folder: Path) -> None:
    """2^60 numbers: building them would end the process."""
    with pytest.raises(CheckpointError, match="does not fit"):
        huge = {"weight": torch.zeros(1, 1)}
        restore(lambda: nn.Linear(2**30, 2**30, bias=False), huge, folder)
    with pytest.raises(CheckpointError, match=r"has no place|is missing"):
        load_folder(
            folder,
            "test",
            Facts,
            expected=lambda _: nn.Linear(2**30, 2**30).state_dict(),
        )


def test_more_than_what_is_expected_is_not_read(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 10 belong"):
        load_folder(folder, "test", Facts, most_bytes=10)


# --- interruptions, writers and readers -----------------------------------------------


@pytest.mark.parametrize("name", [MANIFEST_NAME, ".safetensors"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left")])
def test_an_interrupted_save_leaves_the_old_content(
    name: str, error: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        if str(target).endswith(name):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(BaseException) as caught:
        save_folder(folder, "test", {"b": torch.ones(3)}, {"note": "new"})
    assert caught.type in (KeyboardInterrupt, OSError)
    monkeypatch.undo()
    assert load(folder).facts.note == "old"
    save_folder(folder, "test", {"b": torch.ones(3)}, {"note": "new"})
    assert load(folder).facts.note == "new"
    assert len(visible(folder)) == 2


def write_all_the_time(folder: Path, number: int, times: int) -> None:
    for step in range(times):
        tensors = {"number": torch.tensor([number, step])}
        save_folder(folder, "test", tensors, {"note": f"{number} {step}"})


def test_two_writers_and_a_reader_meet_whole_content_alone(tmp_path: Path) -> None:
    save_folder(tmp_path, "test", {"number": torch.tensor([0, 0])}, {"note": "0 0"})
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=write_all_the_time, args=(tmp_path, number, 60))
        for number in (1, 2)
    ]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        saved, reads = load(tmp_path), reads + 1
        assert saved.facts.note == "{} {}".format(*saved.tensors["number"].tolist())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert load(tmp_path).facts.note in ("1 59", "2 59")
    assert len(visible(tmp_path)) == 2


def test_a_folder_that_only_others_may_write_can_be_read(folder: Path) -> None:
    (folder / ".lock").unlink()
    folder.chmod(stat.S_IREAD | stat.S_IEXEC)
    try:
        assert load(folder).facts.note == "old"
    finally:
        folder.chmod(stat.S_IRWXU)
    assert not (folder / ".lock").exists()
