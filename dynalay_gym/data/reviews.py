"""IMDB film reviews (Maas et al. 2011): does somebody praise a film, or not?

The files are ``imdb/train.jsonl`` and ``imdb/test.jsonl`` in the data directory, one
review in a line: ``{"text": "...", "label": 1}``, where 1 is praise; other fields are
not read. Hugging Face's `datasets` (the extra ``text``) downloads what is missing.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from dynalay_gym.data.images import data_root
from dynalay_gym.errors import DataError

CLASSES = ("against", "in favour")
_FOLDER, _PER_CLASS = "imdb", 12_500
_SOURCE = "stanfordnlp/imdb"  # at Hugging Face


class _Review(msgspec.Struct):
    """What is read of a line."""

    text: str
    label: Annotated[int, Meta(ge=0, le=1)]


def read_reviews(
    *, train: bool, data_dir: Any = None, download: bool = True
) -> tuple[list[str], NDArray[np.int64]]:
    """Read the official train or test set.

    Args:
        train: Official train set if true, official test set otherwise.
        data_dir: Folder of all data sets; None is `default_data_dir()`.
        download: Fetch the files if one is missing.

    Returns:
        25,000 texts in alphabetical order, whatever the order of the file, and their
        classes, int64 [25,000].

    Raises:
        DataError: Files are missing, incomplete or not of this form, or could not be
            downloaded.
    """
    root = data_root(data_dir)
    path = root / _FOLDER / ("train.jsonl" if train else "test.jsonl")
    if not path.exists() and download:
        _fetch(root)
    try:
        reviews = [
            _parse(line, path, number)
            for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        ]
    except OSError as error:
        raise DataError(
            f"imdb: file {path} cannot be read ({error.strerror}); point --data-dir "
            "(data_dir=) at the folder that holds imdb/, or allow the download: pip "
            'install "dynalay-gym[text]" and drop --no-download (download=True)'
        ) from None
    counts = Counter(review.label for review in reviews)
    if counts != {0: _PER_CLASS, 1: _PER_CLASS}:
        raise DataError(
            f"imdb: {path} holds {counts[0]:,} and {counts[1]:,} reviews of the two "
            f"classes, not {_PER_CLASS:,} each; it is incomplete or another file: "
            "fetch it again"
        )
    reviews.sort(key=lambda review: (review.text, review.label))
    labels = np.array([review.label for review in reviews], dtype=np.int64)
    return [review.text for review in reviews], labels


def _parse(line: bytes, path: Path, number: int) -> _Review:
    """Return the review in a line of a file."""
    try:
        return msgspec.json.decode(line, type=_Review)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"imdb: line {number} of {path} is no review ({error}); lines are UTF-8, "
            '{"text": "...", "label": 0 or 1}'
        ) from None


def _fetch(root: Path) -> None:
    """Download both sets, and put them into place when both are there."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"imdb: {root / _FOLDER} has no reviews, and downloading them needs "
            'Hugging Face\'s datasets: pip install "dynalay-gym[text]", or point '
            "--data-dir (data_dir=) at a folder that holds imdb/"
        ) from None
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            for name in ("train", "test"):
                rows = datasets.load_dataset(
                    _SOURCE, split=name, cache_dir=f"{scratch}/cache"
                )
                lines = (
                    msgspec.json.encode({"text": row["text"], "label": row["label"]})
                    for row in rows
                )
                Path(scratch, f"{name}.jsonl").write_bytes(b"\n".join(lines))
            (root / _FOLDER).mkdir(exist_ok=True)
            for name in ("train", "test"):
                new = Path(scratch, f"{name}.jsonl")
                new.replace(root / _FOLDER / new.name)
    except Exception as error:  # it has no class of its own for a failed download
        reason = " ".join(str(error).split())
        raise DataError(
            f"downloading IMDB into {root} failed ({reason}); check the connection, or "
            f"put {_FOLDER}/ there by hand, or point --data-dir (data_dir=) at a "
            "folder that has it"
        ) from error
