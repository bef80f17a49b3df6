"""Data sets that come as files: find, check, download and read them.

torchvision knows where the files come from and how to read them; this module adds
what it lacks: a checksum for every file before anything is read, an error that names
the file and the remedy, and atomic downloads.
"""

import hashlib
import http.client
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynalay_gym.errors import DataError


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """Where a torchvision data set keeps its files.

    Attributes:
        class_name: Class in `torchvision.datasets`.
        folder: Folder of the files, below the data directory.
        checksums: md5 of every file that is read, by file name.
    """

    class_name: str
    folder: str
    checksums: Mapping[str, str]


# The CIFAR sums are torchvision's. For Fashion-MNIST torchvision checks the archives
# only and reads whatever was unpacked from them, so these are sums of the unpacked
# files.
FILE_SETS: Mapping[str, FileSet] = {
    "cifar10": FileSet(
        class_name="CIFAR10",
        folder="cifar-10-batches-py",
        checksums={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    "cifar100": FileSet(
        class_name="CIFAR100",
        folder="cifar-100-python",
        checksums={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
    "fashion-mnist": FileSet(
        class_name="FashionMNIST",
        folder="FashionMNIST/raw",
        checksums={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}


def default_data_dir() -> Path:
    """Return `$DYNALAY_DATA_DIR`, or `~/.cache/dynalay_gym/data` if it is not set."""
    folder = os.environ.get("DYNALAY_DATA_DIR") or "~/.cache/dynalay_gym/data"
    return Path(folder).expanduser()


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of all data sets; `default_data_dir` if it is None."""
    return default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def read_images(
    dataset: str,
    *,
    train: bool,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the official train or test set.

    Args:
        dataset: A key of `FILE_SETS`.
        train: Official train set if true, official test set otherwise.
        data_dir: Folder of all data sets; None is `default_data_dir()`.
        download: Fetch the files if one is missing or corrupt.

    Returns:
        Pixels, uint8 [N, C, H, W], and labels, int64 [N], in the official order.

    Raises:
        DataError: Files are missing or corrupt, or could not be downloaded.
    """
    files = FILE_SETS[dataset]
    root = data_root(data_dir)
    flaw = _first_flaw(files, root)
    if flaw and download:
        _fetch(files, root)
        flaw = _first_flaw(files, root)
    if flaw:
        raise DataError(
            f"{dataset}: {flaw}; point --data-dir (data_dir=) at the folder that holds "
            f"{files.folder}/, or allow the download: drop --no-download "
            "(download=True)"
        )
    # torchvision unpickles the CIFAR files: only now, when each one is known to be
    # byte for byte the published file. It checks the same sums once more itself.
    source = _dataset_class(files)
    official = source(str(root), train=train, download=False)
    return _channels_first(np.asarray(official.data)), np.asarray(
        official.targets, dtype=np.int64
    )


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    """Turn [N, H, W] (grey) or [N, H, W, C] into [N, C, H, W]."""
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2)


def _first_flaw(files: FileSet, root: Path) -> str | None:
    """Say what is wrong with the first file that cannot be used; None if all are."""
    for name, expected in files.checksums.items():
        path = root / files.folder / name
        try:
            with path.open("rb") as stream:
                digest = hashlib.md5(usedforsecurity=False)
                digest.update(stream.read())
        except FileNotFoundError:
            return f"file {path} is missing"
        except OSError as error:
            return f"file {path} cannot be read ({error.strerror})"
        if (md5 := digest.hexdigest()) != expected:
            return f"file {path} is corrupt or incomplete (its md5 is {md5})"
    return None


def _fetch(files: FileSet, root: Path) -> None:
    """Download all files of a set, then move them into place one by one.

    An interrupted download leaves nothing behind, and two processes that download at
    the same time cannot read each other's half-written files.
    """
    source = _dataset_class(files)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            source(scratch, train=True, download=True)
            (root / files.folder).mkdir(parents=True, exist_ok=True)
            for name in files.checksums:
                os.replace(
                    Path(scratch, files.folder, name), root / files.folder / name
                )
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"downloading {files.class_name} into {root} failed ({reason}); check the "
            f"connection, or put {files.folder}/ there by hand or point --data-dir "
            "(data_dir=) at a folder that has it"
        ) from error


def _dataset_class(files: FileSet) -> Any:
    """Import torchvision only when it is needed, and explain a broken install."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        # A CUDA build of torchvision beside a CPU build of torch installs without
        # complaint and fails here, with an error that names neither.
        raise DataError(
            "torchvision is missing or does not fit the installed torch; install torch "
            "and torchvision anew, both from the same package index "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    return getattr(datasets, files.class_name)
