"""Gymnasium's per-row access to a vector environment whose rows share everything."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from torch import Tensor


class SharedRows(VectorEnv):
    """Answers for every row what it knows once."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or read an attribute; one entry per row."""
        value = getattr(self, name)
        if not callable(value):
            return (value,) * self.num_envs
        value = value(*args, **kwargs)
        per_row = isinstance(value, tuple | np.ndarray | Tensor)
        return tuple(value) if per_row else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every row."""
        return (getattr(self, name),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute; the rows share it."""
        setattr(self, name, values)
