"""Small random residual networks, cheap enough to run every rule on."""

from typing import Any

import torch
from torch import nn

from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork

FORMS: dict[str, dict[str, Any]] = {
    "pad": {"form": "classic", "shortcut": "pad"},
    "project": {"form": "classic", "shortcut": "project"},
    "fast": {"form": "fast", "shortcut": "pool"},
}


def tiny_residual_config(form: str = "pad", **changes: Any) -> ResidualConfig:
    """Three blocks, of which the last halves the sides, over images [1, 8, 8]."""
    options: dict[str, Any] = {
        "in_shape": (1, 8, 8),
        "num_classes": 3,
        "widths": (4, 8),
        "depths": (2, 1),
    }
    return ResidualConfig(**options | FORMS[form] | changes)


def random_residual(
    form: str = "pad", seed: int = 0, **changes: Any
) -> ResidualNetwork:
    """Network in evaluation mode with statistics as after a training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResidualNetwork(tiny_residual_config(form, **changes))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for part in (module.running_mean, module.bias):
                    nn.init.normal_(part, std=0.3)
                for part in (module.running_var, module.weight):
                    nn.init.uniform_(part, 0.5, 1.5)
    return network.eval()
