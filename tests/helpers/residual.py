"""Small random residual networks, cheap enough to run every rule on."""

from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
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
            if isinstance(module, ConvFixedPointLayer):
                nn.init.normal_(module.free_weight, std=0.3)
    return network.eval()


@torch.no_grad()
def with_varied_gates(network: GatedNetwork) -> GatedNetwork:
    """Gates of which each is open for some images and shut for others.

    Those that are the same for all images are open or shut.
    """
    generator = torch.Generator().manual_seed(3)
    # In slices, one score shuts them in turn, from 1 downwards.
    bias = -1.5 if network.gate_config.slices else 0.0
    x = network.stem(torch.randn(64, 1, 8, 8, generator=generator))
    for level, block in enumerate(network.blocks):
        for scores in (network.layer_scores, network.channel_scores):
            if len(scores) > 0:
                if network.gate_config.per_input:
                    pooled = x.mean((2, 3))
                    scores[level].norm.running_mean.copy_(pooled.mean(0))
                    scores[level].norm.running_var.copy_(pooled.var(0))
                    nn.init.normal_(scores[level].weight, generator=generator)
                nn.init.normal_(scores[level].bias, bias, 0.3, generator=generator)
        x = block(x)
    return network


def random_gated(
    form: str = "pad", backbone: dict[str, Any] | None = None, **gates: Any
) -> GatedNetwork:
    """Gated network in evaluation mode; see `GateConfig` for its gates."""
    network = GatedNetwork(random_residual(form, **backbone or {}), GateConfig(**gates))
    return with_varied_gates(network.eval())


def look_macs(network: GatedNetwork, ran: Tensor) -> Tensor:
    """What the answers after each block cost that ran (bool [n, B]), int64 [n].

    A session refreshes the shortcuts from this block on, and the head.
    """
    parts = zip(network.blocks, network.block_sizes, strict=True)
    shortcuts = torch.tensor([block.macs(size).shortcut for block, size in parts])
    refreshed = shortcuts.flip(0).cumsum(0).flip(0)
    return (ran * (refreshed + network.head_macs)).sum(1)
