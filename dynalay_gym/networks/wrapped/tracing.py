"""A network's graph, cut at the blocks that are decided on.

Only what contains a block is looked into; everything else, the blocks included, stays
the module that it is. What lies between two blocks is a *piece*: a graph that runs on
the network's own modules and weights.

Axes: B blocks. Cut i, 0 to B - 1, is the place before block i.
"""

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import fx, nn
from torch.fx.node import map_arg

from dynalay_gym.errors import ConfigError, first_line
from dynalay_gym.networks.wrapped.pieces import (
    Attribute,
    BlockCall,
    Carried,
    GraphPiece,
    Input,
    Piece,
    Traced,
)

REMEDY = (
    "give stem= and head=, functions of (network, x) for what comes before the first "
    "block and after the last one, if the blocks follow each other directly"
)


def trace(network: nn.Module, names: Sequence[str]) -> Traced:
    """Cut a network at its blocks.

    Args:
        network: The network. Tensors that its forward makes become buffers of it.
        names: Names of the blocks.

    Raises:
        ConfigError: Its forward cannot be followed, or a block is not called exactly
            once with a tensor for the first parameter of its forward.
    """
    graph = _follow(network, names)
    nodes = list(graph.nodes)
    blocks = [n for n in nodes if n.op == "call_module" and n.target in names]
    for name in names:
        num = sum(block.target == name for block in blocks)
        if num != 1:
            raise ConfigError(
                f"the network calls block {name!r} {num} times; name blocks that it "
                "calls exactly once"
            )
    inputs = [_find_input(block, network) for block in blocks]
    crossing = [
        [found.node, *_crossing(block, found, nodes)]
        for block, found in zip(blocks, inputs, strict=True)
    ]
    ends = [-1, *map(nodes.index, blocks), len(nodes)]
    pieces = []
    for i, end in enumerate(ends[1:]):
        body, last = nodes[ends[i] + 1 : end], nodes[ends[i]] if i > 0 else None
        given = crossing[i - 1][1:] if i > 0 else []
        wanted = crossing[i] if i < len(blocks) else list(graph.output_node().args)
        pieces.append(_piece(network, body, last, given, wanted))
    calls = [
        _call(block, found, across[1:])
        for block, found, across in zip(blocks, inputs, crossing, strict=True)
    ]
    order = tuple(str(block.target) for block in blocks)
    return Traced(order, tuple(calls), tuple(pieces))


class _Tracer(fx.Tracer):
    """Looks into what contains a block, and into nothing else."""

    proxy_buffer_attributes = True  # so that slices of buffers are followed

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self.inside = [""]  # the modules that are being followed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays as it is."""
        inner = f"{module_qualified_name}."
        return not any(name.startswith(inner) for name in self._names)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a call of a module, or follow it."""
        name = self.path_of_module(m)
        if isinstance(m, nn.TransformerEncoder) and not self.is_leaf_module(m, name):
            forward = partial(_encode, m)
        self.inside.append(name)
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result


def _encode(
    encoder: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """Do what PyTorch's encoder does, without its questions about the input."""
    for layer in encoder.layers:
        src = layer(src, mask, src_key_padding_mask, bool(is_causal))
    return src if encoder.norm is None else encoder.norm(src)


class _OneInput(nn.Module):
    """A network that is given its inputs alone, so that its defaults hold."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Any) -> Any:
        return self.network(inputs)


def _follow(network: nn.Module, names: Sequence[str]) -> fx.Graph:
    """Return the graph of a network."""
    tracer, root = _Tracer([f"network.{name}" for name in names]), _OneInput(network)
    try:
        graph = tracer.trace(root)
    except Exception as error:
        _, _, inside = tracer.inside[-1].partition(".")
        where = f"module {inside!r}" if inside else "the network"
        raise ConfigError(
            f"the forward of {where} cannot be followed, because what it does depends "
            f"on its data ({first_line(error)}); {REMEDY}"
        ) from error
    for node in graph.nodes:
        if node.op == "get_attr" and not node.target.startswith("network."):
            # A tensor that is made in the forward, which the tracer keeps at the root.
            network.register_buffer(
                node.target, getattr(root, node.target), persistent=False
            )
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("network.")
    # Of a block's several outputs, those that nobody reads need not be there.
    graph.eliminate_dead_code(lambda node: node.target is not operator.getitem)
    return graph


class _Found(NamedTuple):
    """What a block maps to its shape.

    Attributes:
        node: The node of it.
        keyword: Name by which it is given; None if it comes first.
    """

    node: fx.Node
    keyword: str | None


def _find_input(block: fx.Node, network: nn.Module) -> _Found:
    """Return what is given for the first parameter of a block's forward."""
    given, keyword = block.args[0] if block.args else None, None
    if not block.args:
        forward = network.get_submodule(str(block.target)).forward
        keyword = next(iter(inspect.signature(forward).parameters), None)
        given = block.kwargs.get(keyword or "")
    if not isinstance(given, fx.Node):
        raise ConfigError(
            f"block {block.target!r} is called without a tensor as its first argument; "
            "name another"
        )
    return _Found(given, keyword)


def _crossing(block: fx.Node, found: _Found, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Return what crosses the cut before a block behind its input."""
    place = nodes.index(block)
    before, after = nodes[:place], set(nodes[place + 1 :])
    others = list[fx.Node]()
    map_arg(_other_arguments(block, found), others.append)
    return [
        node
        for node in before
        if node.op != "get_attr"
        and (after & node.users.keys() or (node in others and node != found.node))
    ]


def _other_arguments(block: fx.Node, found: _Found) -> tuple[Any, dict[str, Any]]:
    """Return a block's arguments but for its input."""
    kwargs = {name: v for name, v in block.kwargs.items() if name != found.keyword}
    return block.args[1:], kwargs


def _call(block: fx.Node, found: _Found, carried: Sequence[fx.Node]) -> BlockCall:
    """Return how a block is called, with what crosses the cut behind its input."""

    def mark(node: fx.Node) -> Any:
        if node == found.node:
            return Input()
        if node.op == "get_attr":
            return Attribute(str(node.target))
        return Carried(carried.index(node))

    args, kwargs = map_arg(_other_arguments(block, found), mark)
    return BlockCall(found.keyword, tuple(args), kwargs)


def _piece(
    network: nn.Module,
    body: Sequence[fx.Node],
    block: fx.Node | None,
    given: Sequence[fx.Node],
    wanted: Sequence[Any],
) -> Piece:
    """Return some nodes as a piece.

    Args:
        network: The network.
        body: The nodes, in order; what the network takes and returns is no part of it.
        block: The block below, whose output comes first; None for the network's inputs.
        given: What comes behind it.
        wanted: What is returned.
    """
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    if block is not None:
        known[block] = graph.placeholder("y")
    for node in given:
        known[node] = graph.placeholder(node.name)

    def find(node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in known:
            known[node] = graph.get_attr(str(node.target))
        return known[node]

    for node in body:
        if node.op not in ("get_attr", "output"):
            known[node] = graph.node_copy(node, find)
    graph.output(map_arg(tuple(wanted), find))
    return GraphPiece(network, graph)
