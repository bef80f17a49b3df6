"""Compute in multiply-adds (MACs), exactly, from closed forms.

Counted: convolutions and matrix products of stem, layers and head. Not counted:
normalisation, activations, pooling and additions, as in the field's usual counters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.models import rowwise
from dynalay_gym.models.main_layers import LayerMacs
from dynalay_gym.models.main_model import MainModel


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
    def of(cls, model: MainModel) -> "CostTable":
        """Cost table of a main network."""
        stem = 0
        if model.config.stem:
            side = rowwise.conv2d_size(
                model.config.in_shape[1], model.config.stem_stride
            )
            stem = rowwise.conv2d_macs(model.stem_weight.shape, side, side)
        layers = tuple(layer.macs() for layer in model.main_layers)
        return cls(stem, layers, model.head.numel())

    @property
    def plain_pass(self) -> int:
        """MACs of one plain pass: every layer applied once."""
        return self.stem + sum(layer.plain for layer in self.layers) + self.head

    def refresh(self, layer: int) -> int:
        """MACs after layer (1..L) changed: plain layers above it, and the head."""
        return sum(above.plain for above in self.layers[layer:]) + self.head

    def choice_parts(
        self, layers: NDArray[np.int64], before: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """MACs of choosing a layer: what is certain, and what an iteration adds.

        Args:
            layers: Chosen layer of each sample, 1..L, int64 [n].
            before: Its state before (bit l - 1 = layer l sits on its fixed point),
                int64 [n]. A layer that already sits there is only checked.

        Returns:
            Two arrays, int64 [n].
        """
        at = layers - 1
        below = (before << 1 >> at) & 1  # 0 below layer 1
        setups = np.array([layer.setup for layer in self.layers])[at, below]
        refreshes = np.array([self.refresh(i + 1) for i in range(len(self.layers))])
        iterations = np.array([layer.iteration for layer in self.layers])
        again = before >> at & 1
        return setups * (1 - again) + refreshes[at], iterations[at]
