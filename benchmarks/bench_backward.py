"""Gradients of solves, against torchdeq on the same layers: a part of ``bench_solver``.

Axes: n samples, C channels.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.deq import BACKWARD_RTOL, BUDGET, IFT, deq_gradient
from benchmarks.solver_figures import ratio, spread, summaries
from benchmarks.solver_layers import PRECISE, OpenLayer, Subject, in_double, subject
from benchmarks.solver_memory import PeakMemory, saved_bytes
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, SolverMethod


def run_backward(name: str, num_samples: int, rounds: int) -> dict[str, Any]:
    """Time, memory and accuracy of every gradient on one layer."""
    case = subject(name, num_samples)
    head = torch.randn(10, case.x.shape[1], generator=torch.Generator().manual_seed(3))
    exact = exact_gradient(case, head)
    methods = gradients(case.layer)
    weight, x = case.layer.free_weight, case.x.clone().requires_grad_()
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    backward: dict[str, list[float]] = {method: [] for method in methods}
    facts: dict[str, dict[str, float]] = {}
    for number in range(rounds + 1):  # the first warms up
        for method, forward in methods.items():
            weight.grad = x.grad = None
            began = time.process_time()
            value = loss(forward(x), head, case.y)
            between = time.process_time()
            value.backward()
            ended = time.process_time()
            if number == 0:
                facts[method] = {"cosine": cosine(weight.grad, exact)}
                facts[method] |= memory(forward, x, head, case, weight)
            else:
                seconds[method].append(ended - began)
                backward[method].append(ended - between)
    found = summaries(seconds, facts, IFT)
    base = np.array(backward[IFT])
    for method, row in found.items():
        row["backward_seconds"] = spread(backward[method])
        row["backward_speedup"] = ratio(base, backward[method])
    return {"methods": found}


def gradients(layer: OpenLayer) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every way to differentiate a solve, as a function of the injected input."""
    own = SolverConfig(
        rtol=BACKWARD_RTOL,
        max_steps=BUDGET,
        method=SolverMethod.ANDERSON,
        adjoint_max_steps=BUDGET,
    )
    neumann = replace(own, adjoint_method=SolverMethod.PLAIN)
    configs = {
        "implicit 1e-2": replace(own, adjoint_rtol=1e-2),
        "implicit 1e-3": replace(own, adjoint_rtol=1e-3),
        "implicit 1e-2, plain both": replace(
            neumann, method=SolverMethod.PLAIN, adjoint_rtol=1e-2
        ),
        "Neumann-3": replace(neumann, adjoint_rtol=1e-30, adjoint_max_steps=3),
        "Neumann-5": replace(neumann, adjoint_rtol=1e-30, adjoint_max_steps=5),
        "one-step": replace(own, rule=GradientRule.ONE_STEP),
        "unrolled": replace(own, rule=GradientRule.UNROLL),
    }
    methods = {name: own_gradient(layer, config) for name, config in configs.items()}
    methods[IFT] = deq_gradient(layer, {"ift": True})
    for steps in (1, 5):
        methods[f"torchdeq grad={steps}"] = deq_gradient(layer, {"grad": steps})
    return methods


def own_gradient(layer: OpenLayer, config: SolverConfig) -> Callable[[Tensor], Tensor]:
    """A layer's own solve."""
    return lambda x: layer.solve(x, solver=config).value


def loss(value: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a linear head on the pooled state."""
    return F.cross_entropy(value.mean((2, 3)) @ head.T, labels)


def exact_gradient(case: Subject, head: Tensor) -> Tensor:
    """Gradient for W in double precision."""
    layer = in_double(case.layer)
    value = layer.solve(case.x.double(), solver=PRECISE).value
    loss(value, head.double(), case.y).backward()
    assert layer.free_weight.grad is not None
    return layer.free_weight.grad


def memory(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    head: Tensor,
    case: Subject,
    weight: Tensor,
) -> dict[str, float]:
    """MiB that a pass saves, and the most alive within it."""
    known = [x, weight]
    with PeakMemory() as peak:
        loss(forward(x), head, case.y).backward()
    return {
        "saved_mib": saved_bytes(lambda: forward(x), known) / 2**20,
        "peak_mib": peak.peak / 2**20,
    }


def cosine(gradient: Tensor | None, exact: Tensor) -> float:
    """Cosine of the angle between two gradients."""
    assert gradient is not None
    return float(F.cosine_similarity(gradient.double().flatten(), exact.flatten(), 0))


def backward_table(name: str, found: dict[str, Any]) -> str:
    """Markdown table of one layer's gradients."""
    lines = [
        f"Forward and backward, `{name}`:",
        "",
        "| gradient | ms both | speed-up | ms backward (quartiles) | speed-up | saved "
        "MiB | peak MiB | cosine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, row in found["methods"].items():
        low, mid, high = (1e3 * value for value in row["backward_seconds"])
        lines.append(
            f"| {method} | {1e3 * row['seconds'][1]:,.0f} | {row['speedup']:.2f} | "
            f"{mid:,.1f} ({low:,.1f} to {high:,.1f}) | {row['backward_speedup']:.2f} | "
            f"{row['saved_mib']:.1f} | {row['peak_mib']:.1f} | {row['cosine']:.5f} |"
        )
    return "\n".join(lines)
