"""Transition tables in the user's cache folder: found by content, read by mapping.

A table's name is the hash of all that its numbers depend on, so a changed network or
data set asks for another file. A file that is not whole is built again.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynalay_gym import __version__
from dynalay_gym.sessions.protocol import FiniteSession
from dynalay_gym.sessions.transition_table import (
    Layout,
    TransitionTable,
    build_table,
    num_bytes,
    table_layout,
)
from dynalay_gym.storage.digest import tensors_digest
from dynalay_gym.storage.io import cache_dir, write_file
from dynalay_gym.utils.memory import check_memory

FORMAT = 5


def get_table(
    session: FiniteSession, inputs: Tensor, labels: Tensor, padding: int
) -> TransitionTable:
    """Map the table of a network over samples; build and keep it if there is none.

    Args:
        session: The network.
        inputs: Samples [n, ...] on its device.
        labels: Their classes, int64 [n].
        padding: Columns of zeros behind the features.

    Returns:
        The table, in main memory.

    Raises:
        ConfigError: It would not fit into memory.
    """
    layout = table_layout(session, len(labels), padding)
    key = table_key(session, inputs, labels)
    path = cache_dir() / f"transitions-{key}.safetensors"
    table = _load(path, key, layout)
    if table is None:
        remedy = 'free some, give a smaller split, or use transitions="live"'
        check_memory(num_bytes(layout), "the transition table", remedy)
        table = build_table(session, inputs, labels, padding)
        try:
            _save(path, key, table)
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"the transition table is not kept for the next time: {error}; point "
                "DYNALAY_CACHE_DIR at a folder with room",
                stacklevel=2,
            )
        else:
            table = _load(path, key, layout) or table
    return table


def table_key(session: FiniteSession, inputs: Tensor, labels: Tensor) -> str:
    """Return the sha256 of all that a table's numbers depend on."""
    parts = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__],
        "processor": _processor(session.device),
        "network": session.fingerprint(),
        "data": tensors_digest({"inputs": inputs, "labels": labels}),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _processor(device: torch.device) -> str:
    """Return what decides which kernels PyTorch runs; others may round otherwise."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _load(path: Path, key: str, layout: Layout) -> TransitionTable | None:
    """Map a stored table; None unless it is there, whole and the one asked for."""
    if not path.is_file():  # a pipe would wait for a writer
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in layout}
    except Exception:  # whatever is wrong with it, it is built again
        return None
    for name, (shape, dtype) in layout.items():
        tensor = tensors[name]
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            return None
    return TransitionTable(**tensors) if about == _about(key, tensors) else None


def _save(path: Path, key: str, table: TransitionTable) -> None:
    """Write a table: the whole file appears, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = table.tensors()
    about = {"about": json.dumps(_about(key, tensors))}
    write_file(path, lambda draft: save_file(tensors, draft, about))


def _about(key: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Key and hash of every tensor: what a whole file says of itself."""
    sums = {name: tensors_digest({name: value}) for name, value in tensors.items()}
    return {"key": key} | sums
