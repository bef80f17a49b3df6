"""An optimiser's moments as named tensors, for checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor


def flatten(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return the moments of every parameter under ``prefix/<number>/<name>``.

    Learning rates and other options are not part of it: they come with the config.
    """
    return {
        f"{prefix}/{number}/{name}": torch.as_tensor(value)
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Give an optimiser the moments that `flatten` returned.

    Args:
        optimizer: Over the same parameters in the same order; its options stay.
        tensors: Named tensors; those under other prefixes are not read.
        prefix: The prefix given to `flatten`.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in strip_prefix(f"{prefix}/", tensors).items():
        number, name = key.split("/")
        # The optimiser moves all but its step count to the parameters' device,
        # and wants that one on the CPU.
        state.setdefault(int(number), {})[name] = value.cpu().clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
