"""What an exported part is.

Parts work on a *state*: named tensors, one row per input. A part takes some of them and
returns others; a result that replaces what was taken is called ``…_new`` in its file.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

EXAMPLE_ROWS = 3  # a batch that no exporter takes for a constant


class Part(NamedTuple):
    """One network to export.

    Attributes:
        name: Of the file, without its ending.
        module: Takes the inputs in order, returns the results in order.
        inputs: Examples by name.
        results: What it returns, by their names in a state.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    results: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results in the file, where none is called like an input."""
        return tuple(
            f"{name}_new" if name in self.inputs else name for name in self.results
        )


def example(*shape: int) -> Tensor:
    """Return a batch of example inputs of a shape, each in [0, 1)."""
    return torch.rand(EXAMPLE_ROWS, *shape, generator=torch.Generator().manual_seed(0))


def integers() -> Tensor:
    """Return a batch of an integer each."""
    return torch.zeros(EXAMPLE_ROWS, dtype=torch.int64)
