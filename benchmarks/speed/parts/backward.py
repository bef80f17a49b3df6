"""Gradients of solves to 1e-4, on equal layers and inputs.

The loss is the cross-entropy of a linear head on the pooled state; cosine is to the
gradient of W in double precision. torchdeq takes part where the extra ``[deq]`` is
installed.

Axes: n samples, C channels.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import Table, spread
from benchmarks.speed.baselines.layers import (
    PRECISE,
    OpenLayer,
    in_double,
    make_subject,
)
from benchmarks.speed.common import Clock, Options, play_rounds, ratio
from benchmarks.speed.parts.solver import BUDGET, LAYERS
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, SolverMethod

RTOL, BASE = 1e-4, "implicit 1e-2"

Solve = Callable[[Tensor], Tensor]  # x -> fixed points, differentiable


def measure(options: Options) -> list[Table]:
    """Measure every layer."""
    names, num = (LAYERS[-1:], 16) if options.quick else (LAYERS[:3], 64)
    rows = [row for name in names for row in measure_layer(name, num, options)]
    columns = {
        "layer": ("layer", ""),
        "gradient": ("gradient", ""),
        "ms both": ("ms", ",.1f"),
        f"over {BASE}": ("over_base", ".2f"),
        "ms backward": ("ms_backward", ",.1f"),
        "over it": ("over_base_backward", ".2f"),
        "saved MiB": ("saved_mib", ".1f"),
        "cosine": ("cosine", ".5f"),
    }
    notes = f"{num} samples; layers are kind-channels@side; {options.notes}"
    return [Table("Solves and their gradients", notes, columns, rows)]


def measure_layer(name: str, num: int, options: Options) -> list[dict[str, Any]]:
    """Measure every gradient on one layer."""
    subject, clock = make_subject(name, num), Clock("cpu")
    layer, x, labels = subject
    x = x.clone().requires_grad_()
    generator = torch.Generator().manual_seed(3)
    head = torch.randn(10, x.shape[1], generator=generator)

    def turn(solve: Solve) -> tuple[float, float]:
        layer.free_weight.grad = x.grad = None
        began = clock()
        loss = F.cross_entropy(solve(x).mean((2, 3)) @ head.T, labels)
        between = clock()
        loss.backward()
        ended = clock()
        return 1e3 * (ended - began), 1e3 * (ended - between)

    exact = exact_gradient(layer, x, head, labels)
    methods = make_gradients(layer)
    took = play_rounds(
        {k: partial(turn, s) for k, s in methods.items()}, options.rounds
    )
    rows = []
    for method, solve in methods.items():
        turn(solve)
        both, backward = took[method].T
        rows.append(
            {
                "layer": name,
                "gradient": method,
                "ms": spread(both),
                "over_base": ratio(took[BASE][:, 0], both),
                "ms_backward": spread(backward),
                "over_base_backward": ratio(took[BASE][:, 1], backward),
                "saved_mib": saved_bytes(solve, x, layer.free_weight) / 2**20,
                "cosine": cosine(layer.free_weight.grad, exact),
            }
        )
    return rows


def make_gradients(layer: OpenLayer) -> dict[str, Solve]:
    """Return every way to differentiate a solve."""
    own = SolverConfig(
        rtol=RTOL,
        max_steps=BUDGET,
        method=SolverMethod.ANDERSON,
        adjoint_max_steps=BUDGET,
    )
    neumann = replace(own, adjoint_method=SolverMethod.PLAIN, adjoint_rtol=1e-30)
    configs = {
        BASE: replace(own, adjoint_rtol=1e-2),
        "implicit 1e-3": replace(own, adjoint_rtol=1e-3),
        "Neumann-5": replace(neumann, adjoint_max_steps=5),
        "one-step": replace(own, rule=GradientRule.ONE_STEP),
        "unrolled": replace(own, rule=GradientRule.UNROLL),
    }

    def solve(x: Tensor, config: SolverConfig) -> Tensor:
        return layer.solve(x, solver=config).value

    methods: dict[str, Solve] = {
        name: partial(solve, config=config) for name, config in configs.items()
    }
    try:
        from benchmarks.speed.baselines.deq import deq_solve
    except ModuleNotFoundError:
        return methods
    limits = {"f_max_iter": BUDGET, "f_tol": RTOL, "b_max_iter": BUDGET, "b_tol": 1e-3}

    def solve_deq(x: Tensor, **rule: Any) -> Tensor:
        return deq_solve(layer, x, **limits | rule)[0]

    methods["torchdeq implicit"] = partial(solve_deq, ift=True)
    methods |= {f"torchdeq grad={k}": partial(solve_deq, grad=k) for k in (1, 5)}
    return methods


def exact_gradient(layer: OpenLayer, x: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of W in double precision."""
    double = in_double(layer)
    value = double.solve(x.detach().double(), solver=PRECISE).value
    F.cross_entropy(value.mean((2, 3)) @ head.double().T, labels).backward()
    assert double.free_weight.grad is not None
    return double.free_weight.grad


def saved_bytes(solve: Solve, x: Tensor, weight: Tensor) -> int:
    """Return the bytes that a solve leaves saved for its backward pass.

    Every storage counts once; those of input and weight do not.
    """
    kept: list[Tensor] = []  # a freed address must not be counted twice

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = solve(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in kept}
    for tensor in (x, weight):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del result
    return sum(storage.nbytes() for storage in storages.values())


def cosine(gradient: Tensor | None, exact: Tensor) -> float:
    """Return the cosine of the angle between two gradients."""
    assert gradient is not None
    return float(F.cosine_similarity(gradient.double().flatten(), exact.flatten(), 0))
