"""What a comparison of policies looks like: rows, text table, TensorBoard's lines.

Axes: n samples, A actions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_intervals
from dynalay_gym.storage.metrics import MetricWriter, last_step

OPTIMUM = "oracle"
HEADER = "policy           accuracy  compute"
_ACTION_WIDTH = 5  # of the column of an action


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
    names = _action_titles(result.action_names)
    return {
        **point_row(result, groups, optimum),
        "actions": dict(zip(names, result.action_shares.tolist(), strict=True)),
        "us_per_sample": 1e6 * result.seconds_per_sample,
        "agent_macs_per_decision": result.macs_per_decision,
        "agent_macs_share": result.agent_macs_share,
    }


def _action_titles(names: Sequence[str]) -> list[str]:
    """Return the names of actions; numbers, behind nop, if one fits no column."""
    if all(len(name) < _ACTION_WIDTH for name in names):
        return list(names)
    return ["nop", *map(str, range(1, len(names)))]


def point_row(
    result: EvaluationResult, groups: np.ndarray, optimum: np.ndarray | None = None
) -> dict[str, Any]:
    """Return where a result stands.

    Args:
        result: The result.
        groups: Id of the original of each of its samples, for the intervals.
        optimum: Returns of the *oracle* on the same samples.

    Returns:
        Accuracy, return and, with an optimum, regret, each with its interval; compute.
    """
    values = {"accuracy": result.correct, "return": result.returns}
    if optimum is not None:
        values["regret"] = optimum - result.returns
    row: dict[str, Any] = {"policy": result.policy}
    row |= {"compute": result.compute, "extra_share": result.extra_share}
    intervals = bootstrap_intervals(np.stack(list(values.values())), groups)
    for (name, value), interval in zip(values.items(), intervals, strict=True):
        row |= {name: float(value.mean()), f"{name}_interval": interval.tolist()}
    return row


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
    header = f"{HEADER}{''.join(f'{name:>{_ACTION_WIDTH}}' for name in names)}"
    header += f"  {'return':>13}  us/sample"
    return "\n".join([header, "-" * len(header), *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    low, high = row["return_interval"]
    width, shares = _ACTION_WIDTH, row["actions"].values()
    percents = "".join(f"{100 * share:{width}.0f}" for share in shares)
    return (
        f"{row['policy']:<15}{100 * row['accuracy']:>8.1f} %{row['compute']:>9.2f}"
        f"{percents}  {row['return']:.3f} ± {(high - low) / 2:.3f}"
        f"{row['us_per_sample']:>11.0f}"
    )


def format_frontiers(rows: Sequence[dict[str, Any]], part: str = "measures") -> str:
    """Return the measures of frontiers as a text table.

    Accuracies at budgets and the area in percent; compute for a share of the gain in
    percent of the full plan's extra multiply-adds. Beside it is half of the 95 %
    interval; of leads, one that holds 0 is in brackets.

    Args:
        rows: From ``Study.summary``.
        part: ``measures``, or ``lead`` of those rows that have one.
    """
    widths = {"accuracy": 7, "compute": 12, "area": 7}
    header, lines = "", [""] * len(rows)
    for name in rows[0][part]:
        kind, _, share = name.partition("@")
        title = f"{kind[:2]}@{100 * float(share):g}" if share else kind
        header += f"{title:>{widths[kind]}}"
        for number, row in enumerate(rows):
            text = format_measure(name, row[part][name], part)
            lines[number] += f"{text:>{widths[kind]}}"
    return _with_names(header, rows, lines)


def format_measure(name: str, numbers: Sequence[float], part: str = "measures") -> str:
    """Return a measure of a frontier in words, as `format_frontiers` has it.

    Args:
        name: Its name.
        numbers: Value, lower and upper end of the interval.
        part: See `format_frontiers`.
    """
    value, low, high = (100 * number for number in numbers)
    kind = name.partition("@")[0]
    if np.isinf(value):
        return "never"
    text = f"{value:+.1f}" if part == "lead" else f"{value:.1f}"
    if kind == "compute":
        text += f" ± {(high - low) / 2:.1f}"
    return f"({text})" if part == "lead" and low <= 0 <= high else text


def format_tuned(rows: Sequence[dict[str, Any]]) -> str:
    """Return where policies stand that were chosen for return as a text table.

    Args:
        rows: From ``Study.summary``, of one penalty.
    """
    header = "accuracy  compute" + "".join(f"{name:>11}" for name in rows[0]["returns"])
    names = {"ece": "ECE", "auroc": "AUROC", "rank_correlation": "rank"}
    header += "".join(f"{title:>6}" for title in names.values())
    lines = []
    for row in rows:
        line = f"{100 * row['accuracy']:>6.1f} %{row['compute']:>9.2f}"
        line += "".join(f"{value:>11.4f}" for value in row["returns"].values())
        numbers = ("–" if np.isnan(row[name]) else f"{row[name]:.2f}" for name in names)
        lines.append(line + "".join(f"{number:>6}" for number in numbers))
    return _with_names(header, rows, lines)


def format_difficulty(rows: Sequence[dict[str, Any]]) -> str:
    """Return compute and accuracy by difficulty as a text table, the easiest first.

    Args:
        rows: From ``Study.summary``, of data with a difficulty.
    """
    spans = (each["difficulty"] for each in rows[0]["by_difficulty"])
    header = "".join(f"{f'{low:g} to {high:g}':>16}" for low, high in spans)
    lines = [
        "".join(
            f"{each['compute']:>8.2f}{100 * each['accuracy']:>6.1f} %"
            for each in row["by_difficulty"]
        )
        for row in rows
    ]
    return _with_names(header, rows, lines)


def _with_names(
    header: str, rows: Sequence[dict[str, Any]], lines: Sequence[str]
) -> str:
    """Return a table whose lines begin with the policies' names."""
    width = max(len(row["policy"]) for row in rows) + 1
    named = [f"{row['policy']:<{width}}{x}" for row, x in zip(rows, lines, strict=True)]
    return "\n".join([f"{'policy':<{width}}{header}", "-" * len(named[0]), *named])


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
