"""Downloads of texts with Hugging Face's `datasets`, the extra ``text``."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynalay_gym.errors import DataError


def fetch_lines(
    name: str,
    folder: Path,
    source: tuple[str, ...],
    parts: Mapping[str, str],
    line_of: Callable[[Any], str],
) -> None:
    """Download the parts of a data set as files, and put them into place together.

    Args:
        name: Name of the data set, for messages.
        folder: Where the files go; made if absent.
        source: Name and, if it has some, configuration at Hugging Face.
        parts: By file name, the part there.
        line_of: Makes a line of the file from a row.

    Raises:
        DataError: `datasets` is not installed, or the download failed; no file is left
            of it.
    """
    remedy = (
        f"put {folder.name}/ into {folder.parent} by hand, or point --data-dir "
        "(data_dir=) at a folder that has it"
    )
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name}: {folder} has no files, and downloading them needs Hugging Face's "
            f'datasets: pip install "dynalay-gym[text]", or {remedy}'
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".download-", dir=folder.parent
        ) as scratch:
            for file, part in parts.items():
                rows = datasets.load_dataset(
                    *source, split=part, cache_dir=f"{scratch}/cache"
                )
                text = "\n".join(line_of(row).rstrip("\n") for row in rows) + "\n"
                Path(scratch, file).write_text(text, encoding="utf-8")
            folder.mkdir(exist_ok=True)
            for file in parts:
                Path(scratch, file).replace(folder / file)
    except Exception as error:  # it has no class of its own for a failed download
        reason = " ".join(str(error).split())
        raise DataError(
            f"downloading {name} failed ({reason}); check connection and disk, {remedy}"
        ) from error
