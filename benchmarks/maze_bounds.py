"""How little compute could do in the mazes: rules that know more than an observer.

    python -m benchmarks.maze_bounds --out benchmarks/results/maze-bounds.json

Each rule chooses a state of every maze; at several prices of compute, it is a frontier.
Some know the label; some know how far the goal is; some know how sure the network, or
an estimate from all that an observer sees, will be in every state, before it was there.
Beside them are max-prob cascades that iterate the near field less, or not at all,
before the map, with thresholds chosen on the validation split.

Axes: n samples, K levels of the near field, J levels of the map, T states of a plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from agents.environments import make_evaluation_envs
from agents.options import Options
from benchmarks.report import table
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.frontier import BUDGETS, measure_frontier
from dynalay_gym.evaluation.study import SETTINGS
from dynalay_gym.evaluation.walk import sweep_thresholds, walk_full_plan
from dynalay_gym.sessions.transition_table import CHOICE
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

GAINS = (0.95, 0.98, 0.99)
PRICES = np.geomspace(1e-6, 1, 90)  # of the full plan's compute, in right answers
Floats = NDArray[np.float64]
Plan = tuple[NDArray[np.int64], NDArray[np.int64]]  # levels of near field, map, [T]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure how little compute could do in the mazes."""

    out: Path
    """JSON file for the results."""
    checkpoint: Path | None = None
    """Folder of a planner with two layers; the shipped one if not given."""
    iterations_per_action: int | None = None
    """Iterations of a portion; the environment's own if not given."""
    epochs: int = 3
    """Passes of the estimate over all states of the agent split."""


class States(NamedTuple):
    """All states of a split.

    Attributes:
        correct: Whether the answer is right, bool [n, K, J].
        prediction: The answer [n, K, J].
        macs: Extra multiply-adds to get there, near field first, [n, K, J].
        confidence: Probability of the answer [n, K, J].
        features: What an observer sees of the network, float32 [n, K, J, F].
        iterations: That the levels of the map stand for, [J].
        difficulty: Length of the path [n].
        always: The full plan to its end.
    """

    correct: NDArray[np.bool_]
    prediction: NDArray[np.int64]
    macs: NDArray[np.int64]
    confidence: Floats
    features: NDArray[np.float32]
    iterations: NDArray[np.int64]
    difficulty: NDArray[np.int64]
    always: EvaluationResult


def main(args: Args) -> None:
    """Print a table of rules and write the JSON."""
    torch.set_num_threads(1)
    test, validation = (read_states(args, split) for split in ("test", "validation"))
    estimate = fit_estimate(read_states(args, "agent"), args.epochs)
    nop = stop(test, np.zeros(len(test.macs), dtype=np.int64), plan(test, 0))
    rows = []
    for name, points in rules(test, validation, estimate):
        found = measure_frontier(points, nop, test.always, gains=GAINS)
        most = max(each.accuracy for each in points)
        row: dict[str, Any] = {"rule": name, "most": most}
        rows.append(row | {key: each.interval() for key, each in found.items()})
    print(table(COLUMNS, [shown(row) for row in rows]))
    about = {"args": {"epochs": args.epochs}, "environment": run_metadata()}
    ends = {"nop": nop.accuracy, "always": test.always.accuracy}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, about | {"accuracy": ends, "rules": rows})


COLUMNS = {"rule": ("rule", ""), "most accurate, %": ("most", ".1f")}
COLUMNS |= {f"at {100 * b:g} %": (f"accuracy@{b:g}", ".1f") for b in BUDGETS}
COLUMNS |= {f"for {100 * gain:g} %": (f"compute@{gain:g}", "") for gain in GAINS}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in percent; of intervals, the larger distance to an end."""
    cells = {"rule": row["rule"], "most": 100 * row["most"]}
    cells |= {f"accuracy@{b:g}": 100 * row[f"accuracy@{b:g}"][0] for b in BUDGETS}
    for gain in GAINS:
        value, low, high = (100 * x for x in row[f"compute@{gain:g}"])
        text = (
            "never"
            if np.isinf(value)
            else f"{value:.1f} ± {max(high - value, value - low):.1f}"
        )
        cells[f"compute@{gain:g}"] = text
    return cells


def read_states(args: Args, split: str) -> States:
    """Return all states of a split, from its transition table."""
    options = Options(
        dataset="maze",
        checkpoint=args.checkpoint,
        iterations_per_action=args.iterations_per_action,
    )
    envs: Any = make_evaluation_envs(options, split, None, "table")
    base = envs.unwrapped
    known, session = base.problem.table, base.problem.session
    near_steps, map_steps = session.options["max_steps"]
    portion = session.options["iterations_per_action"]
    iterations = np.append(np.arange(0, map_steps, portion), map_steps)
    num_near, num_map = -(-near_steps // portion) + 1, len(iterations)
    grid = np.arange(num_near * num_map).reshape(num_map, num_near).T
    n = base.num_samples
    features = known.features.numpy().reshape(n, grid.size, -1)[:, grid]
    costs = known.choices.numpy().reshape(n, grid.size, -1, len(CHOICE))[..., 0]
    costs = costs * known.useful.numpy().reshape(n, grid.size, -1)
    near = np.cumsum(costs[:, grid[:-1, 0], 1], axis=1)
    full = np.cumsum(costs[:, grid[:, :-1], 2], axis=2)
    macs = np.zeros((n, num_near, num_map), dtype=np.int64)
    macs[:, 1:] += near[:, :, None]
    macs[:, :, 1:] += full
    layout = base.observation_layout
    return States(
        correct=known.correct.numpy().reshape(n, -1)[:, grid],
        prediction=known.prediction.numpy().reshape(n, -1)[:, grid],
        macs=macs,
        confidence=features[..., layout["max_prob"].start].astype(np.float64),
        features=features[..., : layout["penalty"].start],
        iterations=iterations,
        difficulty=base.problem.difficulty.numpy(),
        always=walk_full_plan(envs, 0.0).always,
    )


def plan(states: States, near: int) -> Plan:
    """Return the states of a plan: some portions of the near field, then the map."""
    rest = np.arange(1, states.macs.shape[2])
    first, last = np.arange(near + 1), np.full_like(rest, near)
    return np.append(first, last), np.append(0 * first, rest)


def everything(states: States) -> Plan:
    """Return all states, in the form of a plan."""
    near, full = np.indices(states.macs.shape[1:])
    return near.ravel(), full.ravel()


def stop(states: States, at: NDArray[np.int64], along: Plan) -> EvaluationResult:
    """Return what stopping at a state [n] of a plan gives."""
    chosen = np.arange(len(at)), along[0][at], along[1][at]
    return replace(
        states.always, correct=states.correct[chosen], macs=states.macs[chosen]
    )


def rules(
    test: States, validation: States, estimate: nn.Module
) -> Iterator[tuple[str, list[EvaluationResult]]]:
    """Yield name and points of every rule."""
    most = test.macs.shape[1] - 1
    ascending, map_only, all_states = plan(test, most), plan(test, 0), everything(test)
    right = test.correct[:, *ascending]
    yield "label: cheapest right state", cheapest(test, test.correct, all_states)
    yield "label: right and stays right", settled(test, right, ascending)
    answers = test.prediction[:, *ascending]
    same = answers == answers[:, -1:]
    yield "foresees the last answer", settled(test, same, ascending)
    for name, along in (("near, map", ascending), ("map", map_only)):
        came = test.iterations[along[1]] >= test.difficulty[:, None]
        yield f"the wave has come ({name})", settled(test, came, along)
    sure = probabilities(estimate, test)
    for name, along in (("near, map", ascending), ("all states", all_states)):
        yield (
            f"foresees its confidence ({name})",
            foreseen(test, test.confidence, along),
        )
        yield f"foresees the estimate ({name})", foreseen(test, sure, along)
    for near in range(most + 1):
        yield f"max-prob, {near} of near, then map", cascade(test, validation, near)


def cheapest(
    states: States, right: NDArray[np.bool_], along: Plan
) -> list[EvaluationResult]:
    """Return the cheapest right states; those that cost most are left out in turn."""
    macs = np.where(right[:, *along], states.macs[:, *along], np.inf)
    at, least = macs.argmin(1), macs.min(1)
    limits = np.quantile(least[np.isfinite(least)], np.linspace(0, 1, 60))
    return [stop(states, at * (least <= limit), along) for limit in limits]


def settled(
    states: States, good: NDArray[np.bool_], along: Plan
) -> list[EvaluationResult]:
    """Return stops at the first state from which on all are good, or after T portions.

    Where the last state is no good, nothing is iterated.
    """
    stays = np.logical_and.accumulate(good[:, ::-1], axis=1)[:, ::-1]
    at = np.where(stays[:, -1], stays.argmax(1), 0)
    return [stop(states, np.minimum(at, most), along) for most in range(len(along[0]))]


def foreseen(states: States, sure: Floats, along: Plan) -> list[EvaluationResult]:
    """Return stops where probability minus price of compute is highest."""
    share = states.macs[:, *along] / states.always.macs.mean()
    return [
        stop(states, (sure[:, *along] - price * share).argmax(1), along)
        for price in PRICES
    ]


def cascade(test: States, validation: States, near: int) -> list[EvaluationResult]:
    """Return max-prob cascades along a plan, for the budgets of every study."""
    along = plan(test, near)
    scores = [states.confidence[:, *along] for states in (validation, test)]
    for each in scores:
        each[:, -1] = np.inf
    thresholds, means = sweep_thresholds(scores[0], validation.macs[:, *along])
    full, found = validation.always.macs.mean(), []
    for share in SETTINGS:
        threshold = thresholds[means <= share * full][-1]
        found.append(stop(test, (scores[1] >= threshold).argmax(1), along))
    return found


def fit_estimate(states: States, epochs: int) -> nn.Module:
    """Fit the probability of a right answer on all states of a split.

    Args:
        states: The agent split.
        epochs: Passes over it.
    """
    torch.manual_seed(0)
    inputs = torch.from_numpy(states.features.reshape(-1, states.features.shape[-1]))
    labels = torch.from_numpy(states.correct.reshape(-1)).float()
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
    ).append(nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    total = epochs * (len(labels) // 1024 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(1024):
            loss = nn.functional.binary_cross_entropy_with_logits(
                net(inputs[rows] - 0.5)[:, 0], labels[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@torch.no_grad()
def probabilities(estimate: nn.Module, states: States) -> Floats:
    """Return the estimate in every state, [n, K, J]."""
    found = estimate(torch.from_numpy(states.features) - 0.5)[..., 0].sigmoid()
    values: Floats = found.double().numpy()
    return values


if __name__ == "__main__":
    main(tyro.cli(Args))
