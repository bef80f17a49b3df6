"""WikiText-2 (Merity et al. 2016): articles, of which the next word is predicted.

A sample is a window of T words; its class is the word behind them. Windows do not
overlap, and each is read from its own beginning: nothing is carried over.

The files are ``wikitext-2/{train,valid,test}.txt`` in the data directory, words parted
by spaces; the end of a line counts as the word ``<eos>``. Hugging Face's `datasets`
(the extra ``text``) downloads what is missing.
"""

import os
import re

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.data.hub import fetch_lines
from dynalay_gym.data.images import data_root
from dynalay_gym.errors import DataError

FILES = {"train": 2_088_628, "valid": 217_646, "test": 245_569}  # words
_FOLDER, _SOURCE = "wikitext-2", ("Salesforce/wikitext", "wikitext-2-v1")
_TITLE = re.compile(r" = [^=].* = ?$")


def read_words(
    part: str, data_dir: str | os.PathLike[str] | None = None, download: bool = True
) -> tuple[list[str], NDArray[np.int64]]:
    """Read an official part.

    Args:
        part: train, valid or test.
        data_dir: Folder of all data sets; None is `default_data_dir()`.
        download: Fetch the files if one is missing.

    Returns:
        The words in order, and the number of each one's article, int64 [words].

    Raises:
        DataError: Files are missing or not the published ones, or could not be
            downloaded.
    """
    path = data_root(data_dir) / _FOLDER / f"{part}.txt"
    if not path.exists() and download:
        parts = {f"{name}.txt": hub for name, hub in zip(FILES, _HUB, strict=True)}
        fetch_lines("WikiText-2", path.parent, _SOURCE, parts, lambda row: row["text"])
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            f"wikitext2: file {path} cannot be read ({error.strerror}); point "
            f"--data-dir (data_dir=) at the folder that holds {_FOLDER}/, or allow the "
            'download: pip install "dynalay-gym[text]" and drop --no-download '
            "(download=True)"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"wikitext2: {path} is no UTF-8 text ({error})") from None
    words, articles = _words(lines[:-1] if lines[-1] == "" else lines)
    if len(words) != FILES[part]:
        raise DataError(
            f"wikitext2: {path} holds {len(words):,} words, not {FILES[part]:,}; it is "
            "incomplete or another file (wanted: WikiText-2, word level): fetch it "
            "again"
        )
    return words, articles


_HUB = ("train", "validation", "test")


def _words(lines: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the words of lines, and the article of each."""
    words: list[str] = []
    counts, titles = [], []
    for line in lines:
        before = len(words)
        words += [*line.split(), "<eos>"]
        counts.append(len(words) - before)
        titles.append(_TITLE.match(line) is not None)
    return words, np.repeat(np.cumsum(titles), counts)


def windows(
    tokens: NDArray[np.int64], articles: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut a text into windows that do not overlap.

    Args:
        tokens: The text, int64 [words].
        articles: The article of each word, int64 [words].
        length: Words T of a window.

    Returns:
        Windows, int64 [n, T]; the words behind them, int64 [n]; and the articles of
        these, int64 [n].
    """
    num = (len(tokens) - 1) // length
    behind = np.arange(1, num + 1) * length
    return tokens[: num * length].reshape(num, length), tokens[behind], articles[behind]
