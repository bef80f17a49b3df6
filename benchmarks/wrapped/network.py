"""The network that is wrapped: torchvision's ResNet-18, for small images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from dynalay_gym.networks.wrapped.config import WrapConfig
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.storage.saved_folder import load_folder, save_folder

KIND = "wrapped-resnet18"
BLOCKS = tuple(f"layer{stage}.{place}" for stage in range(1, 5) for place in range(2))
# What is left of a block that halves the maps when it is skipped.
SHORTCUTS = {f"layer{stage}.0": f"layer{stage}.0.downsample" for stage in range(2, 5)}


@dataclass(frozen=True)
class Facts:
    """What is saved beside the weights.

    Attributes:
        training: Options of the training.
        minutes: Minutes of a processor that it took.
    """

    training: dict[str, Any]
    minutes: float


def small_resnet18() -> nn.Module:
    """Return ResNet-18 for images [n, 3, 32, 32]: a first convolution of 3 x 3 pixels.

    The pooling behind it stays, so that the stages see 16, 8, 4 and 2 pixels a side.
    """
    network: nn.Module = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network


def wrapped_resnet18(**options: Any) -> WrappedNetwork:
    """Return the network with its eight blocks named; see `WrapConfig` for options."""
    config = WrapConfig(layers=BLOCKS, **options)
    example = torch.zeros(1, 3, 32, 32)
    return WrappedNetwork(small_resnet18(), config, example, shortcuts=SHORTCUTS)


def save(folder: Path, network: WrappedNetwork, facts: dict[str, Any]) -> None:
    """Write a network's weights."""
    weights: dict[str, Tensor] = network.state_dict()
    save_folder(folder, KIND, weights, facts)


def load(folder: Path, **options: Any) -> WrappedNetwork:
    """Return the network that `save` wrote, wrapped with some options."""
    network = wrapped_resnet18(**options)
    saved = load_folder(folder, KIND, Facts, most_bytes=2**28)
    network.load_state_dict(saved.tensors)
    return network
