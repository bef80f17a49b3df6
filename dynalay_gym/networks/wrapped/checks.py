"""Checks of what somebody asks of a network, before and while it is wrapped."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError, brief
from dynalay_gym.networks.wrapped.pieces import first_of


def check_example(network: nn.Module, example: Any) -> None:
    """Raise ConfigError unless an example is what the network takes."""
    if not isinstance(example, Tensor) or example.dim() < 2 or len(example) == 0:
        shown = tuple(example.shape) if isinstance(example, Tensor) else brief(example)
        raise ConfigError(
            f"example must be a tensor of inputs [n, ...], not {shown}; give one or "
            "more samples, x[None] if it is one without its axis"
        )
    try:
        network(example[:1].clone())
    except Exception as error:
        raise ConfigError(
            f"the network does not take the example, of shape {tuple(example.shape)} "
            f"({brief(str(error))}); give inputs [n, ...] as those to come"
        ) from error


def check_names(
    network: nn.Module, layers: Sequence[str], shortcuts: Mapping[str, Any]
) -> None:
    """Raise ConfigError for blocks that do not exist, or lie in each other."""
    known = dict(network.named_modules())
    modules = [*layers, *(name for name in shortcuts.values() if isinstance(name, str))]
    for name in modules:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or list(known)[1:4]
            raise ConfigError(
                f"the network has no module {name!r}; give a name of named_modules(), "
                f"such as {brief(near)}"
            )
    for name in layers:
        inner = [other for other in layers if other.startswith(f"{name}.")]
        if inner:
            raise ConfigError(
                f"block {inner[0]!r} is a part of block {name!r}; name one of them"
            )
    unknown = [name for name in shortcuts if name not in layers]
    if unknown:
        raise ConfigError(
            f"shortcuts names {unknown[0]!r}, which is not among layers; add it there"
        )


def check_answer(answer: Any, whole: Any) -> None:
    """Raise ConfigError unless it answers with logits, as it does unwrapped."""
    if not isinstance(answer, Tensor) or answer.dim() != 2 or answer.shape[1] < 2:
        shown = tuple(answer.shape) if isinstance(answer, Tensor) else brief(answer)
        raise ConfigError(
            f"the network returns {shown}, not logits [n, K]; wrap a module that "
            "returns them"
        )
    if not torch.equal(answer, first_of(whole)):
        raise ConfigError(
            "run block by block, the network answers otherwise than by itself; check "
            "stem= and head=, or what its forward does between blocks"
        )


def check_same_shape(name: str, before: torch.Size, after: torch.Size) -> None:
    """Raise ConfigError if a block without a shortcut changes the shape."""
    if before != after:
        raise ConfigError(
            f"block {name!r} maps {tuple(before[1:])} to {tuple(after[1:])} and can be "
            "neither skipped nor iterated; leave it out of layers, or name what takes "
            "its place in shortcuts="
        )


def check_shortcut(name: str, passed: torch.Size, after: torch.Size) -> None:
    """Raise ConfigError if a shortcut gives another shape than the block."""
    if passed != after:
        raise ConfigError(
            f"the shortcut of block {name!r} gives {tuple(passed[1:])}, the block "
            f"{tuple(after[1:])}; they must agree"
        )


def check_kept(name: str, before: Tensor, after: Tensor) -> None:
    """Raise ConfigError if a block has changed its input in place."""
    if not torch.equal(before, after):
        raise ConfigError(
            f"block {name!r} changes its input in place, which is needed where it is "
            "skipped or iterated; set inplace=False in its first activation"
        )
