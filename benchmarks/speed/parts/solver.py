"""Solves to a relative residual of 1e-3, on equal layers and inputs.

Ours stops each sample by itself, torchdeq (where the extra ``[deq]`` is installed) when
the worst one is there. Errors are against double precision.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.report import Table, spread
from benchmarks.speed.baselines.layers import (
    PRECISE,
    OpenLayer,
    Subject,
    in_double,
    make_subject,
)
from benchmarks.speed.common import Clock, Options, play_rounds, ratio
from dynalay_gym.fixed_point.solve import SolverConfig, SolverMethod

LAYERS = (
    "smoothing-32@16",
    "trained-32@16",
    "trained-64@8",
    "trained-64@4",
    "random-64@8",
    "random-64@4",
)
RTOL, BUDGET = 1e-3, 200  # most steps of any solve
_CHECKED = 64  # samples of which the error is known

Solver = Callable[[Tensor], tuple[Tensor, float]]  # x -> value, steps


def measure(options: Options) -> list[Table]:
    """Measure every layer."""
    names, num = (LAYERS[-1:], 64) if options.quick else (LAYERS, 256)
    rows = [row for name in names for row in measure_layer(name, num, options)]
    columns = {
        "layer": ("layer", ""),
        "solver": ("solver", ""),
        "µs per sample": ("us", ",.0f"),
        "over plain": ("over_plain", ".2f"),
        "steps": ("steps", ".1f"),
        "median error": ("error", ".1e"),
    }
    notes = f"{num} samples; layers are kind-channels@side; {options.notes}"
    return [Table("Solves", notes, columns, rows)]


def measure_layer(name: str, num: int, options: Options) -> list[dict[str, object]]:
    """Measure every solver on one layer."""
    subject, clock = make_subject(name, num), Clock("cpu")
    solvers, exact = make_solvers(subject.layer), solution(subject)
    jobs = {k: partial(solve, subject.x) for k, solve in solvers.items()}
    turns = {name: clock.turn(job, num) for name, job in jobs.items()}
    with torch.no_grad():
        took = play_rounds(turns, options.rounds)
        found = {k: job() for k, job in jobs.items()}
    return [
        {
            "layer": name,
            "solver": solver,
            "us": spread(took[solver]),
            "over_plain": ratio(took["plain"], took[solver]),
            "steps": steps,
            "error": relative_error(value, exact),
        }
        for solver, (value, steps) in found.items()
    ]


def make_solvers(layer: OpenLayer) -> dict[str, Solver]:
    """Return every solver as a function of the injected input."""

    def solve(x: Tensor, config: SolverConfig) -> tuple[Tensor, float]:
        result = layer.solve(x, solver=config)
        return result.value, float(result.num_steps.double().mean())

    solvers: dict[str, Solver] = {
        str(method): partial(
            solve, config=SolverConfig(rtol=RTOL, max_steps=BUDGET, method=method)
        )
        for method in SolverMethod
    }
    try:
        from benchmarks.speed.baselines.deq import deq_solve
    except ModuleNotFoundError:
        return solvers
    for method in ("fixed_point_iter", "anderson"):
        solvers[f"torchdeq {method}"] = partial(
            deq_solve, layer, f_solver=method, f_max_iter=BUDGET, f_tol=RTOL
        )
    return solvers


def solution(subject: Subject) -> Tensor:
    """Return the fixed points of the first samples in double precision."""
    with torch.no_grad():
        x = subject.x[:_CHECKED].double()
        return in_double(subject.layer).solve(x, solver=PRECISE).value


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Return the median over samples of the relative distance."""
    distance = (value[: len(exact)].double() - exact).flatten(1).norm(dim=1)
    return float((distance / exact.flatten(1).norm(dim=1)).median())
