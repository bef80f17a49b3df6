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
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.solver_layers import OpenLayer, Subject, operator_norm, subject
from benchmarks.solver_memory import PeakMemory, saved_bytes
from dynalay_gym.errors import ConfigError
from dynalay_gym.metrics import environment_facts, write_json
from dynalay_gym.models.implicit import GradientRule, SolverConfig, SolverMethod

FORWARD_RTOL, BACKWARD_RTOL = 1e-3, 1e-4
_BUDGET = 200
_BROYDEN_ROUNDS = 2  # it takes longer than all others together
_CHECKED = 64  # samples of which the error is known in double precision
_ANDERSON = SolverConfig(
    rtol=FORWARD_RTOL, max_steps=_BUDGET, method=SolverMethod.ANDERSON
)
DEFAULT = "torchdeq fixed_point_iter"
IFT = "torchdeq implicit"

Solver = Callable[[Tensor], tuple[Tensor, float]]  # x -> value, mean steps


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
    backward = {name: run_backward(name, args) for name in args.backward}
    tables = [forward_table(name, each) for name, each in forward.items()]
    tables += [backward_table(name, each) for name, each in backward.items()]
    return {
        "args": asdict(args),
        "environment": environment_facts() | {"torchdeq": version("torchdeq")},
        "forward": forward,
        "backward": backward,
        "markdown": "\n\n".join(tables),
    }


def torchdeq() -> Any:
    """The library compared with.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torchdeq as library
    except ImportError as error:
        raise ConfigError(
            "this benchmark compares with torchdeq: pip install 'dynalay-gym[deq]'"
        ) from error
    return library


# -- forward ---------------------------------------------------------------------------


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
    warm = replace(_ANDERSON, warm_precision="bf16")
    for name, config in (
        ("plain", replace(_ANDERSON, method=SolverMethod.PLAIN)),
        ("anderson", _ANDERSON),
        ("anderson, bf16 first", warm),
    ):
        solvers[name] = own_solver(layer, config)
    return solvers


def own_solver(layer: OpenLayer, config: SolverConfig) -> Solver:
    """A layer's own solve."""

    def solve(x: Tensor) -> tuple[Tensor, float]:
        result = layer.solve(x, solver=config)
        return result.value, float(result.num_steps.double().mean())

    return solve


def deq_solver(layer: OpenLayer, solver: str, channels_last: bool = False) -> Solver:
    """The same solve by torchdeq, from the same start."""
    deq = torchdeq().get_deq(
        f_solver=solver, f_max_iter=_BUDGET, f_tol=FORWARD_RTOL, f_stop_mode="rel"
    )
    deq.eval()

    def solve(x: Tensor) -> tuple[Tensor, float]:
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        found, info = deq(deq_map(layer, x), torch.relu(x))
        return found[-1], float(info["nstep"].max())

    return solve


def deq_map(layer: OpenLayer, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The layer's map as a user of torchdeq would write it."""
    padding = layer.free_weight.shape[-1] // 2
    return lambda z: torch.relu(x + F.conv2d(z, layer.free_weight, padding=padding))


def solution(case: Subject) -> Tensor:
    """Fixed points of the first samples in double precision."""
    layer = OpenLayer(*case.layer.state_shape).double()
    layer.load_state_dict(case.layer.state_dict())
    precise = replace(_ANDERSON, rtol=1e-9, max_steps=2000)
    with torch.no_grad():
        return layer.solve(case.x[:_CHECKED].double(), solver=precise).value


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Median over samples of the relative distance."""
    value = value[: len(exact)].double().reshape(exact.shape)
    distance = (value - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(distance.median())


# -- backward --------------------------------------------------------------------------


def run_backward(name: str, args: Args) -> dict[str, Any]:
    """Time, memory and accuracy of every gradient on one layer."""
    case = subject(name, args.backward_samples)
    head = torch.randn(10, case.x.shape[1], generator=torch.Generator().manual_seed(3))
    exact = exact_gradient(case, head)
    methods = gradients(case.layer)
    weight, x = case.layer.free_weight, case.x.clone().requires_grad_()
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    backward: dict[str, list[float]] = {method: [] for method in methods}
    facts: dict[str, dict[str, float]] = {}
    for number in range(args.rounds + 1):  # the first warms up
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
    own = replace(_ANDERSON, rtol=BACKWARD_RTOL, adjoint_max_steps=_BUDGET)
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


def deq_gradient(
    layer: OpenLayer, options: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """The same by torchdeq, whose solvers iterate plainly both ways."""
    deq = torchdeq().get_deq(
        f_solver="fixed_point_iter",
        f_max_iter=_BUDGET,
        f_tol=BACKWARD_RTOL,
        f_stop_mode="rel",
        b_solver="fixed_point_iter",
        b_max_iter=_BUDGET,
        b_tol=1e-3,
        b_stop_mode="rel",
        **options,
    )
    deq.train()

    def forward(x: Tensor) -> Tensor:
        found, _ = deq(deq_map(layer, x), torch.relu(x).detach())
        value: Tensor = found[-1]
        return value.view_as(x)

    return forward


def loss(value: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a linear head on the pooled state."""
    return F.cross_entropy(value.mean((2, 3)) @ head.T, labels)


def exact_gradient(case: Subject, head: Tensor) -> Tensor:
    """Gradient for W in double precision."""
    layer = OpenLayer(*case.layer.state_shape).double()
    layer.load_state_dict(case.layer.state_dict())
    precise = replace(_ANDERSON, rtol=1e-9, max_steps=2000)
    precise = replace(precise, adjoint_rtol=1e-9, adjoint_max_steps=2000)
    value = layer.solve(case.x.double(), solver=precise).value
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


# -- figures ---------------------------------------------------------------------------


def summaries(
    seconds: dict[str, list[float]], facts: dict[str, dict[str, float]], base: str
) -> dict[str, dict[str, Any]]:
    """Facts, quartiles and speed-up over ``base`` of every variant."""
    return {
        name: {
            **facts[name],
            "seconds": spread(values),
            "rounds": values,
            "speedup": ratio(np.array(seconds[base]), values),
        }
        for name, values in seconds.items()
    }


def spread(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    quartiles: list[float] = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return quartiles


def ratio(base: np.ndarray, values: list[float]) -> float:
    """Median over rounds of base / values, of the rounds that the latter played."""
    return float(np.median(base[: len(values)] / np.array(values)))


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


if __name__ == "__main__":
    main(tyro.cli(Args))
