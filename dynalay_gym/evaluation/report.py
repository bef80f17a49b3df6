"""What a comparison of policies looks like: table, JSON, TensorBoard, figure.

Axes: n samples, A actions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dynalay_gym.evaluation.evaluate import EvaluationResult, bootstrap_interval
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import MetricWriter

OPTIMUM = "oracle"
HEADER = "policy           accuracy  compute"


def make_rows(
    results: Sequence[EvaluationResult], groups: np.ndarray
) -> list[dict[str, Any]]:
    """Return one JSON-able dictionary per policy.

    Args:
        results: Walks over the same samples.
        groups: Id of the original image of every sample [n], for the intervals.
    """
    optimum = next((r.returns for r in results if r.policy == OPTIMUM), None)
    return [_row(result, groups[result.indices], optimum) for result in results]


def _row(
    result: EvaluationResult, groups: np.ndarray, optimum: np.ndarray | None
) -> dict[str, Any]:
    low, high = bootstrap_interval(result.returns, groups)
    missed = {} if optimum is None else _regret(optimum - result.returns, groups)
    names = ["nop", *map(str, range(1, result.actions.shape[1]))]
    return {
        "policy": result.policy,
        "accuracy": result.accuracy,
        "compute": result.compute,
        "extra_share": result.extra_share,
        "actions": dict(zip(names, result.action_shares.tolist(), strict=True)),
        "return": result.mean_return,
        "return_interval": [low, high],
        **missed,
        "us_per_sample": 1e6 * result.seconds_per_sample,
        "agent_macs_per_decision": result.macs_per_decision,
        "agent_macs_share": result.agent_macs_share,
    }


def _regret(regrets: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Return the distance to the exact optimum, with its paired interval."""
    interval = list(bootstrap_interval(regrets, groups))
    return {"regret": float(regrets.mean()), "regret_interval": interval}


def format_regret(row: dict[str, Any]) -> str:
    """Return one line: how far a policy is from the exact optimum."""
    low, high = row["regret_interval"]
    name, regret = row["policy"], row["regret"]
    return f"regret of {name} to the oracle: {regret:.4f} [{low:.4f}, {high:.4f}]"


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as plain text, 80 columns wide up to five layers.

    Shares of actions are percentages of all decisions; the return has half the width
    of its 95 % interval beside it.
    """
    names = list(rows[0]["actions"])
    header = f"{HEADER}{''.join(f'{name:>5}' for name in names)}"
    header += f"  {'return':>13}  us/sample"
    return "\n".join([header, "-" * len(header), *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    low, high = row["return_interval"]
    shares = "".join(f"{100 * share:5.0f}" for share in row["actions"].values())
    return (
        f"{row['policy']:<15}{100 * row['accuracy']:>8.1f} %{row['compute']:>9.2f}"
        f"{shares}  {row['return']:.3f} ± {(high - low) / 2:.3f}"
        f"{row['us_per_sample']:>11.0f}"
    )


def write_results(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    step: int,
    facts: dict[str, Any],
) -> None:
    """Write `results.json`, and one TensorBoard run per policy below `policies/`.

    Every policy has the same tags, so their curves overlay: horizontal lines beside
    which the learned agent's curve stands.

    Args:
        folder: Folder of the run.
        rows: From `make_rows`.
        step: Timesteps that the agent was trained for.
        facts: JSON-able facts of the run: data set, penalty, seed, versions.
    """
    write_json(folder / "results.json", {**facts, "policies": list(rows)})
    for row in rows:
        scalars = {f"eval/{key}": row[key] for key in ("accuracy", "compute", "return")}
        with MetricWriter(folder / "policies" / row["policy"]) as writer:
            for at in sorted({0, step}):
                writer.scalars(scalars, at)


def plot_rows(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Return the figure of accuracy against compute, one point per policy."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        axes.plot(row["compute"], row["accuracy"], "o")
        axes.annotate(
            row["policy"],
            (row["compute"], row["accuracy"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ends = [row for row in rows if row["policy"] in ("nop", "always")]
    axes.plot(
        [row["compute"] for row in ends],
        [row["accuracy"] for row in ends],
        linestyle=":",
        color="grey",
        zorder=0,
    )
    axes.set_xlabel("compute (main network's MACs, plain pass = 1)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    return figure
