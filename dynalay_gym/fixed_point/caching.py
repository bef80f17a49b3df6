"""What runs with weights that do not change any more, and is made once.

Axes: n rows.
"""

import copy
from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point import batch_invariant

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


class Linear(nn.Linear):
    """Linear layer whose rows do not depend on the batch; for running, not training."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b`` [n, K] of x [n, D]."""
        product = batch_invariant.linear(x, self.weight)
        return product if self.bias is None else product + self.bias


def as_batch_invariant(module: nn.Module) -> nn.Module:
    """Frozen copy of a network with every ``nn.Linear`` made batch-independent."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear  # the same parameters under the same names
    return module.eval().requires_grad_(False)
