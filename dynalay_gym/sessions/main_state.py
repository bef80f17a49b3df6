"""What a main network in progress keeps of each row.

Axes: n rows, m of them chosen, L layers, C channels, H x W pixels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dynalay_gym.networks.layers.base import LayerState
from dynalay_gym.sessions.checks import check_rows


@dataclass
class LayerBuffer:
    """One layer's activations of all rows, channels last in memory.

    Attributes:
        visible: Float [n, C, H, W]; its ReLU is y. It holds the pre-activation u of a
            layer that was applied plainly, and y of an iterated one.
        hidden: Hidden stream h of iterated rows, float [n, Ch, Hh, Wh].
        injected: Input x of the iteration of iterated rows, like `hidden`.
        plain: Pre-activation u of iterated rows, like `visible`.
    """

    visible: Tensor | None = None
    hidden: Tensor | None = None
    injected: Tensor | None = None
    plain: Tensor | None = None

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

    def read_plain(self, rows: Tensor) -> LayerState:
        """Return the activations of plainly applied rows, int64 [m]."""
        state = self.read(rows)
        return LayerState(state.y, state.u)

    def read_iterated(self, rows: Tensor) -> LayerState:
        """Return what the solve of iterated rows, int64 [m], goes on from.

        `y` is what is iterated where there is no hidden stream; else nobody reads it.
        """
        assert self.plain is not None and self.injected is not None, "solved before"
        u, x = _take(self.plain, rows), _take(self.injected, rows)
        if self.hidden is None:
            assert self.visible is not None
            return LayerState(_take(self.visible, rows), u, None, x)
        return LayerState(u, u, _take(self.hidden, rows), x)

    def write(self, rows: Tensor, num_rows: int, **maps: Tensor | None) -> None:
        """Overwrite rows, int64 [m], of the named parts; None leaves a part alone."""
        for name, new in maps.items():
            is_there = getattr(self, name) is not None
            # Of no images PyTorch's pixel_unshuffle has another shape.
            if new is None or (is_there and len(rows) == 0):
                continue
            if not is_there:
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
        state_id: Number of the state, int64 [n]; see `layer_levels`.
        residual: Relative residual of each layer's last solve, float [n, L]; 1 for a
            layer that was only applied plainly.
        padding: Positions of a text without words, int64 [n]; 0 for images.
    """

    layers: Sequence[LayerBuffer]
    pooled: Tensor
    logits: Tensor
    state_id: Tensor
    residual: Tensor
    padding: Tensor

    @classmethod
    def empty(
        cls,
        layers: Sequence[LayerBuffer],
        num_rows: int,
        num_features: int,
        num_classes: int,
        num_layers: int,
        device: torch.device,
    ) -> Self:
        """Return memory for n rows of D features, K classes and L layers."""
        single = torch.float32
        return cls(
            layers=layers,
            pooled=torch.zeros(num_rows, num_features, dtype=single, device=device),
            logits=torch.zeros(num_rows, num_classes, dtype=single, device=device),
            state_id=torch.zeros(num_rows, dtype=torch.int64, device=device),
            residual=torch.ones(num_rows, num_layers, dtype=single, device=device),
            padding=torch.zeros(num_rows, dtype=torch.int64, device=device),
        )

    def pick(self, rows: Tensor, *names: str) -> list[Tensor]:
        """Return the named parts of some rows, copies [m, ...].

        Raises:
            ValueError: The rows are not int64 [m] in 0..n-1.
        """
        num_rows = len(self.state_id)
        plain = isinstance(rows, Tensor) and rows.device.type == "cpu"
        if not (plain and rows.dtype == torch.int64 and rows.dim() == 1):
            check_rows(rows, num_rows)
        try:  # on a CPU `index_select` looks at the range itself, which costs nothing
            return [getattr(self, name).index_select(0, rows) for name in names]
        except IndexError:
            check_rows(rows, num_rows)
            raise

    def keep(
        self,
        rows: Tensor,
        layer: int,
        columns: Tensor,
        pooled: Tensor,
        **maps: Tensor | None,
    ) -> None:
        """Write a layer's maps, and what is pooled of them.

        Args:
            rows: Distinct rows, int64 [m].
            layer: Number of the layer, from 1.
            columns: Columns of `pooled` that are the layer's, int64 [d].
            pooled: Pooled activations, float [m, d].
            **maps: Parts of `LayerBuffer`.
        """
        self.layers[layer].write(rows, len(self.state_id), **maps)
        self.pooled[rows[:, None], columns] = pooled

    def clone(self) -> Self:
        """Return an independent copy."""
        return replace(
            self,
            layers=copy.deepcopy(self.layers),
            pooled=self.pooled.clone(),
            logits=self.logits.clone(),
            state_id=self.state_id.clone(),
            residual=self.residual.clone(),
            padding=self.padding.clone(),
        )


def _pixels(maps: Tensor) -> Tensor:
    """View maps [n, C, H, W] as they lie in memory, [n, H, W, C]."""
    return maps.permute(0, 2, 3, 1)


def _take(maps: Tensor, rows: Tensor) -> Tensor:
    """Copy rows of maps; channels stay last, since layouts differ in rounding."""
    return _pixels(maps).index_select(0, rows).permute(0, 3, 1, 2)
