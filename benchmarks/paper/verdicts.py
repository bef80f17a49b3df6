"""Do the relations that the papers claim hold in what was measured?

    python -m benchmarks.paper.verdicts --folder paper --dataset digits

A relation is put as a number that the paper has above 0, one for each seed: mostly by
how much an arm is above another one with the same seed. It holds where the whole 95 %
interval of its mean over seeds (Student's t) is above 0, it does not where all of it is
below; otherwise there is not enough evidence.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import t as student

from benchmarks.paper.experiment import arms_of, differences, of_arm
from benchmarks.report import Columns, Row, table

Values = Callable[[Sequence[Row]], list[float]]  # units of an experiment -> per seed


@dataclass(frozen=True)
class Relation:
    """Something that a paper claims.

    Attributes:
        experiment: The experiment that measures it.
        claim: The claim, in words.
        unit: Of its values.
        values: Returns by how much it holds for each seed; empty where arms are
            missing.
    """

    experiment: str
    claim: str
    unit: str
    values: Values


def above(arm: str, base: str, value: Callable[[Row], float]) -> Values:
    """Return by how much an arm's value is above a base's, for each seed."""
    return lambda rows: differences(rows, arm, base, value)


def best(arm: str, value: Callable[[Row], float]) -> Values:
    """Return by how much an arm is above the best one of the others, for each seed.

    The best one is that of the highest mean over seeds.
    """

    def values(rows: Sequence[Row]) -> list[float]:
        means = {
            name: np.mean([value(row) for row in of_arm(rows, name)])
            for name in arms_of(rows)
            if name != arm
        }
        if not means or not of_arm(rows, arm):
            return []
        return differences(rows, arm, max(means, key=lambda name: means[name]), value)

    return values


def _share(row: Row, choice: int) -> float:
    return 100 * float(row["test"][choice])


def _least(rows: Sequence[Row], choice: int) -> list[float]:
    """Return by how much every other choice is more frequent than one, at least."""
    shares = [np.array(row["test"]) for row in rows]
    return [100 * float(np.delete(s, choice).min() - s[choice]) for s in shares]


def _most(rows: Sequence[Row], choice: int) -> list[float]:
    """Return by how much a choice is more frequent than every other one, at least."""
    shares = [np.array(row["test"]) for row in rows]
    return [100 * float(s[choice] - np.delete(s, choice).max()) for s in shares]


def _end(row: Row, key: str) -> float:
    return float(row["curve"][-1][key])


def _throughout(rows: Sequence[Row]) -> list[float]:
    """Return by how much pre-trained accuracy is higher, where the lead is least."""
    found = []
    for row in of_arm(rows, "pre-trained"):
        for other in of_arm(rows, "from scratch"):
            if other["seed"] == row["seed"]:
                pairs = zip(row["curve"], other["curve"], strict=True)
                found.append(min(a["accuracy"] - b["accuracy"] for a, b in pairs))
    return found


def _settles(rows: Sequence[Row]) -> list[float]:
    """Return by how much the rise over the last quarter is below a tenth of it all."""
    found = []
    for row in of_arm(rows, "1"):
        returns = np.array(row["returns"])
        last = returns[-(len(returns) // 4) :]
        rise = abs(np.polyfit(np.arange(len(last)), last, 1)[0]) * len(last)
        found.append(0.1 * float(returns.max() - returns[0]) - float(rise))
    return found


def _falls(rows: Sequence[Row]) -> list[float]:
    """Return by how much iterating is rarer at the largest penalty."""
    return differences(rows, "0.25", "4", lambda row: 100 * sum(row["shares"][1:]))


def _cheaper(rows: Sequence[Row]) -> list[float]:
    """Return which share of the extra compute of everything an agent saves."""
    return [100 * (1 - row["test"]["ppo"]["extra"]["mean"]) for row in rows]


def _earns(rows: Sequence[Row], policy: str) -> list[float]:
    """Return by how much an agent's return is above a policy's."""
    tests = (row["test"] for row in rows if policy in row["test"])
    return [test["ppo"]["return"] - test[policy]["return"] for test in tests]


def _layers(rows: Sequence[Row], value: Callable[[Any], float | None]) -> list[float]:
    """Return the least value of the layers of each network; empty without values."""
    found = [[value(layer) for layer in row["layers"]] for row in rows]
    return [
        min(part for part in each if part is not None)
        for each in found
        if any(part is not None for part in each)
    ]


def _left(layer: Any) -> float | None:
    """Return what the a-priori bound leaves above the largest error, as a share."""
    return None if layer["share"] is None else 1 - float(layer["share"])


def _apart(layer: Any) -> float | None:
    """Return how far below what is allowed ends of ten starts differ, as a share."""
    return None if layer["allowed"] is None else 1 - layer["apart"] / layer["allowed"]


def _accuracy(row: Row) -> float:
    return float(row["accuracy"])


def _backward(row: Row) -> float:
    return -60 * float(row["backward minutes"])


def _of_all(row: Row) -> float:
    return float(row["all"]["accuracy"])


def _iterated(row: Row) -> float:
    """Return the accuracy, or minus the loss of words, at the most iterations."""
    last = row[[name for name in row if name.startswith("K = ")][-1]]
    return float(last["accuracy"])


_CNN, _DEQS = "3-layer CNN", ("DEQ Anderson", "DEQ Broyden")
RELATIONS = (
    Relation(
        *("table1", "DynaLay's backward passes are faster than the CNN's", "s/epoch"),
        above("DynaLay", _CNN, _backward),
    ),
    *(
        Relation(
            *("table1", f"the CNN's backward passes are faster than {deq}'s"),
            *("s/epoch", above(_CNN, deq, _backward)),
        )
        for deq in _DEQS
    ),
    *(
        Relation(
            *("table1", f"DynaLay is more accurate than {other}", "points"),
            above("DynaLay", other, _accuracy),
        )
        for other in (_CNN, *_DEQS, "all layers", "entropy rule", "random")
    ),
    Relation(
        *("fig2", "the test loss with all layers falls, first to last epoch", "nats"),
        lambda rows: [
            row["epochs"][0]["test"]["all layers"]["loss"]
            - row["epochs"][-1]["test"]["all layers"]["loss"]
            for row in rows
        ],
    ),
    Relation(
        *("fig3", "NOP is the most frequent choice", "points"),
        lambda rows: _most(rows, 0),
    ),
    Relation(
        *("fig3", "layer 3 is the least frequent choice", "points"),
        lambda rows: _least(rows, 3),
    ),
    Relation(
        *("fig3", "layer 1 is chosen more often than layer 2", "points"),
        lambda rows: [_share(row, 1) - _share(row, 2) for row in rows],
    ),
    Relation(
        *("fig4", "pre-trained is more accurate at the end", "points"),
        above("pre-trained", "from scratch", lambda row: _end(row, "accuracy")),
    ),
    Relation(
        *("fig4", "the same with as many steps of the network", "points"),
        above("pre-trained", "longer", lambda row: _end(row, "accuracy")),
    ),
    Relation(
        *("fig4", "pre-trained has the lower loss at the end", "nats"),
        above("pre-trained", "from scratch", lambda row: -_end(row, "full")),
    ),
    Relation(
        *("fig4", "pre-trained is more accurate throughout", "points"), _throughout
    ),
    Relation(
        "fig5",
        "the reward settles: over the last quarter it rises by less than a tenth of "
        "its whole rise",
        *("reward", _settles),
    ),
    Relation(
        *("fig5", "iterating is rarer at 4 than at 0.25 break-evens", "points"), _falls
    ),
    Relation(
        *("fig6", "Model 3 is more accurate than Model 0", "points"),
        above("Model 3", "Model 0", _of_all),
    ),
    Relation(
        *("fig6", "the same on 100 samples", "points"),
        above("Model 3", "Model 0", lambda row: float(row["few"]["accuracy"])),
    ),
    Relation(
        *("fig6", "Model 3 is the most accurate", "points"), best("Model 3", _of_all)
    ),
    Relation(
        *("fig7", "iterating layer 3 alone is the most accurate", "points"),
        best("layer 3", _iterated),
    ),
    Relation(
        *("cost", "the agent takes less than everything (extra compute)", "%"), _cheaper
    ),
    *(
        Relation(
            *("cost", f"the agent's return is above {name}'s", "reward"),
            lambda rows, policy=name: _earns(rows, policy),  # type: ignore[misc]
        )
        for name in ("nop", "always", "random-mix", "entropy", "max-prob")
    ),
    Relation(
        "difficulty",
        "inputs with a higher loss get more compute (rank correlation)",
        *("", lambda rows: [row["loss"]["correlation"] or 0.0 for row in rows]),
    ),
    Relation(
        "theory",
        "errors are below the a-priori bound (what it leaves, its tightest layer)",
        *("share", lambda rows: _layers(rows, _left)),
    ),
    Relation(
        "theory",
        "ten random starts end at one point, as near as their last steps allow",
        *("share", lambda rows: _layers(rows, _apart)),
    ),
    Relation(
        *("lcnet_cifar10", "LC-Net at half of the MACs is as accurate", "points"),
        above("LC 0.5", "whole", _accuracy),
    ),
    *(
        Relation(
            *("lcnet_cifar10", f"LC-Net is above {other} at half", "points"),
            above("LC 0.5", f"{other} 0.5", _accuracy),
        )
        for other in ("L", "C", "LC-static")
    ),
)


def verdicts(experiment: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield what becomes of each relation that an experiment measures.

    Args:
        experiment: Name of the experiment.
        rows: Its units.
    """
    for relation in RELATIONS:
        if relation.experiment != experiment:
            continue
        values = relation.values(rows)
        if not values:
            continue
        interval = t_interval(values)
        low, high = interval["low"], interval["high"]
        verdict = "not enough evidence"
        if low > 0 or high < 0:
            verdict = "holds" if low > 0 else "does not hold"
        yield {
            "experiment": experiment,
            "claim": relation.claim,
            "value": interval,
            "unit": relation.unit,
            "seeds": len(values),
            "verdict": verdict,
        }


def t_interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, and its 95 % interval; all numbers for a single value."""
    mean, low, high = float(np.mean(values)), -np.inf, np.inf
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        half = float(student.ppf(0.975, len(values) - 1)) * error
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print a verdict on every relation that the experiments of a folder measure."""

    folder: Path
    """Folder of the experiments' results."""
    dataset: str
    """Name of the data set."""


def main(args: Args) -> None:
    """Read, judge, print."""
    names = dict.fromkeys(relation.experiment for relation in RELATIONS)
    paths = {name: args.folder / f"{name}-{args.dataset}.json" for name in names}
    found = [
        row
        for name, path in paths.items()
        if path.exists()
        for row in verdicts(name, json.loads(path.read_text("utf-8"))["units"])
    ]
    print(table(_COLUMNS, found))


_COLUMNS: Columns = {
    "experiment": ("experiment", ""),
    "relation": ("claim", ""),
    "by how much": ("value", "+.3g"),
    "unit": ("unit", ""),
    "seeds": ("seeds", "d"),
    "verdict": ("verdict", ""),
}


if __name__ == "__main__":
    main(tyro.cli(Args))
