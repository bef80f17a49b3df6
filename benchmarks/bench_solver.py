"""Solves and their gradients, against torchdeq on the same layers.

    python benchmarks/bench_solver.py --out benchmarks/results/solver.json

Needs the extra ``deq``. All variants take turns in one process on the same layer and
input; figures are processor time, medians over rounds, ratios taken round by round.
Forward: to a relative residual of 1e-3 (ours: per sample; torchdeq: of the worst one).
Backward: after a forward solve to 1e-4, the loss is the cross-entropy of a linear head
on the pooled state; cosine is to the gradient of W in double precision.

Axes: n samples, C channels.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_backward import backward_table, run_backward
from benchmarks.deq import BUDGET, DEFAULT, FORWARD_RTOL, Solver, deq_solver, torchdeq
from benchmarks.solver_figures import summaries
from benchmarks.solver_layers import (
    PRECISE,
    OpenLayer,
    Subject,
    in_double,
    operator_norm,
    subject,
)
from dynalay_gym.fixed_point.solve import SolverConfig, SolverMethod
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata

_BROYDEN_ROUNDS = 2  # it takes longer than all others together
_CHECKED = 64  # samples of which the error is known in double precision
_ANDERSON = SolverConfig(
    rtol=FORWARD_RTOL, max_steps=BUDGET, method=SolverMethod.ANDERSON
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure solves and gradients."""

    out: Path | None = None
    """JSON file for the results; printed alone if not given."""
    forward: tuple[str, ...] = (
        "smoothing-32@16",
        "trained-32@16",
        "trained-64@8",
        "trained-64@4",
        "random-64@8",
        "random-64@4",
    )
    """Layers of the forward part: kind-channels@side."""
    backward: tuple[str, ...] = ("smoothing-32@16", "trained-32@16", "trained-64@8")
    """Layers of the backward part."""
    forward_samples: int = 256
    """Samples of a forward solve."""
    backward_samples: int = 64
    """Samples of a forward and backward pass."""
    rounds: int = 7
    """Rounds in which every variant has one turn."""
    broyden: bool = True
    """Whether torchdeq's Broyden solver, far slower than the others, takes part."""
    num_threads: int = 1
    """CPU threads."""


def main(args: Args) -> None:
    """Measure, print Markdown tables, write the JSON."""
    torch.set_num_threads(args.num_threads)
    found = run(args)
    print(found["markdown"])
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, found)


def run(args: Args) -> dict[str, Any]:
    """Measure both parts: raw figures, machine, and the tables as ``markdown``."""
    torchdeq()  # its absence is said before anything is measured
    forward = {name: run_forward(name, args) for name in args.forward}
    backward = {
        name: run_backward(name, args.backward_samples, args.rounds)
        for name in args.backward
    }
    tables = [forward_table(name, each) for name, each in forward.items()]
    tables += [backward_table(name, each) for name, each in backward.items()]
    return {
        "args": asdict(args),
        "environment": run_metadata() | {"torchdeq": version("torchdeq")},
        "forward": forward,
        "backward": backward,
        "markdown": "\n\n".join(tables),
    }


def run_forward(name: str, args: Args) -> dict[str, Any]:
    """Time, steps and error of every solver on one layer."""
    case = subject(name, args.forward_samples)
    solvers = forward_solvers(case.layer, args.broyden)
    exact = solution(case)
    seconds: dict[str, list[float]] = {solver: [] for solver in solvers}
    facts: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for number in range(args.rounds + 1):  # the first warms up
            for solver, solve in solvers.items():
                if "broyden" in solver and number > _BROYDEN_ROUNDS:
                    continue
                began = time.process_time()
                value, steps = solve(case.x)
                spent = time.process_time() - began
                if number == 0:
                    error = relative_error(value, exact)
                    facts[solver] = {"steps": steps, "median_error": error}
                else:
                    seconds[solver].append(spent / args.forward_samples)
    return {
        "norm": operator_norm(case.layer.free_weight.detach(), case.x.shape[-1]),
        "active": float((exact > 0).double().mean()),
        "solvers": summaries(seconds, facts, DEFAULT),
    }


def forward_solvers(layer: OpenLayer, broyden: bool) -> dict[str, Solver]:
    """Every solver as a function of the injected input."""
    deq = "fixed_point_iter", "anderson", *(["broyden"] if broyden else [])
    solvers = {f"torchdeq {solver}": deq_solver(layer, solver) for solver in deq}
    solvers[f"{DEFAULT}, channels last"] = deq_solver(layer, deq[0], True)
    solvers["plain"] = own_solver(layer, replace(_ANDERSON, method=SolverMethod.PLAIN))
    solvers["anderson"] = own_solver(layer, _ANDERSON)
    return solvers


def own_solver(layer: OpenLayer, config: SolverConfig) -> Solver:
    """A layer's own solve."""

    def solve(x: Tensor) -> tuple[Tensor, float]:
        result = layer.solve(x, solver=config)
        return result.value, float(result.num_steps.double().mean())

    return solve


def solution(case: Subject) -> Tensor:
    """Fixed points of the first samples in double precision."""
    layer = in_double(case.layer)
    with torch.no_grad():
        return layer.solve(case.x[:_CHECKED].double(), solver=PRECISE).value


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Median over samples of the relative distance."""
    value = value[: len(exact)].double().reshape(exact.shape)
    distance = (value - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(distance.median())


def forward_table(name: str, found: dict[str, Any]) -> str:
    """Markdown table of one layer's solvers."""
    lines = [
        f"Forward, `{name}` (‖W‖ {found['norm']:.3f}, {found['active']:.0%} active):",
        "",
        "| solver | µs per sample (quartiles) | speed-up | steps | median error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for solver, row in found["solvers"].items():
        low, mid, high = (1e6 * value for value in row["seconds"])
        lines.append(
            f"| {solver} | {mid:,.0f} ({low:,.0f} to {high:,.0f}) | "
            f"{row['speedup']:.2f} | {row['steps']:.1f} | {row['median_error']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Args))
