"""All kinds of saved folders, and sound ones of each."""

from pathlib import Path

from benchmarks.reliability.folders import ITERATED_KINDS
from benchmarks.reliability.skipping_folders import SKIPPING_KINDS

KINDS = ITERATED_KINDS | SKIPPING_KINDS


def make_sources(folder: Path, kinds: list[str]) -> dict[str, dict[str, Path]]:
    """Write all sound folders of some kinds; return their places by kind and name."""
    places: dict[str, dict[str, Path]] = {}
    for kind in kinds:
        places[kind] = {}
        for name in KINDS[kind].sources:
            places[kind][name] = folder / kind / name
            KINDS[kind].make(name, places[kind][name])
    return places
