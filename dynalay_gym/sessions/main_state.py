"""What a main network in progress keeps of each row.

Axes: n rows, m of them chosen, L layers, C channels, H x W pixels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dynalay_gym.networks.main_layers import LayerState


@dataclass
class LayerBuffer:
    """One layer's activations of all rows, channels last in memory.

    Attributes:
        visible: Float [n, C, H, W]; its ReLU is y. It holds the pre-activation u of a
            layer that was applied plainly, and y of an iterated one.
        hidden: Hidden stream h of iterated rows, float [n, Ch, Hh, Wh].
        injected: Input x of the iteration of iterated rows, like `hidden`.
    """

    visible: Tensor | None = None
    hidden: Tensor | None = None
    injected: Tensor | None = None

    def read(self, rows: Tensor) -> LayerState:
        """Return the activations of some rows, int64 [m].

        `u` is the pre-activation only for plainly applied rows; for iterated rows it
        holds y.
        """
        visible, hidden, injected = (
            None if maps is None else _take(maps, rows)
            for maps in (self.visible, self.hidden, self.injected)
        )
        assert visible is not None, "the plain pass comes first"
        return LayerState(torch.relu(visible), visible, hidden, injected)

    def write(self, rows: Tensor, num_rows: int, **maps: Tensor | None) -> None:
        """Overwrite rows, int64 [m], of the named parts; None leaves a part alone."""
        for name, new in maps.items():
            if new is None:
                continue
            if getattr(self, name) is None:
                empty = new.new_zeros(num_rows, *new.shape[1:])
                setattr(self, name, empty.to(memory_format=torch.channels_last))
            _pixels(getattr(self, name)).index_copy_(0, rows, _pixels(new))


@dataclass
class MainState:
    """Main networks in progress, one per row.

    Attributes:
        layers: Activations of the stem, then of layers 1..L.
        pooled: Pooled activations of all layers side by side, float [n, D].
        logits: Current answers, float [n, K].
        state_id: Which layers sit on their fixed point, int64 [n]; bit l - 1: layer l.
        residual: Relative residual of each layer's last solve, float [n, L]; 1 for a
            layer that was only applied plainly.
    """

    layers: Sequence[LayerBuffer]
    pooled: Tensor
    logits: Tensor
    state_id: Tensor
    residual: Tensor

    def clone(self) -> Self:
        """Return an independent copy."""
        return replace(
            self,
            layers=copy.deepcopy(self.layers),
            pooled=self.pooled.clone(),
            logits=self.logits.clone(),
            state_id=self.state_id.clone(),
            residual=self.residual.clone(),
        )


def _pixels(maps: Tensor) -> Tensor:
    """View maps [n, C, H, W] as they lie in memory, [n, H, W, C]."""
    return maps.permute(0, 2, 3, 1)


def _take(maps: Tensor, rows: Tensor) -> Tensor:
    """Copy rows of maps; channels stay last, since layouts differ in rounding."""
    return _pixels(maps).index_select(0, rows).permute(0, 3, 1, 2)
