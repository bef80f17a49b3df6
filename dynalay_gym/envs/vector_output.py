"""What a vector environment hands out: NumPy arrays, or tensors on one device.

Axes: N rows.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.dynamics import Array

OUTPUTS = ("numpy", "torch")


class VectorOutput:
    """Converts arrays and tensors to the kind that the user chose.

    Args:
        kind: One of ``OUTPUTS``.
        device: Where tensors are handed out.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        self._torch = kind == "torch"
        self._device = device

    def __call__(self, value: Array) -> Any:
        """The value in the chosen form, in the same memory where that is possible."""
        if isinstance(value, np.ndarray):
            if not self._torch:
                return value
            value = torch.from_numpy(value)
        elif not self._torch:
            return value.numpy(force=True)
        # Most is where it should be; to ask costs less than ``to`` does.
        return value if value.device == self._device else value.to(self._device)

    def copy(self, value: Tensor) -> Any:
        """The value in the chosen form, in memory of its own."""
        converted = self(value)
        return converted.clone() if self._torch else converted.copy()

    def observations(self, seen: Array | dict[str, Array]) -> Any:
        """Observations [N, D], or by name."""
        if isinstance(seen, dict):
            return {key: self(value) for key, value in seen.items()}
        return self(seen)

    def infos(self, facts: dict[str, Array], num_rows: int) -> dict[str, Any]:
        """Facts [N, ...] of all rows, each with its ``_key`` mask, which they share."""
        everywhere = self(np.ones(num_rows, dtype=np.bool_))
        out: dict[str, Any] = {}
        for key, value in facts.items():
            out[key], out[f"_{key}"] = self(value), everywhere
        return out
