"""What runs with weights that do not change any more, and is made once."""

from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Freezable(nn.Module):
    """A module that keeps what it makes of its weights while they are constant."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[Hashable, Any] | None = None

    def freeze(self) -> Self:
        """Keep from now on; ``train()`` undoes it, and so does freezing anew."""
        self._kept = {}
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; training forgets what was kept."""
        if mode:
            self._kept = None
        return super().train(mode)

    @property
    def is_running(self) -> bool:
        """Whether it is frozen, and run by nobody who wants gradients or a graph."""
        is_watched = torch.is_grad_enabled() or torch.compiler.is_exporting()
        return self._kept is not None and not is_watched

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives; made once while frozen. For running."""
        store = self._kept  # freezing anew in another thread makes a new one
        assert store is not None, "frozen"
        if key not in store:
            store[key] = make()
        found: T = store[key]
        return found
