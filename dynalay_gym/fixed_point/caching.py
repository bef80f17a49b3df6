"""What is computed once from weights that do not change any more."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import nn


class Freezable(nn.Module, ABC):
    """A module that uses something computed from its weights, and can keep it."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Any = None  # what `freeze` computed; None while weights may move

    @abstractmethod
    def freeze(self) -> Self:
        """Compute it once for many uses.

        ``train()`` forgets it; weights that change in another way need another call.
        """

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; training forgets what was computed."""
        if mode:
            self._frozen = None
        return super().train(mode)
