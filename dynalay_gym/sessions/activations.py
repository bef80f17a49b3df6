"""Where the maps of n networks in progress are kept, and how rows get in and out.

Axes: n rows, C channels, H x W pixels. Maps are kept with channels last, so that a row
is one run of memory; outside they look [n, C, H, W], in the channels-last format.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import put_rows

Rows = Tensor | slice  # distinct rows, int64 [m], or ``ALL`` of them
ALL = slice(None)


@dataclass
class ActivationStore:
    """One layer's activations of n rows; what no row has needed yet takes no memory.

    A plainly applied row keeps ``u`` and an iterated one ``y``; ``y = relu(kept)`` of
    both. Hidden stream and injected input are those of the last solve, and read of
    iterated rows only.

    Attributes:
        num_rows: Number of rows n.
    """

    num_rows: int
    _visible: Tensor | None = None
    _hidden: Tensor | None = None
    _injected: Tensor | None = None

    def put(
        self,
        rows: Rows,
        *,
        visible: Tensor | None = None,
        hidden: Tensor | None = None,
        injected: Tensor | None = None,
    ) -> None:
        """Overwrite rows (int64 [m]) by maps [m, C, H, W]; None leaves them.

        All rows at once (a slice) take the maps themselves, which nobody else may
        write to then.
        """
        self._visible = self._put(self._visible, rows, visible)
        self._hidden = self._put(self._hidden, rows, hidden)
        self._injected = self._put(self._injected, rows, injected)

    def at(self, rows: Rows) -> "RowsOfActivations":
        """Some rows, int64 [m], or all (a slice); gathered when they are read."""
        return RowsOfActivations(self, rows)

    @property
    def y(self) -> Tensor:
        """Visible activations of all rows [n, C, H, W]."""
        assert self._visible is not None, "the stem keeps no visible activations"
        return torch.relu(_outside(self._visible))

    def clone(self) -> Self:
        """Independent copy."""
        copied = replace(self)
        for name in ("_visible", "_hidden", "_injected"):
            part = getattr(self, name)
            setattr(copied, name, None if part is None else part.clone())
        return copied

    def _hidden_of(self, taken: Tensor | None) -> Tensor | None:
        return taken

    def _put(
        self, kept: Tensor | None, rows: Rows, new: Tensor | None
    ) -> Tensor | None:
        if new is None:
            return kept
        if isinstance(rows, slice):
            return new.permute(0, 2, 3, 1)
        if kept is None:
            _, channels, height, width = new.shape
            kept = new.new_empty(self.num_rows, height, width, channels)
        put_rows(kept, rows, new.permute(0, 2, 3, 1))
        return kept


@dataclass(kw_only=True)
class StemStore(ActivationStore):
    """What lies below layer 1: images are kept, and unshuffled for those who read.

    Attributes:
        unshuffle: Pixel-unshuffle factor that makes a hidden stream of an image.
    """

    unshuffle: int

    def _hidden_of(self, taken: Tensor | None) -> Tensor | None:
        if taken is None:
            return None
        pixels = F.pixel_unshuffle(taken, self.unshuffle)
        return pixels.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class RowsOfActivations:
    """Some rows of a store, as a layer reads them; see ``Activations``.

    Attributes:
        store: All rows.
        rows: The rows, int64 [m], or all of them (a slice).
    """

    store: ActivationStore
    rows: Rows

    @property
    def y(self) -> Tensor:
        """Visible activations [m, C, H, W]."""
        taken = self.u
        return torch.relu(taken) if isinstance(self.rows, slice) else taken.relu_()

    @property
    def u(self) -> Tensor:
        """Pre-activation [m, C, H, W] of plainly applied rows."""
        taken = self._take(self.store._visible)
        assert taken is not None, "the stem keeps no visible activations"
        return taken

    @property
    def h(self) -> Tensor | None:
        """Hidden stream [m, Ch, Hh, Wh] of iterated rows."""
        return self.store._hidden_of(self._take(self.store._hidden))

    @property
    def x(self) -> Tensor | None:
        """Injected input [m, Ch, Hh, Wh] of iterated rows."""
        return self._take(self.store._injected)

    def at(self, rows: Tensor) -> "RowsOfActivations":
        """Some of these rows, int64 [k]."""
        chosen = rows if isinstance(self.rows, slice) else self.rows[rows]
        return RowsOfActivations(self.store, chosen)

    def _take(self, kept: Tensor | None) -> Tensor | None:
        if kept is None or isinstance(self.rows, slice):
            return None if kept is None else _outside(kept)
        return _outside(kept.index_select(0, self.rows))


def _outside(kept: Tensor) -> Tensor:
    return kept.permute(0, 3, 1, 2)
