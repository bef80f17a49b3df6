"""A network in pieces: its blocks, how they are called, and what lies between them.

Axes: B blocks. Cut i, 0 to B - 1, is the place before block i.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate


@dataclass(frozen=True)
class Carried:
    """An argument of a block that crosses the cut before it.

    Attributes:
        place: Its place among what crosses, behind the block's input.
    """

    place: int


@dataclass(frozen=True)
class Input:
    """An argument of a block that is its input once more."""


@dataclass(frozen=True)
class Attribute:
    """An argument of a block that is a parameter or a buffer of the network.

    Attributes:
        name: Its name, with dots.
    """

    name: str


class BlockCall(NamedTuple):
    """How the network calls a block, beside the input that it maps to its shape.

    Attributes:
        keyword: Name by which the input is given; None if it comes first.
        args: Other arguments; `Input`, `Carried` and `Attribute` stand for tensors.
        kwargs: The same by name.
    """

    keyword: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}

    def run(
        self, network: nn.Module, name: str, x: Tensor, carried: Sequence[Any]
    ) -> Any:
        """Return what a block makes of an input.

        Args:
            network: The network.
            name: Name of the block.
            x: Its input.
            carried: What crosses the cut behind it.
        """

        def value(leaf: Any) -> Any:
            if isinstance(leaf, Input):
                return x
            if isinstance(leaf, Carried):
                return carried[leaf.place]
            if isinstance(leaf, Attribute):
                return _attribute(network, leaf.name)
            return leaf

        args, kwargs = map_aggregate((self.args, dict(self.kwargs)), value)
        if self.keyword is None:
            return network.get_submodule(name)(x, *args, **kwargs)
        return network.get_submodule(name)(*args, **kwargs, **{self.keyword: x})


Piece = Callable[[nn.Module, Sequence[Any]], list[Any]]
Function = Callable[[nn.Module, Tensor], Tensor]


class Traced(NamedTuple):
    """A network cut at its blocks.

    Attributes:
        names: Names of the blocks, in the order in which they run, B entries.
        calls: How each is called.
        pieces: What lies between, B + 1 functions of the network and a list. The first
            takes the network's inputs; the others take what a block returned, and what
            crossed the cut before it behind the block's input. They return what
            crosses the next cut, the next block's input first; the last one returns
            the answer alone.
    """

    names: tuple[str, ...]
    calls: tuple[BlockCall, ...]
    pieces: tuple[Piece, ...]


def chain(names: Sequence[str], stem: Function, head: Function) -> Traced:
    """Return a network whose blocks follow each other, without looking into it.

    Args:
        names: Names of the blocks, in the order in which they run.
        stem: Function of the network and its inputs to the first block's input.
        head: Function of the network and the last block's output to the answer.
    """
    calls = tuple(BlockCall() for _ in names)
    between: list[Piece] = [_first] * (len(names) - 1)
    pieces: list[Piece] = [_FunctionPiece(stem), *between, _FunctionPiece(head)]
    return Traced(tuple(names), calls, tuple(pieces))


def first_of(output: Any) -> Tensor:
    """Return a block's output, or the first one of several."""
    first: Tensor = output[0] if isinstance(output, tuple | list) else output
    return first


class GraphPiece:
    """A piece of a network's graph, which runs on the network's modules.

    Args:
        network: The network.
        graph: The graph.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        # Its modules and weights are looked up in whatever it is called with.
        self._forward = type(fx.GraphModule(network, graph)).forward

    def __call__(self, network: nn.Module, values: Sequence[Any]) -> list[Any]:
        """Run it; see `Traced.pieces`."""
        return list(self._forward(network, *values))


def cloned(values: Any) -> Any:
    """Return values with copies of their tensors."""
    return map_aggregate(values, lambda v: v.clone() if isinstance(v, Tensor) else v)


@dataclass(frozen=True)
class _FunctionPiece:
    """A function of the network and of one tensor."""

    function: Function

    def __call__(self, network: nn.Module, values: Sequence[Any]) -> list[Any]:
        return [self.function(network, first_of(values[0]))]


def _first(network: nn.Module, values: Sequence[Any]) -> list[Any]:
    return [first_of(values[0])]


def _attribute(network: nn.Module, name: str) -> Any:
    """Return a parameter or a buffer by its name with dots."""
    owner, _, last = name.rpartition(".")
    return getattr(network.get_submodule(owner), last)
