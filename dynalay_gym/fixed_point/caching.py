"""Modules that compute once what they derive from weights that no longer change."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import nn


class Freezable(nn.Module, ABC):
    """A module that uses values derived from its weights, and can cache them."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Any = None  # what `freeze` computed; None while weights may move

    @abstractmethod
    def freeze(self) -> Self:
        """Compute and cache the values derived from the weights.

        Call it again after changing them; ``train()`` clears the cache.
        """

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; training clears the cache."""
        if mode:
            self._frozen = None
        return super().train(mode)
