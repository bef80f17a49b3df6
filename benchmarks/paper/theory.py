"""DynaLay's theorem 1 and its a-priori bound, on the layers of a trained network.

Every layer is iterated after those below it. A contraction with modulus kappa has one
fixed point z*, whatever the start, and ``|z_n - z*| <= kappa^n / (1 - kappa) |z_1 -
z_0|``. Convolutions are certified in the Euclidean norm, planners in the sup norm;
for texts nothing is certified, so there is no bound.

Axes: n samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    mean_and_range,
    shared_folder,
)
from benchmarks.report import Columns, Row, Table
from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.base import LayerState, MainLayer
from dynalay_gym.networks.layers.reading import ReadingLayer
from dynalay_gym.networks.main_network import MainNetwork

_SAMPLES, _STARTS, _SHOWN = 50, 10, 40
_EXACT = 300  # iterations, at most, to what counts as the fixed point
_RTOL = 1e-6  # of the solves from random starts


class Theory(Experiment):
    """Fixed points, starts and rates; see `Experiment`."""

    name = "theory"
    title = "Theorem 1 and the a-priori bound"
    arms = ("main network",)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Measure every layer of a trained network, in double precision."""
        shared = shared_network(setting, seed, shared_folder(setting, folder))
        network = load_main_network(shared)[0].double().freeze()
        test = setting.splits()["test"].inputs
        inputs = test[:: max(1, len(test) // _SAMPLES)][:_SAMPLES]
        if inputs.is_floating_point():
            inputs = inputs.double()
        return {"layers": [*measured(network, inputs, seed)]}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return what was measured of each layer."""
        found = []
        for level in range(len(rows[0]["layers"])):
            own = [row["layers"][level] for row in rows]
            row: dict[str, Any] = {"layer": level + 1, "norm": own[0]["norm"]}
            for key in ("modulus", "measured", "apart", "allowed", "share", "capped"):
                if own[0][key] is not None:
                    row[key] = mean_and_range([each[key] for each in own])
            found.append(row)
        notes = (
            f"{_SAMPLES} test samples, double precision; means over seeds, lowest and "
            f"highest in brackets. {_STARTS} random starts are solved to a relative "
            f"residual of {_RTOL:g}; apart: the largest distance of an end from the "
            "fixed point; allowed: the largest that its last step allows."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return errors by iteration, beside their bounds, of the first seed."""
        layers = rows[0]["layers"]
        figure = Figure(figsize=(3.6 * len(layers), 3.4), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(layers)))
        for level, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
            axes.semilogy(layer["errors"], label="largest error")
            if layer["bounds"] is not None:
                axes.semilogy(layer["bounds"], "--", label="largest bound")
            axes.set_title(f"layer {level + 1}")
            axes.set_xlabel("iterations")
            axes.set_ylabel("distance from the fixed point")
            axes.legend()
        return figure


@torch.no_grad()
def measured(
    network: MainNetwork, inputs: Tensor, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield what is measured of every layer, of samples [n, ...].

    Yields:
        ``norm``; ``modulus`` that is certified, None if none is; ``measured``: the
        largest share of its distance from the fixed point that an iteration left of a
        random start; ``apart``
        and ``allowed``: see `Theory.tables`; ``share``: the largest share of the
        a-priori bound that an error was; ``errors`` and ``bounds`` by iteration;
        ``capped``: solves in % that the network's own solver does not finish.
    """
    below, generator = network.stem(inputs), torch.Generator().manual_seed(seed)
    for level, layer in enumerate(network.main_layers):
        plain = layer.plain(below, 2**level - 1)
        own = network.solvers[level]
        state, result = layer.iterate(below, plain, 2**level - 1, own)
        apply, size = map_of(layer, state), norm_of(layer)
        first = layer.iterate(below, plain, 2**level - 1, replace(own, max_steps=0))[
            0
        ].z
        path = [first]
        for _ in range(_SHOWN):
            path.append(apply(path[-1]))
        fixed = path[-1]
        for _ in range(_EXACT):
            before, fixed = fixed, apply(fixed)
            if torch.equal(before, fixed):
                break
        modulus = modulus_of(layer, state)
        errors = torch.stack([size(z - fixed) for z in path])  # [steps, n]
        steps = size(path[1] - path[0])
        starts = [random_start(layer, fixed, generator) for _ in range(_STARTS)]
        apart, allowed, factor = from_starts(apply, size, starts, fixed, modulus)
        bounds = None
        if modulus is not None:
            powers = modulus ** torch.arange(len(path))[:, None]
            bounds = powers / (1 - modulus) * steps
        tiny = 1e-12 * size(fixed).clamp(min=1e-300)  # what rounding leaves
        yield {
            "norm": "sup" if is_planner(layer) else "L2",
            "modulus": modulus,
            "measured": factor,
            "apart": apart,
            "allowed": allowed,
            "share": None
            if bounds is None
            else float((errors / (bounds + tiny)).max()),
            "errors": errors.amax(1).tolist(),
            "bounds": None if bounds is None else bounds.amax(1).tolist(),
            "capped": 100
            * float((result.status == SolverStatus.MAX_STEPS).double().mean()),
        }
        below = state


def from_starts(
    apply: Callable[[Tensor], Tensor],
    size: Callable[[Tensor], Tensor],
    starts: Sequence[Tensor],
    fixed: Tensor,
    modulus: float | None,
) -> tuple[float, float | None, float]:
    """Return how far from the fixed point solves from other starts end.

    Args:
        apply: The map.
        size: The norm, of each sample.
        starts: Where solves begin, each [n, ...].
        fixed: The fixed point [n, ...].
        modulus: Certified modulus, None if there is none.

    Returns:
        The largest distance; the largest that the last steps allow, by the modulus; and
        the largest share of its distance that the first step left of a start.
    """
    apart, allowed, factor = 0.0, 0.0, 0.0
    for start in starts:
        z = apply(start)
        distance = size(start - fixed)
        left = size(z - fixed) / distance.clamp(min=torch.finfo(z.dtype).tiny)
        factor = max(factor, float(left.max()))
        for _ in range(_EXACT):
            before, z = z, apply(z)
            if bool((size(z - before) <= _RTOL * size(z)).all()):
                break
        apart = max(apart, float(size(z - fixed).max()))
        if modulus is not None:
            step = float(size(z - before).max())
            allowed = max(allowed, modulus / (1 - modulus) * step)
    return apart, None if modulus is None else allowed, factor


def random_start(layer: MainLayer, fixed: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random iterate; which positions hold a word is no part of the draw."""
    noise = torch.rand(fixed.shape, generator=generator, dtype=fixed.dtype)
    if isinstance(layer, ReadingLayer):
        return torch.cat([noise[:, :-1] * fixed[:, -1:], fixed[:, -1:]], 1)
    return 2 * noise * fixed.abs().amax()


def map_of(layer: MainLayer, state: LayerState) -> Callable[[Tensor], Tensor]:
    """Return the map that an iterated layer applies, as a function of its iterate."""
    x = state.x
    assert x is not None, "an iterated layer"
    return lambda z: layer.recurrence.check(x, z, SolverConfig()).value


def modulus_of(layer: MainLayer, state: LayerState) -> float | None:
    """Return the certified modulus of a layer's map for these samples."""
    recurrence, x = layer.recurrence, state.x
    assert x is not None, "an iterated layer"
    if isinstance(recurrence, BellmanLayer):
        return float(recurrence.modulus(x).max())
    if isinstance(recurrence, FixedPointLayer):
        return min(recurrence.kappa, float(recurrence.norm_bound()))
    return None


def is_planner(layer: MainLayer) -> bool:
    """Return whether a layer contracts in the sup norm."""
    return isinstance(layer.recurrence, BellmanLayer)


def norm_of(layer: MainLayer) -> Callable[[Tensor], Tensor]:
    """Return the norm of a layer, of each sample [n]."""
    order = torch.inf if is_planner(layer) else 2
    return lambda z: z.flatten(1).norm(order, dim=1)


_COLUMNS: Columns = {
    "layer": ("layer", "d"),
    "norm": ("norm", ""),
    "certified modulus": ("modulus", ".3f"),
    "measured": ("measured", ".3f"),
    "apart": ("apart", ".1e"),
    "allowed": ("allowed", ".1e"),
    "largest share of the bound": ("share", ".3f"),
    "capped, %": ("capped", ".1f"),
}
