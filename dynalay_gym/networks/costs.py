"""Compute in multiply-adds (MACs), exactly, from closed forms.

Counted: convolutions and matrix products of stem, layers and head. Not counted:
normalisation, activations, pooling and additions, as in the field's usual counters.
"""

from dataclasses import dataclass

from torch import Tensor

from dynalay_gym.networks.layers.base import LayerMacs
from dynalay_gym.networks.main_network import MainNetwork


@dataclass(frozen=True)
class CostTable:
    """MACs of each part of a main network, for one sample.

    Attributes:
        stem: The stem.
        layers: One entry per selectable layer.
        head: The head.
    """

    stem: int
    layers: tuple[LayerMacs, ...]
    head: int

    @classmethod
    def of(cls, network: MainNetwork) -> "CostTable":
        """Return the cost table of a main network."""
        layers = tuple(layer.macs() for layer in network.main_layers)
        return cls(network.stem_macs, layers, network.head_macs)

    @property
    def plain_pass(self) -> int:
        """MACs of one plain pass: every layer applied once."""
        return self.stem + sum(layer.plain for layer in self.layers) + self.head

    def plain_passes(self, padding: Tensor) -> Tensor:
        """Return the MACs of plain passes, int64 [n].

        Args:
            padding: Positions of texts that hold no word, int64 [n].
        """
        return self.plain_pass - padding * sum(layer.padding for layer in self.layers)

    def refresh(self, layer: int) -> int:
        """Return the MACs after layer (1..L) changed: those above it, and the head."""
        return sum(above.plain for above in self.layers[layer:]) + self.head
