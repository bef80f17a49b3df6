"""Saved folders with other content: honestly signed ones, and damaged ones."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dynalay_gym.storage.saved_folder import MANIFEST_NAME
from dynalay_gym.storage.schema import json_digest


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(weights_of(folder))


def facts_of(folder: Path) -> dict[str, Any]:
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    return dict(json.loads(text)["facts"])


def visible(folder: Path) -> list[str]:
    """Names in a folder without the hidden ones: the lock stays."""
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if not name.startswith("."))


def edit_manifest(
    folder: Path, facts: dict[str, Any] | None = None, **top: Any
) -> None:
    """Change fields of the facts and of the manifest, and sign it anew."""
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["facts"] |= facts or {}
    manifest |= top
    manifest["sha256"] = json_digest(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
