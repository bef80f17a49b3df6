"""What a comparison of policies looks like: rows, text table, TensorBoard's lines.

Axes: n samples, A actions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.utils.metrics import MetricWriter, last_step

OPTIMUM = "oracle"
HEADER = "policy           accuracy  compute"
_WIDTHS = {"accuracy": 7, "compute": 12, "area": 7}


def make_rows(
    results: Sequence[EvaluationResult], groups: np.ndarray
) -> list[dict[str, Any]]:
    """Return one JSON-able dictionary per policy.

    Args:
        results: Evaluations on the same samples, in the same order.
        groups: Id of the original image of every sample of the split, int64, for the
            intervals.

    Returns:
        Per policy: what `point_row` has, shares of the actions, the interval of the
        return, time; and, where the *oracle* is among the results, the
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
        **point_row(result, groups),
        "actions": dict(zip(names, result.action_shares.tolist(), strict=True)),
        "return_interval": list(bootstrap_interval(result.returns, groups)),
        **regret,
        "us_per_sample": 1e6 * result.seconds_per_sample,
        "agent_macs_per_decision": result.macs_per_decision,
        "agent_macs_share": result.agent_macs_share,
    }


def point_row(result: EvaluationResult, groups: np.ndarray) -> dict[str, Any]:
    """Return where a result stands: accuracy, compute (plain pass = 1), return.

    Args:
        result: The result.
        groups: Id of the original of each of its samples, for the interval.
    """
    return {
        "policy": result.policy,
        "accuracy": result.accuracy,
        "accuracy_interval": list(bootstrap_interval(result.correct, groups)),
        "compute": result.compute,
        "extra_share": result.extra_share,
        "return": result.mean_return,
    }


def format_splits(policy: str, returns: Mapping[str, float]) -> str:
    """Return one line: the return of a policy on every split."""
    numbers = ", ".join(f"{split} {value:.4f}" for split, value in returns.items())
    return f"return of {policy}: {numbers}"


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


def format_frontiers(rows: Sequence[dict[str, Any]]) -> str:
    """Return the measures of frontiers as a text table, 80 columns wide.

    Accuracies at budgets in percent; compute for a share of the gain in percent of the
    full plan's extra multiply-adds, with half the width of its 95 % interval.

    Args:
        rows: From ``Study.summary``.
    """
    names = list(rows[0]["measures"])
    header = f"{'policy':<16}"
    for name in names:
        kind, _, share = name.partition("@")
        label = f"{kind[:2]}@{100 * float(share):g}" if share else kind
        header += f"{label:>{_WIDTHS[kind]}}"
    lines = [header, "-" * len(header)]
    for row in rows:
        cells = [_cell(name, row["measures"][name]) for name in names]
        lines.append(f"{row['policy']:<16}" + "".join(cells))
    return "\n".join(lines)


def _cell(name: str, measure: Sequence[float]) -> str:
    kind = name.partition("@")[0]
    value, low, high = (100 * number for number in measure)
    text = f"{value:.1f}"
    if kind == "compute":
        text = "never" if np.isinf(value) else f"{value:.1f} ± {(high - low) / 2:.1f}"
    return f"{text:>{_WIDTHS[kind]}}"


def format_tuned(rows: Sequence[dict[str, Any]]) -> str:
    """Return what is known of policies chosen for return as a text table.

    Args:
        rows: From ``Study.summary``.
    """
    splits = list(rows[0]["returns"])
    names = ("ece", "auroc", "rank_correlation")
    titles = ("ECE", "AUROC", "rank")
    header = f"{'policy':<16}{'accuracy':>8}{'compute':>9}"
    header += "".join(f"{name:>11}" for name in splits)
    header += "".join(f"{title:>7}" for title in titles)
    lines = [header, "-" * len(header)]
    for row in rows:
        line = (
            f"{row['policy']:<16}{100 * row['accuracy']:>6.1f} %{row['compute']:>9.2f}"
        )
        line += "".join(f"{row['returns'][split]:>11.4f}" for split in splits)
        numbers = ("–" if np.isnan(row[n]) else f"{row[n]:.2f}" for n in names)
        lines.append(line + "".join(f"{number:>7}" for number in numbers))
    return "\n".join(lines)


def write_frontiers(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw frontiers as TensorBoard curves, one run per policy.

    The step is the extra compute in percent of the full plan's.

    Args:
        folder: Folder of the runs.
        rows: From ``Study.summary``.
    """
    for row in rows:
        with MetricWriter(folder / row["policy"]) as writer:
            for point in sorted(row["points"], key=lambda each: each["extra_share"]):
                step = round(100 * point["extra_share"])
                scalars = {"accuracy": point["accuracy"], "return": point["return"]}
                writer.scalars({f"frontier/{k}": v for k, v in scalars.items()}, step)


def write_lines(folder: Path, results: Sequence[EvaluationResult], step: int) -> None:
    """Draw results as horizontal lines, one TensorBoard run per policy.

    They have the tags of a training's validation curves, so that both share a chart. A
    line that is long enough already is left alone: trainings on one problem share it.

    Args:
        folder: Folder of the runs, one per network, penalty and reward.
        results: Evaluations on the validation split.
        step: Where the lines end.
    """
    for result in results:
        run = folder / result.policy
        end = last_step(run)
        steps = [at for at in (0, step) if at > end]
        if steps:
            with MetricWriter(run) as writer:
                for at in steps:
                    writer.scalars(result.scalars("validation"), at)
