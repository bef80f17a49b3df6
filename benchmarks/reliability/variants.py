"""Damaged and hostile variants of a saved folder, unsigned and honestly signed.

What is signed carries the right hashes: a reader has to see by its content that it is
no sound one.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.reliability.file_variants import of_file, of_folder, of_manifest_text
from benchmarks.reliability.value_variants import of_values
from benchmarks.reliability.variant import Variant, read_manifest
from benchmarks.reliability.weight_variants import of_tensors, of_weights_bytes
from dynalay_gym.storage.saved_folder import MANIFEST_NAME


def variants(folder: Path) -> Iterator[Variant]:
    """Yield all variants of a sound folder."""
    manifest = read_manifest(folder)
    for member in (MANIFEST_NAME, manifest["weights"]["name"]):
        yield from of_file(member)
    yield from of_folder()
    yield from of_manifest_text()
    yield from of_weights_bytes()
    yield from of_tensors(load_file(folder / manifest["weights"]["name"]))
    yield from of_values(manifest)
