"""Devices by name."""

import torch

from dynalay_gym.errors import ConfigError


def resolve_device(device: str) -> torch.device:
    """Return a device by its name; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; try auto, cpu, cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: no CUDA GPU here; use auto or cpu")
    return resolved
