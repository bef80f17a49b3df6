"""A checkpoint loads whole and as it was written, or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import (
    make_vec,
    random_images,
    random_model,
    random_split,
    tiny_config,
)

from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, DynaLayError
from dynalay_gym.networks.checkpoint import (
    META_NAME,
    load_network,
    load_tensors,
    save_network,
    save_tensors,
)
from dynalay_gym.sessions.calibration import calibrate, find_calibration
from dynalay_gym.sessions.fastest import fastest_session

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3),
    "half": torch.ones(2, dtype=torch.float16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a small network."""
    save_network(tmp_path / "network", random_model(tiny_config()), {"note": "kept"})
    return tmp_path / "network"


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def edit_meta(folder: Path, **changes: Any) -> None:
    path = folder / META_NAME
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(meta | changes), encoding="utf-8")


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    save_tensors(tmp_path / "new" / "folder", TENSORS, {"kind": "test", "x": [1, 2]})
    tensors, meta = load_tensors(tmp_path / "new" / "folder")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert (meta["kind"], meta["x"]) == ("test", [1, 2])


def test_views_and_gradients_do_not_matter(tmp_path: Path) -> None:
    base = torch.randn(4, 6, requires_grad=True)
    save_tensors(tmp_path, {"t": base.T, "part": base[1]}, {})
    tensors, _ = load_tensors(tmp_path)
    assert torch.equal(tensors["t"], base.detach().T)
    assert torch.equal(tensors["part"], base.detach()[1])


@pytest.mark.parametrize("form", ["wide", "state"])
def test_a_network_comes_back_with_the_same_answers(form: str, tmp_path: Path) -> None:
    model = random_model(tiny_config(form))
    save_network(tmp_path, model, {"note": 5})
    loaded, meta = load_network(tmp_path)
    assert loaded.config == model.config
    assert meta["note"] == 5
    assert not loaded.training
    images = random_images(model.config, 3)
    with torch.no_grad():
        for path in range(8):
            expected = model.forward_path(images, path)
            assert torch.equal(loaded.forward_path(images, path), expected)


def test_an_environment_uses_what_the_checkpoint_stores(tmp_path: Path) -> None:
    model, split = random_model(tiny_config()), random_split(tiny_config())
    stored = calibrate(fastest_session(model), split).to_dict()
    stored |= {"always_extra_macs": 12345.5, "plain_accuracy": 0.25}
    stored |= {"always_accuracy": 0.75}
    save_network(tmp_path, model, {"calibrations": [stored]})
    envs = DynaLayVectorEnv(1, checkpoint=tmp_path, split=split)
    assert envs.always_extra_macs == 12345.5
    assert envs.penalty_range == (0.25, 0.25)
    other = DynaLayVectorEnv(1, checkpoint=str(tmp_path), split=split, rtol=0.05)
    assert other.always_extra_macs != 12345.5, "another tolerance is measured anew"


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path) -> None:
    save_network(folder, random_model(tiny_config(), seed=1), {})
    assert len(list(folder.iterdir())) == 2
    save_network(folder, random_model(tiny_config(), seed=1), {"again": True})
    assert len(list(folder.iterdir())) == 2
    assert load_network(folder)[1]["again"] is True


# --- damage ---------------------------------------------------------------------------


def missing_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def missing_json(folder: Path) -> None:
    (folder / META_NAME).unlink()


def missing_weights(folder: Path) -> None:
    weights_of(folder).unlink()


def truncated_weights(folder: Path) -> None:
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:-1])


def empty_weights(folder: Path) -> None:
    weights_of(folder).write_bytes(b"")


def truncated_json(folder: Path) -> None:
    path = folder / META_NAME
    path.write_bytes(path.read_bytes()[:100])


def empty_json(folder: Path) -> None:
    (folder / META_NAME).write_bytes(b"")


def binary_json(folder: Path) -> None:
    (folder / META_NAME).write_bytes(b"\xff\xfe\x00garbage")


def json_of_another_kind(folder: Path) -> None:
    (folder / META_NAME).write_text("[1, 2]", encoding="utf-8")


def another_format(folder: Path) -> None:
    edit_meta(folder, format=99)


def weights_elsewhere(folder: Path) -> None:
    edit_meta(folder, weights=f"../{folder.name}/{weights_of(folder).name}")


def an_agent(folder: Path) -> None:
    edit_meta(folder, kind="agent")


def another_architecture(folder: Path) -> None:
    edit_meta(folder, config=tiny_config(channels=(2, 3, 5)).to_dict())


def another_form(folder: Path) -> None:
    edit_meta(folder, config=tiny_config("state").to_dict())


def impossible_architecture(folder: Path) -> None:
    edit_meta(folder, config=tiny_config().to_dict() | {"kappa": 2.0})


def unknown_field(folder: Path) -> None:
    edit_meta(folder, config=tiny_config().to_dict() | {"colour": "red"})


def no_architecture(folder: Path) -> None:
    path = folder / META_NAME
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["config"]
    path.write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        missing_folder,
        missing_json,
        missing_weights,
        truncated_weights,
        empty_weights,
        truncated_json,
        empty_json,
        binary_json,
        json_of_another_kind,
        another_format,
        weights_elsewhere,
        an_agent,
        another_architecture,
        another_form,
        impossible_architecture,
        unknown_field,
        no_architecture,
    ],
)
def test_damage_is_refused_in_one_line_that_names_the_place(
    damage: Callable[[Path], None], folder: Path
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_network(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    with pytest.raises(CheckpointError):
        make_vec(1, checkpoint=folder)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    save_tensors(tmp_path, TENSORS, {})
    path = weights_of(tmp_path)
    whole = path.read_bytes()
    for position in range(0, 8 * len(whole), 13):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="corrupt"):
            load_tensors(tmp_path)


def test_a_network_for_other_images_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"\(1, 8, 8\).*\(2, 8, 8\)"):
        make_vec(1, split=random_split(tiny_config(in_shape=(2, 8, 8))))
    with pytest.raises(CheckpointError, match="classes"):
        make_vec(1, split=random_split(tiny_config(num_classes=9)))


# --- interruptions --------------------------------------------------------------------


@pytest.mark.parametrize("name", [META_NAME, ".safetensors"])
def test_an_interrupted_save_leaves_the_old_checkpoint(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = load_tensors(folder)
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if str(target).endswith(name):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_network(folder, random_model(tiny_config(), seed=9), {"note": "new"})
    monkeypatch.undo()
    after, meta = load_tensors(folder)
    assert meta["note"] == "kept"
    assert all(torch.equal(after[key], value) for key, value in before.items())
    drafts = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert drafts == []
    # The next save goes through and sweeps up what the interrupted one left.
    save_network(folder, random_model(tiny_config(), seed=9), {"note": "new"})
    assert load_network(folder)[1]["note"] == "new"
    assert len(list(folder.iterdir())) == 2


def test_facts_without_a_json_form_are_refused_and_the_old_ones_stay(
    folder: Path,
) -> None:
    with pytest.raises(TypeError):
        save_network(folder, random_model(tiny_config()), {"note": object()})
    assert load_network(folder)[1]["note"] == "kept"


def test_checkpoint_errors_are_errors_of_the_package() -> None:
    assert issubclass(CheckpointError, DynaLayError)


def test_malformed_calibration_is_named() -> None:
    meta = {"calibrations": [{"rtol": 0.1}]}
    with pytest.raises(CheckpointError, match="calibrations are malformed"):
        find_calibration(meta, {"rtol": 0.1})
