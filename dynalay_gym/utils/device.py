"""Devices by name."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from dynalay_gym.errors import ConfigError


def resolve_device(device: str | torch.device) -> torch.device:
    """Return a device by its name; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"unknown device {device!r}; try auto, cpu, cuda") from None
    present = {"cpu": 1}
    if (accelerator := torch.accelerator.current_accelerator(True)) is not None:
        present[accelerator.type] = torch.accelerator.device_count()
    if (resolved.index or 0) >= present.get(resolved.type, 0):
        words = " or ".join(["auto", *present])
        raise ConfigError(f"there is no device {str(device)!r} here; use {words}")
    return resolved


@contextmanager
def torch_defaults(device: str | None = "cpu") -> Iterator[None]:
    """Make tensors in PyTorch's own precision, whatever default type the user has set.

    Also a decorator: of what builds environments, predictors and networks. It changes
    global state for a moment, so what runs at every step names its types instead.

    Args:
        device: Where tensors are made that name no device; None for the user's default.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with nullcontext() if device is None else torch.device(device):
            yield
    finally:
        torch.set_default_dtype(dtype)
