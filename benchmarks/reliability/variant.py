"""A change of a saved folder in place; what is signed carries the right hashes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynalay_gym.storage.saved_folder import MANIFEST_NAME
from dynalay_gym.storage.schema import json_digest

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Variant:
    """One change of a folder.

    Attributes:
        name: What is changed, and how.
        change: Applies it.
        signed: Whether its hashes are right, so that a reader cannot tell by them.
    """

    name: str
    change: Change
    signed: bool = False


def read_manifest(folder: Path) -> Any:
    """Return what a manifest holds."""
    return json.loads((folder / MANIFEST_NAME).read_text("utf-8"))


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with its own hash."""
    manifest["sha256"] = json_digest(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")


def other_for(new: Any, old: Any) -> Any:
    """Return the new value, whatever the old one is."""
    return new
