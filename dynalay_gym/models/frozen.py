"""What runs with weights that do not change any more, and is made once.

Axes: n rows.
"""

import copy
from collections.abc import Callable, Hashable
from functools import cached_property, partial
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from dynalay_gym.models import few_rows, rowwise
from dynalay_gym.models.few_rows import Geometry, Numbers

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

    def convolve_kept(
        self,
        key: Hashable,
        weights: Callable[[], tuple[Tensor, Tensor | None]],
        x: Tensor,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> Tensor:
        """Convolve by a kernel of one's own, which is made ready once while frozen.

        Args:
            key: Name of the kernel.
            weights: Gives its weight [C_out, C_in, k, k] and, if any, bias [C_out].
            x: Input [n, C_in, H, W].
            stride: Stride in both directions.
            padding: Zero padding on every side.
        """
        if not self.is_running:
            return rowwise.conv2d(x, *weights(), stride=stride, padding=padding)
        make = partial(Kernel, stride=stride, padding=padding)
        return self.kept(key, lambda: make(*weights()))(x)

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


class Kernel:
    """A convolution whose weights do not change; rows are independent.

    Its bits are those of ``rowwise.conv2d``. For running: gradients are not followed.

    Args:
        weight: Kernel [C_out, C_in, k, k].
        bias: Added to each channel [C_out], if given.
        stride: Stride in both directions.
        padding: Zero padding on every side.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        # Even of a single channel, which ``contiguous`` would leave as it is.
        layout = torch.empty_like(weight, memory_format=torch.channels_last)
        self.weight, self.bias = layout.copy_(weight).detach(), bias
        self.stride, self.padding = stride, padding
        self._geometries: dict[tuple[int, int], Geometry | None] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve x [n, C_in, H, W] to [n, C_out, H', W']."""
        geometry = self.few(x)
        if geometry is not None:
            return few_rows.convolve(x, self.matrix, self.bias, geometry)
        stride, padding = self.stride, self.padding
        return rowwise.conv2d(x, self.weight, self.bias, stride=stride, padding=padding)

    def few(self, x: Tensor) -> Geometry | None:
        """Sizes of the products that convolve x; None if the library does it."""
        n, _, height, width = x.shape
        if n == 0 or not rowwise.is_for_onednn(x):
            return None
        geometry = self._geometry(height, width)
        return geometry if geometry and n <= geometry.max_rows else None

    def _geometry(self, height: int, width: int) -> Geometry | None:
        """Geometry of maps of this size, if products give the library's bits."""
        if (height, width) not in self._geometries:
            channels_out, channels_in, kernel, _ = self.weight.shape
            sizes = kernel, self.stride, self.padding, height, width
            geometry = Geometry(
                channels_in, channels_out, *sizes, self.bias is not None
            )
            agrees = geometry.max_rows > 0 and few_rows.convolution_agrees(geometry)
            self._geometries[height, width] = geometry if agrees else None
        return self._geometries[height, width]

    @cached_property
    def matrix(self) -> Numbers:
        """The kernel as a matrix [K, C_out]."""
        return few_rows.as_matrix(self.weight)


class Vectors:
    """Multiplication of rows by a matrix that does not change; rows are independent.

    Its bits are those of ``rowwise.linear``. For running: gradients are not followed.

    Args:
        weight: Matrix [N, K].
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # as it is, so that it may still change its device
        self._geometry = Geometry(weight.shape[1], weight.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply rows [n, K]: ``x W^T`` [n, N]."""
        geometry = self._geometry
        if (
            rowwise.is_for_onednn(x)
            and 0 < x.shape[0] <= geometry.max_rows
            and few_rows.product_agrees(geometry)
        ):
            product = few_rows.products(x.numpy(), self._matrix, geometry)
            return torch.from_numpy(product)
        return rowwise.linear(x, self.weight)

    @cached_property
    def _matrix(self) -> Numbers:
        return few_rows.as_matrix(self.weight.detach()[:, :, None, None])


class Linear(nn.Linear):
    """Linear layer whose rows do not depend on the batch; for running, not training."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop("_vectors", None)
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b`` [n, K] of x [n, D]."""
        if rowwise.is_for_onednn(x):
            product = self._vectors(x)
        else:
            product = rowwise.linear(x, self.weight)
        return product if self.bias is None else product + self.bias

    @cached_property
    def _vectors(self) -> Vectors:
        return Vectors(self.weight)


def as_rowwise(module: nn.Module) -> nn.Module:
    """Frozen copy of a network with every ``nn.Linear`` made batch-independent."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear  # the same parameters under the same names
    return module.eval().requires_grad_(False)
