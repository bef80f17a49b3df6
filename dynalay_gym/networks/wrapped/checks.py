"""Checks of what somebody asks of a network, before and while it is wrapped."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError, brief, first_line
from dynalay_gym.networks.wrapped.pieces import first_of


def check_network(network: Any) -> None:
    """Raise ConfigError unless it is a module with weights."""
    if not isinstance(network, nn.Module) or not [*network.parameters()]:
        raise ConfigError(
            f"{type(network).__name__} is no network with weights; give a "
            "torch.nn.Module that maps inputs to logits"
        )


def check_example(network: nn.Module, example: Any) -> None:
    """Raise ConfigError unless an example is what the network takes."""
    if not isinstance(example, Tensor) or example.dim() < 2 or len(example) == 0:
        shown = tuple(example.shape) if isinstance(example, Tensor) else brief(example)
        raise ConfigError(
            f"example must be a tensor of inputs [n, ...], not {shown}; give one or "
            "more samples, x[None] if it is one without its axis"
        )
    try:
        with torch.no_grad():
            network(example[:1].clone())
    except Exception as error:
        raise ConfigError(
            f"the network does not take the example, of shape {tuple(example.shape)} "
            f"({first_line(error)}); give inputs [n, ...] as those to come"
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
    if not bool(answer.isfinite().all()):
        raise ConfigError(
            "the network's answer to the example is not finite; give a real sample"
        )
    if not torch.equal(answer, first_of(whole)):
        raise ConfigError(
            "run block by block, the network answers otherwise than by itself; check "
            "stem= and head=, or what its forward does between blocks"
        )


def check_same_shape(name: str, before: Tensor, after: Any) -> None:
    """Raise ConfigError if a block without a shortcut changes shape or type."""
    if not isinstance(after, Tensor):
        raise ConfigError(
            f"block {name!r} returns a {type(after).__name__}, not a tensor; leave it "
            "out of layers"
        )
    if kind_of(before) != kind_of(after):
        raise ConfigError(
            f"block {name!r} maps {kind_of(before)} to {kind_of(after)} and can be "
            "neither skipped nor iterated; leave it out of layers, or name what takes "
            "its place in shortcuts="
        )


def check_shortcut(name: str, passed: Any, after: Any) -> None:
    """Raise ConfigError if a shortcut gives another shape or type than the block."""
    if not isinstance(passed, Tensor) or kind_of(passed) != kind_of(after):
        shown = kind_of(passed) if isinstance(passed, Tensor) else brief(passed)
        raise ConfigError(
            f"the shortcut of block {name!r} gives {shown}, the block "
            f"{kind_of(after)}; they must agree"
        )


def kind_of(values: Tensor) -> str:
    """Return shape of a sample and type of a tensor, to be shown and compared."""
    return f"{tuple(values.shape[1:])} of {str(values.dtype).removeprefix('torch.')}"


def check_kept(name: str, before: Tensor, after: Tensor) -> None:
    """Raise ConfigError if a block has changed its input in place."""
    if not torch.equal(before, after):
        raise ConfigError(
            f"block {name!r} changes its input in place, which is needed where it is "
            "skipped or iterated; set inplace=False in its first activation"
        )
