"""Training a main network through the layers that were chosen for each sample.

A sample's state is the bit pattern of the layers that sit on their fixed point (bit
l - 1 = layer l), and these are the layers that were chosen for it. Equation 4 of
DynaLay lets a layer learn from the samples that chose it; what nobody chose is neither
computed forward (its iteration) nor backward (its parameters, and everything below a
sample's lowest chosen layer).

Axes: n samples, L layers, K classes, P patterns of a normalisation.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_layers import LayerState, MainLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.norm import PatternNorm


class SelectiveNetwork:
    """A main network whose gradients follow the choices made for each sample.

    Samples are grouped at every layer: those that chose it run the layer and its
    solve with its parameters; the others run its plain application with a twin that
    shares the numbers but learns nothing, so gradients pass through them to a chosen
    layer below and no further. Normalisation uses the running statistics, so a
    sample's gradient does not depend on the samples beside it, and a batch's is the
    sum of its samples'.

    Args:
        model: The network, on its device; moving it afterwards would part the two.
    """

    def __init__(self, model: MainNetwork) -> None:
        self.model = model
        self._twin = _still_twin(model)

    def logits(
        self,
        images: Tensor,
        states: Tensor,
        solver: SolverConfig,
        *,
        chosen_only: bool = True,
    ) -> Tensor:
        """Answer each sample in its own state.

        Args:
            images: Samples [n, C, H, W].
            states: Their states, int64 [n].
            solver: Options of the solves and of their gradient.
            chosen_only: Only chosen layers (and the head) learn, as in equation 4;
                otherwise a sample teaches every layer on its way.

        Returns:
            Logits [n, K], differentiable.

        References:
            Mathur and Plis (2023), DynaLay, equations 4 and 5.
        """
        # Running statistics, which stay as they are; train() forgets what was frozen.
        self.model.train().eval()
        others = self._twin if chosen_only else self.model
        below = others.stem(images)
        pairs = zip(self.model.main_layers, others.main_layers, strict=True)
        for level, (layer, other) in enumerate(pairs):
            pattern, bit = states & ((1 << level) - 1), states >> level & 1
            below = _run_layer(layer, other, below, pattern, bit.bool(), solver)
        return self.model.classify(below, states)


def _run_layer(
    layer: MainLayer,
    other: MainLayer,
    below: LayerState,
    pattern: Tensor,
    chosen: Tensor,
    solver: SolverConfig,
) -> LayerState:
    """One layer over all samples: ``layer`` where it is chosen, ``other`` elsewhere."""
    groups = [rows.nonzero().flatten() for rows in (chosen, ~chosen)]
    parts: list[LayerState] = []
    for rows, module in zip(groups, (layer, other), strict=True):
        if rows.numel() == 0:
            continue
        here = below.at(rows)
        state = module.plain(here, pattern[rows])
        if rows is groups[0]:
            state = module.iterate(here, state, pattern[rows], solver)[0]
        parts.append(state)
    order = torch.cat(groups).argsort()
    y = torch.cat([part.y for part in parts])[order]
    return LayerState(y, y, _hidden(parts, len(y), order))


def _hidden(parts: list[LayerState], num: int, order: Tensor) -> Tensor | None:
    """Hidden stream of all samples: those that chose the layer come first."""
    h = parts[0].h
    if h is None:  # nobody chose it, or there is no such stream
        return None
    nothing = h.new_zeros(num - len(h), *h.shape[1:])
    return torch.cat([h, nothing])[order]


def _still_twin(model: MainNetwork) -> MainNetwork:
    """Network that shares all numbers and learns nothing."""
    # train() forgets what a frozen model had computed from the numbers of then.
    twin = copy.deepcopy(model).train().eval().requires_grad_(False)
    mine, theirs = (chain(each.parameters(), each.buffers()) for each in (twin, model))
    for copied, own in zip(mine, theirs, strict=True):
        copied.data = own.data
    return twin


def pattern_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters [P, C] of which each pattern has a row of its own."""
    norms = [each for each in model.modules() if isinstance(each, PatternNorm)]
    return [part for norm in norms for part in (norm.weight, norm.bias)]


@contextmanager
def hold_unused(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep rows without a gradient where they are over an optimiser's step.

    A parameter without a gradient is skipped by the optimiser, but the row of a
    pattern that nobody met is part of one that has: its gradient is 0, and momentum
    and weight decay would move it.

    Args:
        parameters: Of shape [P, C].
    """
    held = [
        (one, (one.grad == 0).all(1, keepdim=True), one.detach().clone())
        for one in parameters
        if one.grad is not None
    ]
    yield
    with torch.no_grad():
        for one, unused, before in held:
            one.copy_(torch.where(unused, before, one))
