"""Modules that compute once what they derive from weights that no longer change."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import nn


class Freezable(nn.Module, ABC):
    """A module that uses values derived from its weights, and can cache them.

    Weights that are loaded by `load_state_dict`, moved or converted (``.double()``)
    are noticed: a frozen module computes its cache anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Any = None  # what `freeze` computed; None while weights may move
        self.register_load_state_dict_post_hook(_refresh)

    @abstractmethod
    def freeze(self) -> Self:
        """Compute and cache the values derived from the weights.

        Call it again after changing them in place; ``train()`` clears the cache.
        """

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; training clears the cache."""
        if mode:
            self._frozen = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or convert the module, as all of PyTorch's ways to do so do."""
        super()._apply(fn, recurse)
        _refresh(self)
        return self


def _refresh(module: Freezable, *_: Any) -> None:
    """Compute a cache anew, if there is one."""
    if module._frozen is not None:
        module.freeze()
