"""Network, optimiser and random numbers of a training as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def training_state(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return what a training continues from; not a copy.

    Learning rates and other options of the optimiser are not part of it: they come with
    the config.

    Returns:
        Weights as ``network/<name>``, the optimiser's moments as
        ``optimizer/<number>/<name>``, the state of the generator as ``generator``.
    """
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer/{number}/{name}"] = torch.as_tensor(value)
    if generator is not None:
        tensors["generator"] = generator.get_state()
    return tensors


def load_training_state(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None = None,
) -> None:
    """Continue from what `training_state` returned; other tensors are not read.

    Args:
        tensors: The named tensors.
        network: Of the same architecture.
        optimizer: Over the same parameters in the same order; its options stay.
        generator: Of the same kind of device.
    """
    network.load_state_dict(strip_prefix("network/", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in strip_prefix("optimizer/", tensors).items():
        number, name = key.split("/")
        # The optimiser moves all but its step count to the parameters' device,
        # and wants that one on the CPU.
        state.setdefault(int(number), {})[name] = value.cpu().clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if generator is not None:
        generator.set_state(tensors["generator"].cpu())


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
