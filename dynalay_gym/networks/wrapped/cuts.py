"""What crosses the cut before a block of a network, and where its samples are.

Axes: n samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError, brief


class Cut(NamedTuple):
    """What crosses the cut before a block, or what comes out behind the last one.

    Attributes:
        axes: The axis of samples of each value; None of a constant.
        shapes: Shape of each for one sample; empty of a constant.
        dtypes: Type of each; None of a constant.
        constants: Each value as it was found; constants are taken from here.
    """

    axes: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype | None, ...]
    constants: tuple[Any, ...]

    def to_rows(self, values: Sequence[Any]) -> list[Tensor]:
        """Return the tensors among values, each [n, ...]."""
        pairs = zip(values, self.axes, strict=True)
        return [value.movedim(axis, 0) for value, axis in pairs if axis is not None]

    def from_rows(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Return values as the network has them, of tensors [n, ...]."""
        left, device = iter(tensors), tensors[0].device
        return [
            _moved(constant, device) if axis is None else next(left).movedim(0, axis)
            for axis, constant in zip(self.axes, self.constants, strict=True)
        ]


def find_cut(values: Sequence[Any], others: Sequence[Any], name: str) -> Cut:
    """Return where the samples are in values of two samples, held against three."""
    axes, shapes = list[int | None](), list[tuple[int, ...]]()
    for value, other in zip(values, others, strict=True):
        axis: int | None = None
        if isinstance(value, Tensor):
            pairs = list(zip(value.shape, other.shape, strict=True))
            changed = [i for i, pair in enumerate(pairs) if pair[0] != pair[1]]
            axis = changed[0] if [pairs[i] for i in changed] == [(2, 3)] else None
        if axis is None and not _is_constant(value, other):
            shown = tuple(value.shape) if isinstance(value, Tensor) else brief(value)
            raise ConfigError(
                f"{shown} crosses over to block {name!r} and has no axis of as many "
                "samples as there are; compute it inside of a block (a number of "
                "samples as -1), or name other blocks"
            )
        axes.append(axis)
        shape = () if axis is None else (*value.shape[:axis], *value.shape[axis + 1 :])
        shapes.append(tuple(shape))
    if axes[0] is None:
        raise ConfigError(f"what block {name!r} is given is no tensor; name another")
    known = list(zip(values, axes, strict=True))
    dtypes = [None if axis is None else value.dtype for value, axis in known]
    constants = [value if axis is None else None for value, axis in known]
    return Cut(tuple(axes), tuple(shapes), tuple(dtypes), tuple(constants))


def _is_constant(value: Any, other: Any) -> bool:
    """Return whether a value is the same for other samples."""
    if isinstance(value, Tensor):
        is_same = isinstance(other, Tensor) and value.shape == other.shape
        return is_same and torch.equal(value, other)
    simple = (int, float, str, torch.Size, torch.dtype, torch.device)
    return value is None or (isinstance(value, simple) and value == other)


def _moved(constant: Any, device: torch.device) -> Any:
    return constant.to(device) if isinstance(constant, Tensor) else constant
