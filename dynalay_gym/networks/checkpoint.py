"""Checkpoints: safetensors for weights, JSON for everything else.

A checkpoint is a folder with ``checkpoint.json`` and the weights file that the JSON
names with its hash. The JSON is replaced last and in one step, so the folder always
holds a whole checkpoint: the previous one or the new one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.main_network import MainNetwork, MainNetworkConfig
from dynalay_gym.utils.io import write_bytes, write_json

FORMAT = 1
META_NAME = "checkpoint.json"


def save_tensors(
    folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint; the previous one stays whole until the new one is.

    Args:
        folder: Folder of the checkpoint, made if absent.
        tensors: Weights by name, on any device.
        meta: JSON-able facts.

    Raises:
        TypeError: A fact has no JSON form; the previous checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    write_bytes(folder / name, data)
    head = {"format": FORMAT, "weights": name, "sha256": digest}
    write_json(folder / META_NAME, head | dict(meta) | head)  # meta of a copy has one
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_tensors(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint after checking its hash.

    Args:
        folder: Folder of the checkpoint.
        device: Where the tensors go.

    Returns:
        Tensors by name, and the JSON facts.

    Raises:
        CheckpointError: It is missing, truncated or corrupt.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    path = folder / str(meta["weights"])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint weights {path} cannot be read ({error.strerror}); "
            "copy the whole folder again, or train it again"
        ) from None
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise CheckpointError(
            f"checkpoint weights {path} are truncated or corrupt (their hash is not "
            "the one recorded); copy the folder again, or train it again"
        )
    try:
        tensors = load_bytes(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    return {name: tensor.to(device) for name, tensor in tensors.items()}, meta


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META_NAME
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {folder} (it has no {META_NAME}); "
            "give the folder that train_main.py or train_agent.py wrote"
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(
            f"{path} is truncated or corrupt; copy it again, or train it again"
        ) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    name = meta.get("weights")
    if not isinstance(name, str) or Path(name).name != name or "sha256" not in meta:
        raise CheckpointError(f"{path} names no weights file beside it")
    return meta


def save_network(folder: Path, network: MainNetwork, meta: Mapping[str, Any]) -> None:
    """Write a main network with its architecture.

    Args:
        folder: Folder of the checkpoint, made if absent.
        network: The main network.
        meta: Further JSON-able facts.
    """
    head = {"kind": "main-model", "config": network.config.to_dict()}
    save_tensors(folder, network.state_dict(), head | dict(meta))


def load_network(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[MainNetwork, dict[str, Any]]:
    """Read a main network.

    Args:
        folder: Folder that ``train_main.py`` wrote.
        device: Where the network goes.

    Returns:
        The network in evaluation mode, and the checkpoint's JSON facts.

    Raises:
        CheckpointError: It is missing, corrupt, or not a main network whose weights
            fit its architecture.
    """
    tensors, meta = load_tensors(folder, device)
    if meta.get("kind") != "main-model":
        raise CheckpointError(
            f"the checkpoint at {folder} holds {meta.get('kind')!r}, "
            "not a main network; give the folder that train_main.py wrote"
        )
    try:
        network = MainNetwork(MainNetworkConfig(**meta["config"]))
        network.to(device).load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].strip()
        raise CheckpointError(
            f"the weights at {folder} do not fit the architecture beside them "
            f"({reason}); train the network again with this version"
        ) from None
    return network.eval(), meta
