"""Training a main network through the layers that were chosen for each sample.

A sample's state says which layers sit on their fixed point (bit l - 1 = layer l), and
these are the layers that were chosen for it. Equation 4 of DynaLay lets a layer learn
from the samples that chose it. What nobody chose is computed neither forward (its
iteration) nor backward (its parameters, and everything below a sample's lowest chosen
layer).

Axes: n samples, L layers, K classes, P patterns of a normalisation.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.base import LayerState, MainLayer
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.main_network import MainNetwork


class SelectiveNetwork:
    """A main network whose gradients follow the choices made for each sample.

    Samples are grouped at every layer: those that chose it run the layer and its
    solve with its parameters; the others run its plain application with a twin that
    shares the numbers but learns nothing, so gradients pass through them to a chosen
    layer below and no further. Normalisation uses the running statistics, so a
    sample's gradient does not depend on the samples beside it, and a batch's is the
    sum of its samples'.

    Args:
        network: The main network, on its device; moving it afterwards would part it
            from its twin.
    """

    def __init__(self, network: MainNetwork) -> None:
        self.network = network
        self._twin = _untrained_twin(network)

    def logits(
        self,
        images: Tensor,
        state_ids: Tensor,
        solver: SolverConfig,
        *,
        chosen_only: bool = True,
    ) -> Tensor:
        """Answer each sample in its own state.

        Args:
            images: Samples [n, C, H, W].
            state_ids: Their states, int64 [n] in 0..2^L - 1.
            solver: Options of the solves and of their gradient.
            chosen_only: Only chosen layers (and the head) learn, as in equation 4;
                otherwise a sample teaches every layer on its way.

        Returns:
            Logits [n, K], differentiable.

        References:
            Mathur & Plis (2023), DynaLay, equations 4 and 5.
        """
        # Running statistics, which stay as they are; train() forgets what was frozen.
        self.network.train().eval()
        others = self._twin if chosen_only else self.network
        below = others.stem(images)
        pairs = zip(self.network.main_layers, others.main_layers, strict=True)
        for level, (layer, other) in enumerate(pairs):
            pattern = state_ids & ((1 << level) - 1)
            is_chosen = (state_ids >> level & 1).bool()
            below = _run_layer(layer, other, below, pattern, is_chosen, solver)
        return self.network.classify(below, state_ids)


def _run_layer(
    layer: MainLayer,
    other: MainLayer,
    below: LayerState,
    pattern: Tensor,
    is_chosen: Tensor,
    solver: SolverConfig,
) -> LayerState:
    """Run one layer: ``layer`` on the samples that chose it, ``other`` on the rest."""
    chosen, rest = (rows.nonzero()[:, 0] for rows in (is_chosen, ~is_chosen))
    parts: list[LayerState] = []
    if len(chosen) > 0:
        source = below.at(chosen)
        state = layer.plain(source, pattern[chosen])
        parts.append(layer.iterate(source, state, pattern[chosen], solver)[0])
    if len(rest) > 0:
        parts.append(other.plain(below.at(rest), pattern[rest]))
    order = torch.cat([chosen, rest]).argsort()
    y = torch.cat([part.y for part in parts])[order]
    return LayerState(y, y, _hidden(parts, len(y), order))


def _hidden(parts: list[LayerState], num: int, order: Tensor) -> Tensor | None:
    """Return the hidden stream of all samples; those that chose it come first."""
    h = parts[0].h
    if h is None:  # nobody chose it, or there is no such stream
        return None
    nothing = h.new_zeros(num - len(h), *h.shape[1:])
    return torch.cat([h, nothing])[order]


def _untrained_twin(network: MainNetwork) -> MainNetwork:
    """Return a network that shares all numbers and learns nothing."""
    # train() forgets what a frozen network had computed from its earlier weights.
    twin = copy.deepcopy(network).train().eval().requires_grad_(False)
    pairs = (chain(each.parameters(), each.buffers()) for each in (twin, network))
    for copied, own in zip(*pairs, strict=True):
        copied.data = own.data
    return twin


@contextmanager
def hold_unused(network: nn.Module) -> Iterator[None]:
    """Keep patterns without a gradient where they are over an optimiser's step.

    A parameter without a gradient is skipped by the optimiser, but the row of a
    pattern that nobody met is part of one that has: its gradient is 0, and momentum
    and weight decay would move it.

    Args:
        network: What the optimiser steps.
    """
    norms = [part for part in network.modules() if isinstance(part, PatternNorm)]
    held = [
        (one, (one.grad == 0).all(1, keepdim=True), one.detach().clone())
        for norm in norms
        for one in (norm.weight, norm.bias)
        if one.grad is not None
    ]
    yield
    with torch.no_grad():
        for one, unused, before in held:
            one.copy_(torch.where(unused, before, one))
