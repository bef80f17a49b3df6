"""Splits that are known to the image, and files that are missing, broken or whole."""

import dataclasses
import hashlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynalay_gym.data import images as data_files
from dynalay_gym.data import splits as data
from dynalay_gym.data.registry import DATASETS, SPLITS, dataset_spec
from dynalay_gym.data.splits import Split, augment, load_split
from dynalay_gym.errors import ConfigError, DataError

DIGIT_ORIGINALS = {"main": 800, "agent": 450, "validation": 150, "test": 397}


def raw_pixels(split: Split, name: str) -> np.ndarray:
    """Undo the normalisation: pixels as integers, [N, C, H, W]."""
    spec = dataset_spec(name)
    shape = (1, -1, 1, 1)
    mean = torch.tensor(spec.mean).reshape(shape)
    std = torch.tensor(spec.std).reshape(shape)
    pixels = (split.inputs * std + mean) * spec.pixel_max
    rounded = pixels.round()
    assert torch.allclose(pixels, rounded, atol=1e-3)
    return rounded.numpy().astype(np.int64)


def shifted_by_hand(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Move an image [H, W] down by dy and right by dx, pixel by pixel."""
    moved = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            target = (row + dy, column + dx)
            if 0 <= target[0] < image.shape[0] and 0 <= target[1] < image.shape[1]:
                moved[target] = image[row, column]
    return moved


# --- digits ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPLITS)
def test_digits_split_has_its_size_and_types(name: str) -> None:
    split = load_split("digits", name)
    assert len(split) == 9 * DIGIT_ORIGINALS[name]
    assert split.inputs.shape == (len(split), 1, 8, 8)
    assert split.inputs.dtype == torch.float32
    assert split.inputs.is_contiguous()
    assert split.labels.shape == split.groups.shape == (len(split),)
    assert split.labels.dtype == split.groups.dtype == torch.int64
    assert len(split.groups.unique()) == DIGIT_ORIGINALS[name]
    assert split.name == name


def test_digits_splits_share_no_original_and_leave_none_out() -> None:
    ids = torch.cat([load_split("digits", name).groups[::9] for name in SPLITS])
    assert torch.equal(ids.sort().values, torch.arange(1797))


def test_digits_are_the_nine_shifts_of_their_original() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    split = load_split("digits", "validation")
    pixels = raw_pixels(split, "digits")[:, 0]
    for sample, group in enumerate(split.groups.tolist()):
        dy, dx = divmod(sample % 9, 3)
        expected = shifted_by_hand(original.images[group], dy - 1, dx - 1)
        np.testing.assert_array_equal(pixels[sample], expected)
        assert split.labels[sample] == original.target[group]


def test_digits_main_split_is_normalised() -> None:
    images = load_split("digits", "main").inputs
    assert abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3


def test_splits_never_change() -> None:
    # The published numbers rest on these splits. If this fails, the splits moved:
    # do not update the sums, bring the old splits back.
    sums = {
        name: hashlib.sha256(load_split("digits", name).groups.numpy()).hexdigest()[:16]
        for name in SPLITS
    }
    assert sums == {
        "main": "b559e449cafed036",
        "agent": "a13b35cea0234b40",
        "validation": "042494c060595a01",
        "test": "c540c76de588a936",
    }


def test_a_split_is_the_same_on_every_call_whatever_the_seed() -> None:
    torch.manual_seed(1)
    first = load_split("digits", "agent")
    torch.manual_seed(2)
    second = load_split("digits", "agent")
    for field in ("inputs", "labels", "groups"):
        assert torch.equal(getattr(first, field), getattr(second, field))


def test_cut_gives_every_split_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(4), [400, 300, 200, 100])
    sizes = {"main": 600, "agent": 300, "validation": 100}
    cut = data._cut(labels, sizes)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(list(cut.values()))), np.arange(1000)
    )
    for name, size in sizes.items():
        share = np.bincount(labels[cut[name]]) / size
        np.testing.assert_allclose(share, [0.4, 0.3, 0.2, 0.1], atol=0.011)


def test_split_moves_to_another_device() -> None:
    split = load_split("digits", "validation").to("meta")
    assert split.inputs.device == split.labels.device == split.groups.device
    assert split.inputs.device.type == "meta"
    assert split.name == "validation"


def test_samples_of_ones_own_may_have_any_shape_and_no_groups() -> None:
    tokens = torch.arange(12).view(4, 3)
    split = Split(tokens, torch.tensor([0, 1, 1, 0]))
    assert split.groups.tolist() == [0, 1, 2, 3]
    assert (len(split), split.name, split.inputs.dtype) == (4, "own", torch.int64)
    assert split.to("cpu").groups.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": torch.zeros(4)}, r"labels must be int64.*\.long\(\)"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, "labels.*one per input"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"\(4,\).*\(3,\)"),
        ({"groups": torch.zeros(4)}, "groups must be int64.*leave groups out"),
        ({"groups": torch.zeros(9, dtype=torch.int64)}, "groups"),
        ({"difficulty": torch.zeros(4)}, "difficulty must be int64"),
        ({"inputs": torch.tensor(1.0)}, "at least one sample"),
        ({"inputs": torch.zeros(0, 2), "labels": torch.zeros(0).long()}, "empty"),
        ({"inputs": torch.zeros(4, 2, device="meta")}, "move them to one device"),
        ({"labels": torch.tensor([0, 1, -1, 2])}, "labels are classes from 0 on"),
        ({"labels": torch.tensor([0, -100, 1, 2])}, "not -100"),
        ({"labels": torch.eye(4, dtype=torch.int64)}, r"labels.*not.*\(4, 4\)"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"\(4,\).*\(5,\)"),
        ({"labels": torch.zeros(4, dtype=torch.int32)}, "labels must be int64"),
        ({"labels": torch.zeros(0, dtype=torch.int64)}, r"\(4,\).*\(0,\)"),
        ({"labels": np.zeros(4, np.int64)}, r"labels.*ndarray.*torch\.as_tensor"),
        ({"labels": [0, 1, 2, 0]}, "labels must be a dense tensor, not list"),
        ({"labels": None}, "labels must be a dense tensor, not NoneType"),
        ({"inputs": np.zeros((4, 2))}, "inputs must be a dense tensor, not ndarray"),
        ({"inputs": None}, "inputs must be a dense tensor"),
        ({"inputs": "images"}, "inputs must be a dense tensor, not str"),
        ({"inputs": torch.zeros(4, 2).to_sparse()}, r"inputs.*\.to_dense\(\)"),
        ({"groups": np.zeros(4, np.int64)}, "groups must be a dense tensor"),
        ({"groups": [0, 1, 2, 3]}, "groups must be a dense tensor"),
        ({"groups": torch.zeros(4, 1).long()}, "groups must be int64"),
        ({"difficulty": [0, 1, 2, 3]}, "difficulty must be a dense tensor"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_a_remedy(
    changes: dict[str, Any], words: str
) -> None:
    parts = {"inputs": torch.zeros(4, 2), "labels": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(DataError, match=words) as caught:
        Split(**parts | changes)
    assert "\n" not in str(caught.value)


# --- arguments ------------------------------------------------------------------------


def test_unknown_dataset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'mnist'.*digits, fashion-mnist, cifar10"):
        load_split("mnist", "main")


def test_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'train'.*main, agent, validation, test"):
        load_split("cifar10", "train", download=False)


def test_specs_agree_with_themselves() -> None:
    images = ["digits", "fashion-mnist", "cifar10", "cifar100"]
    texts = ["chains", "sudoku", "sudoku6", "sudoku9", "imdb", "wikitext2"]
    assert list(DATASETS) == [*images, "maze", "maze-hopeless", *texts]
    for name, spec in DATASETS.items():
        assert spec.name == name
        channels = 0 if spec.vocabulary else spec.in_shape[0]
        assert len(spec.mean) == len(spec.std) == channels
        assert set(spec.cut) <= set(SPLITS)
        assert spec.embedded or spec.vocabulary or name in data_files.FILE_SETS


def test_data_dir_comes_from_the_environment_or_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNALAY_DATA_DIR", str(tmp_path))
    assert data_files.default_data_dir() == tmp_path
    monkeypatch.delenv("DYNALAY_DATA_DIR")
    assert data_files.default_data_dir() == Path.home() / ".cache/dynalay_gym/data"


# --- files ----------------------------------------------------------------------------


@pytest.fixture
def tiny_fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A whole Fashion-MNIST of 12 + 4 images under tmp_path, known to the registry."""
    folder = tmp_path / "FashionMNIST" / "raw"
    write_tiny_fashion(folder)
    files = data_files.FILE_SETS["fashion-mnist"]
    checksums = {
        name: hashlib.md5((folder / name).read_bytes()).hexdigest()
        for name in files.checksums
    }
    monkeypatch.setitem(
        data_files.FILE_SETS,
        "fashion-mnist",
        dataclasses.replace(files, checksums=checksums),
    )
    monkeypatch.setitem(
        DATASETS,
        "fashion-mnist",
        dataclasses.replace(
            DATASETS["fashion-mnist"], cut={"main": 6, "agent": 4, "validation": 2}
        ),
    )
    return tmp_path


def write_tiny_fashion(folder: Path) -> None:
    """Write idx files: image i is constant i, its label i modulo 2."""
    folder.mkdir(parents=True)
    for part, num in (("train", 12), ("t10k", 4)):
        ids = np.arange(num, dtype=np.uint8)
        pixels = np.broadcast_to(ids[:, None, None], (num, 28, 28))
        for kind, array in (("images-idx3", pixels), ("labels-idx1", ids % 2)):
            header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4")
            content = header.tobytes() + array.tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)


def offline(*args: object, **kwargs: object) -> None:
    raise urllib.error.URLError("no route to host")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_missing_files_name_file_folder_and_flags(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_split(name, "main", data_dir=tmp_path, download=False)
    message = str(caught.value)
    files = data_files.FILE_SETS[name]
    assert str(tmp_path / files.folder / next(iter(files.checksums))) in message
    for part in ("missing", "--data-dir", "data_dir=", "--no-download", "download="):
        assert part in message
    assert "\n" not in message
    assert not any(tmp_path.iterdir())


def test_truncated_cifar_file_is_an_error_and_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.parent.mkdir()
    path.write_bytes(b"\x80\x02}q\x01(U\x0bbatch_label")
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(DataError, match=r"data_batch_1 is corrupt or incomplete"):
        load_split("cifar10", "main", data_dir=tmp_path, download=False)


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data_batch_1 cannot be read"):
        load_split("cifar10", "main", data_dir=tmp_path, download=False)


def test_official_train_set_is_cut_and_test_set_is_kept(tiny_fashion: Path) -> None:
    splits = {
        name: load_split("fashion-mnist", name, data_dir=tiny_fashion, download=False)
        for name in SPLITS
    }
    assert [len(split) for split in splits.values()] == [6, 4, 2, 4]
    for split in splits.values():
        assert split.inputs.shape[1:] == (1, 28, 28)
        values = raw_pixels(split, "fashion-mnist")[:, 0, 13, 13]
        np.testing.assert_array_equal(values, split.groups)
        np.testing.assert_array_equal(split.labels, split.groups % 2)
    trained = torch.cat([splits[name].groups for name in SPLITS[:3]])
    assert torch.equal(trained.sort().values, torch.arange(12))
    assert torch.equal(splits["test"].groups, torch.arange(4))


def test_truncated_fashion_file_is_an_error(tiny_fashion: Path) -> None:
    path = tiny_fashion / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is corrupt"):
        load_split("fashion-mnist", "main", data_dir=tiny_fashion, download=False)


def test_download_replaces_a_truncated_file_and_leaves_no_scratch(
    tiny_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(
        FashionMNIST, "download", lambda self: write_tiny_fashion(Path(self.raw_folder))
    )
    path = tiny_fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(b"half")
    assert len(load_split("fashion-mnist", "test", data_dir=tiny_fashion)) == 4
    assert [entry.name for entry in tiny_fashion.iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_download_without_a_network_says_so_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"no route to host.*--data-dir") as caught:
        load_split(name, "main", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_broken_torchvision_is_explained_and_digits_do_not_need_it(
    tiny_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="same package index"):
        load_split("fashion-mnist", "main", data_dir=tiny_fashion, download=False)
    assert len(load_split("digits", "validation")) == 1350


# --- real files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar10", (40_000, 8_000, 2_000, 10_000)),
        ("cifar100", (40_000, 8_000, 2_000, 10_000)),
        ("fashion-mnist", (50_000, 8_000, 2_000, 10_000)),
    ],
)
def test_real_files_give_normalised_disjoint_splits(
    name: str, sizes: tuple[int, ...]
) -> None:
    root = os.environ.get("DYNALAY_DATA_DIR")
    if not root or not Path(root, data_files.FILE_SETS[name].folder).is_dir():
        pytest.skip(f"DYNALAY_DATA_DIR does not point at the files of {name}")
    spec = dataset_spec(name)
    ids = []
    for split_name, size in zip(SPLITS, sizes, strict=True):
        split = load_split(name, split_name, download=False)
        assert split.inputs.shape == (size, *spec.in_shape)
        counts = torch.bincount(split.labels)
        assert (counts == size // spec.num_classes).all()
        assert float(split.inputs.mean((0, 2, 3)).abs().max()) < 0.1
        assert float((split.inputs.std((0, 2, 3)) - 1).abs().max()) < 0.05
        ids.append(split.groups)
    pool = torch.cat(ids[:3]).sort().values
    assert torch.equal(pool, torch.arange(sum(sizes[:3])))


# --- augmentation ---------------------------------------------------------------------


def batch(num: int = 64) -> torch.Tensor:
    images = torch.arange(num * 2 * 4 * 5, dtype=torch.float32) + 1
    return images.reshape(num, 2, 4, 5)


def test_augment_without_flip_and_shift_changes_nothing() -> None:
    images = batch()
    result = augment(images, torch.Generator().manual_seed(0), flip=False, shift=0)
    assert torch.equal(result, images)


def test_augment_mirrors_about_half_of_the_images() -> None:
    images = batch()
    result = augment(images, torch.Generator().manual_seed(0), flip=True, shift=0)
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


def test_augment_shifts_every_image_by_its_own_draw() -> None:
    images = batch(256)
    result = augment(images, torch.Generator().manual_seed(0), flip=False, shift=1)
    seen = set()
    for image, moved in zip(images.numpy(), result.numpy(), strict=True):
        shifts = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if all(
                np.array_equal(after, shifted_by_hand(before, dy, dx))
                for before, after in zip(image, moved, strict=True)
            )
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) == 9


def test_augment_follows_its_generator_alone() -> None:
    images = batch()
    first = augment(images, torch.Generator().manual_seed(5), shift=2)
    torch.manual_seed(99)
    second = augment(images, torch.Generator().manual_seed(5), shift=2)
    other = augment(images, torch.Generator().manual_seed(6), shift=2)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.is_contiguous()
    assert first.shape == images.shape
