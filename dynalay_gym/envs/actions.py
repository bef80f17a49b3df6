"""Checks of what the user hands to ``step``; nothing changes before they pass."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.errors import InvalidActionError


def check_actions(actions: Any, num_rows: int, num_actions: int) -> Tensor:
    """Convert actions to a tensor after checking type, shape and range.

    Args:
        actions: Array, tensor or list of integers [n].
        num_rows: Rows n.
        num_actions: Actions A = L + 1.

    Returns:
        int64 [n], on the device of the given tensor.

    Raises:
        InvalidActionError: naming what is wrong.
    """
    if isinstance(actions, Tensor) and actions.dtype is torch.int64 and actions.is_cpu:
        actions = actions.numpy()  # whose checks are lighter
    if _are_plain(actions, num_rows, num_actions):
        return torch.from_numpy(actions)
    try:
        given = actions if isinstance(actions, Tensor) else np.asarray(actions)
        tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidActionError(
            f"actions must be integers of shape ({num_rows},), not {actions!r}"
        ) from None
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool:
        raise InvalidActionError(f"actions must be integers, not {tensor.dtype}")
    if given.shape != (num_rows,):
        raise InvalidActionError(
            f"actions must have shape ({num_rows},), not {tuple(given.shape)}"
        )
    if int(given.min()) < 0 or int(given.max()) >= num_actions:
        tensor = tensor.long()
        outside = (tensor < 0) | (tensor >= num_actions)
        raise InvalidActionError(
            f"actions must lie in 0..{num_actions - 1}, not {tensor[outside].tolist()}"
        )
    return tensor.long()


def _are_plain(actions: Any, num_rows: int, num_actions: int) -> bool:
    """Whether actions are what an agent on the CPU hands over: nothing to convert."""
    return (
        isinstance(actions, np.ndarray)
        and actions.dtype == np.int64
        and actions.shape == (num_rows,)
        and actions.flags.writeable
        # A negative number is a huge one without its sign.
        and bool(actions.view(np.uint64).max() < num_actions)
    )
