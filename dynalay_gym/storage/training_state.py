"""Network, optimiser and random numbers of a training as named tensors."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.errors import CheckpointError
from dynalay_gym.storage.saved_folder import check_like

# Endings of the moments that are sums of squares, or counts.
_NEVER_NEGATIVE = ("_sq", "square_avg", "step")


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
    moments = _named_moments(optimizer)
    tensors |= {f"optimizer/{key}": value for key, value in moments.items()}
    if generator is not None:
        tensors["generator"] = generator.get_state()
    return tensors


def training_bytes(network: nn.Module) -> int:
    """Return the most bytes that a network and its optimiser's moments take."""
    return 4 * sum(int(part.nbytes) for part in network.state_dict().values())


def load_training_state(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None = None,
    where: object = "the saved training",
) -> None:
    """Continue from what `training_state` returned; other tensors are not read.

    Args:
        tensors: The named tensors.
        network: Of the same architecture.
        optimizer: Over the same parameters in the same order; its options stay.
        generator: Of the same kind of device.
        where: Where they come from, for the message.

    Raises:
        CheckpointError: Something is missing or does not fit; nothing has changed then.
    """
    weights = strip_prefix("network/", tensors)
    check_like(weights, network.state_dict(), where)
    moments = _moments(strip_prefix("optimizer/", tensors), optimizer, where)
    if generator is not None:
        _set_generator(generator, tensors, where)
    network.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _set_generator(
    generator: torch.Generator, tensors: Mapping[str, Tensor], where: object
) -> None:
    found = {key: tensors[key] for key in ("generator",) if key in tensors}
    check_like(found, {"generator": generator.get_state()}, where)
    try:
        generator.set_state(found["generator"].cpu())
    except RuntimeError:
        raise CheckpointError(f"{where}: 'generator' is no such state") from None


def _moments(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, where: object
) -> dict[int, dict[str, Tensor]]:
    """Return an optimiser's moments by parameter; some may never have learned."""
    known = {key.partition("/")[0] for key in tensors}
    expected = _after_a_step(optimizer) if tensors else {}
    expected = {k: v for k, v in expected.items() if k.partition("/")[0] in known}
    check_like(tensors, expected, f"{where}, the optimiser")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        if name.endswith(_NEVER_NEGATIVE) and bool((value < 0).any()):
            raise CheckpointError(f"{where}: 'optimizer/{key}' has negative numbers")
        # The optimiser moves all but its step count to the parameters' device,
        # and wants that one on the CPU.
        state.setdefault(int(number), {})[name] = value.cpu().clone()
    return state


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what the moments of such an optimiser are like; they hold no numbers."""
    groups = []
    for group in optimizer.param_groups:
        group = {k: v for k, v in group.items() if k not in ("fused", "foreach")}
        parameters = [torch.empty_like(each, device="meta") for each in group["params"]]
        for each in parameters:
            each.grad = torch.empty_like(each)
        groups.append(group | {"params": parameters})
    kind: Any = type(optimizer)
    taken = kind(groups)
    taken.step()
    return _named_moments(taken)


def _named_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{number}/{name}": torch.as_tensor(value)
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def take(
    tensors: Mapping[str, Tensor],
    name: str,
    dtype: torch.dtype,
    shape: tuple[int | None, ...] = (),
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> Tensor:
    """Return one of the tensors of a saved training, on the CPU.

    Args:
        tensors: The named tensors.
        name: Its name.
        dtype: The type that it must have.
        shape: The shape that it must have; None for any length.
        least: Smallest number that may be in it.
        most: Largest number.

    Raises:
        CheckpointError: It is missing, or anything else.
    """
    value = tensors.get(name)
    if value is None:
        raise CheckpointError(f"the saved training has no {name!r}; start anew")
    value = value.cpu()
    lengths = zip(value.shape, shape, strict=False)
    fits = value.dtype == dtype and value.ndim == len(shape)
    fits = fits and all(want in (None, got) for got, want in lengths)
    if not (fits and bool(((value >= least) & (value <= most)).all())):
        raise CheckpointError(
            f"the saved training has a {name!r} that does not belong there; start anew"
        )
    return value


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
