"""IMDB film reviews (Maas et al. 2011): does somebody praise a film, or not?

The files are ``imdb/train.jsonl`` and ``imdb/test.jsonl`` in the data directory, one
review in a line: ``{"text": "...", "label": 1}``, where 1 is praise; other fields are
not read. Hugging Face's `datasets` (the extra ``text``) downloads what is missing.
"""

from codecs import BOM_UTF8
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from dynalay_gym.data.hub import fetch_lines
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
        parts = {f"{name}.jsonl": name for name in ("train", "test")}
        fetch_lines("IMDB", root / _FOLDER, (_SOURCE,), parts, _line)
    try:
        reviews = [
            _parse(line, path, number)
            for number, line in enumerate(_lines(path), start=1)
            if line.strip()
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


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a file, without the mark that some editors begin it with."""
    return path.read_bytes().removeprefix(BOM_UTF8).splitlines()


def _parse(line: bytes, path: Path, number: int) -> _Review:
    """Return the review in a line of a file."""
    try:
        return msgspec.json.decode(line, type=_Review)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"imdb: line {number} of {path} is no review ({error}); lines are UTF-8, "
            '{"text": "...", "label": 0 or 1}'
        ) from None


def _line(row: Any) -> str:
    """Return the line of a review."""
    review = {"text": row["text"], "label": row["label"]}
    return msgspec.json.encode(review).decode()
