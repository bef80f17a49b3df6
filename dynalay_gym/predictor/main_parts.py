"""The parts of a main network: its plain pass, and one iteration of every solve.

Axes: n images [n, C, H, W], K classes, D features of an observation.
"""

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import relative_residual
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.parts import FirstObservation, Part, example
from dynalay_gym.sessions.features import network_features


class PlainPass(nn.Module):
    """Stem, every layer once, head: logits [n, K] and the first observation [n, D].

    Args:
        network: The main network, frozen.
        penalty_unit: Penalty that is shown as 1/2.
    """

    def __init__(self, network: MainNetwork, penalty_unit: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.observe = FirstObservation(network.num_layers + 1, penalty_unit)

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        below, pooled = self.network.stem(images), []
        for layer in self.network.main_layers:
            below = layer.plain(below, 0)
            pooled.append(layer.pool(below))
        logits = self.network.classify(below, 0)
        zeros = torch.zeros_like(penalty)[:, None].expand(-1, self.network.num_layers)
        seen = network_features(torch.cat(pooled, 1), logits, zeros + 1, zeros)
        return logits, self.observe(seen, penalty)


class Iteration(nn.Module):
    """One step of a solve: ``relu(x + W z)`` and its relative residual [n].

    Args:
        layer: The recurrent map, frozen.
    """

    def __init__(self, layer: FixedPointLayer) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", layer.weight().detach().clone())

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the map to iterates z under the injected input x, both [n, ...]."""
        new = torch.relu(x + self.layer.recur(z, self.get_buffer("weight")))
        return new, relative_residual(new, z)


def main_parts(network: MainNetwork, penalty_unit: float) -> list[Part]:
    """Return the parts of a main network.

    Args:
        network: The network, frozen, on the CPU.
        penalty_unit: Penalty that is shown as 1/2.
    """
    inputs = {"images": example(*network.config.in_shape), "penalty": example()}
    plain = PlainPass(network, penalty_unit)
    parts = [Part("plain", plain, inputs, ("logits", "observation"))]
    layers = [part for part in network.modules() if isinstance(part, FixedPointLayer)]
    for number, layer in enumerate(layers, start=1):
        inputs = {name: example(*layer.state_shape) for name in ("z", "x")}
        outputs = ("z_new", "residual")
        parts.append(Part(f"iteration-{number}", Iteration(layer), inputs, outputs))
    return parts
