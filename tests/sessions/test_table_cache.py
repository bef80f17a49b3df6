"""A hostile file in the cache is built again, whatever it is."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.networks import make_vec
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynalay_gym.sessions.transition_table import TransitionTable


def table_of(num_envs: int = 1) -> TransitionTable:
    table = make_vec(num_envs, transitions="table").problem.table
    assert table is not None
    return table


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a table that was kept."""
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    table_of()
    (found,) = tmp_path.glob("transitions-*")
    return found


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def sparse(file: Path) -> None:
    os.truncate(file, 2**40)


def zeros(file: Path) -> None:
    file.write_bytes(b"")
    os.truncate(file, 2**40)


def rewritten(
    edit: Callable[[dict[str, Tensor]], object], about: str | None = None
) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with safe_open(file, framework="pt") as old:
            metadata = old.metadata()
        tensors = {name: part.clone() for name, part in load_file(file).items()}
        edit(tensors)
        save_file(tensors, file, metadata if about is None else {"about": about})

    return change


def each(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    return rewritten(lambda t: t.update({k: change(v) for k, v in t.items()}))


HOSTILE = {
    "pipe": pipe,
    "link to an endless device": endless,
    "link to nothing": nowhere,
    "grown to 1 TiB": sparse,
    "1 TiB of zeros": zeros,
    "no tensor": rewritten(lambda tensors: tensors.clear()),
    "a tensor is missing": rewritten(lambda tensors: tensors.popitem()),
    "other numbers": each(lambda part: part + 1),
    "other shapes": each(lambda part: part[:1].clone()),
    "other types": each(lambda part: part.to(torch.float64)),
    "8-bit floats": each(lambda part: part.float().to(torch.float8_e4m3fn)),
    "no JSON": rewritten(lambda _: None, about="{"),
    "deep JSON": rewritten(lambda _: None, about="[" * 100_000),
    "a list": rewritten(lambda _: None, about=json.dumps([1])),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_it_is_built_again(damage: Callable[[Path], None], file: Path) -> None:
    whole = file.read_bytes()
    damage(file)
    found = table_of().tensors()
    assert file.read_bytes() == whole
    assert all(torch.equal(found[k], v) for k, v in load_file(file).items())


def test_no_flipped_bit_is_served(file: Path) -> None:
    whole, chance = file.read_bytes(), random.Random(0)
    for _ in range(12):
        position = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        file.unlink()  # the earlier one is mapped
        file.write_bytes(damaged)
        table_of()
        assert file.read_bytes() == whole


def test_a_folder_in_its_place_is_only_a_warning(file: Path) -> None:
    before = {k: v.clone() for k, v in table_of().tensors().items()}
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="not kept for the next time"):
        found = table_of().tensors()
    assert all(torch.equal(found[k], v) for k, v in before.items())
