"""What a comparison of policies looks like: rows, text table, JSON, TensorBoard.

Axes: n samples, A actions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import MetricWriter

OPTIMUM = "oracle"
HEADER = "policy           accuracy  compute"


def make_rows(
    results: Sequence[EvaluationResult], groups: np.ndarray
) -> list[dict[str, Any]]:
    """Return one JSON-able dictionary per policy.

    Args:
        results: Evaluations on the same samples, in the same order.
        groups: Id of the original image of every sample of the split, int64, for the
            intervals.

    Returns:
        Per policy: accuracy, compute (plain pass = 1), shares of the actions, return
        and its 95 % interval, time; and, where the *oracle* is among the results, the
        mean distance to its return on the same samples (regret), with its interval.
    """
    optimum = next((r.returns for r in results if r.policy == OPTIMUM), None)
    return [_row(result, groups[result.indices], optimum) for result in results]


def _row(
    result: EvaluationResult, groups: np.ndarray, optimum: np.ndarray | None
) -> dict[str, Any]:
    regret: dict[str, Any] = {}
    if optimum is not None:
        distances = optimum - result.returns
        regret["regret"] = float(distances.mean())
        regret["regret_interval"] = list(bootstrap_interval(distances, groups))
    names = ["nop", *map(str, range(1, result.actions.shape[1]))]
    return {
        "policy": result.policy,
        "accuracy": result.accuracy,
        "compute": result.compute,
        "extra_share": result.extra_share,
        "actions": dict(zip(names, result.action_shares.tolist(), strict=True)),
        "return": result.mean_return,
        "return_interval": list(bootstrap_interval(result.returns, groups)),
        **regret,
        "us_per_sample": 1e6 * result.seconds_per_sample,
        "agent_macs_per_decision": result.macs_per_decision,
        "agent_macs_share": result.agent_macs_share,
    }


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
    folder: Path, rows: Sequence[dict[str, Any]], step: int, about: dict[str, Any]
) -> None:
    """Write `results.json`, and one TensorBoard run per policy below `policies/`.

    Every policy has the same tags, so their curves overlay: horizontal lines beside
    which the learned agent's curve stands.

    Args:
        folder: Folder of the run.
        rows: From `make_rows`.
        step: Timesteps that the agent was trained for.
        about: JSON-able values of the run: data set, penalty, seed, versions.
    """
    write_json(folder / "results.json", {**about, "policies": list(rows)})
    for row in rows:
        scalars = {f"eval/{key}": row[key] for key in ("accuracy", "compute", "return")}
        with MetricWriter(folder / "policies" / row["policy"]) as writer:
            for at in sorted({0, step}):
                writer.scalars(scalars, at)
