"""What a claim is made of: the arms that it needs, and a number for each seed.

A number is above 0 if the claim is true: mostly, by how much an arm is above another
one with the same seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.experiment import differences, of_arm
from benchmarks.paper.fig5 import last_rise
from benchmarks.paper.fig7 import most_iterations
from benchmarks.report import Row

Value = Callable[[Row], float]  # of a unit
Values = Callable[[Sequence[Row]], list[float]]  # of all units, per seed


@dataclass(frozen=True)
class Relation:
    """Something that can be true of an experiment's arms.

    Attributes:
        experiment: The experiment that measures it.
        claim: What is claimed, in words.
        unit: Of its values.
        arms: Arms that it needs.
        values: Returns a number per seed that is above 0 if it is true; none where it
            cannot be judged.
        is_control: Whether it is a control, not a paper's claim.
    """

    experiment: str
    claim: str
    unit: str
    arms: tuple[str, ...]
    values: Values
    is_control: bool = False


def above(
    experiment: str,
    claim: str,
    unit: str,
    arms: tuple[str, str],
    value: Value,
    is_control: bool = False,
) -> Relation:
    """Return the relation that the first of two arms has the higher value."""

    def values(rows: Sequence[Row]) -> list[float]:
        return differences(rows, *arms, value)

    return Relation(experiment, claim, unit, arms, values, is_control)


def accuracy(row: Row) -> float:
    """Return an arm's accuracy on the test split, in %."""
    return float(row["accuracy"])


def backward_speed(row: Row) -> float:
    """Return minus the seconds of an epoch's backward passes."""
    return -60 * float(row["backward minutes"])


def full_loss_falls(rows: Sequence[Row]) -> list[float]:
    """Return by how much the full test loss is less after the last epoch."""
    losses = [[e["test"]["all layers"]["loss"] for e in row["epochs"]] for row in rows]
    return [each[0] - each[-1] for each in losses]


def rarer(choice: int) -> Values:
    """Return by how much a choice is rarer than the one before it, in points."""

    def values(rows: Sequence[Row]) -> list[float]:
        # To stop, and three layers; claims are about these.
        shares = [row["test"] for row in rows if len(row["test"]) == 4]
        return [100 * (share[choice - 1] - share[choice]) for share in shares]

    return values


def at_end(key: str) -> Value:
    """Return what a joint training ends with."""
    return lambda row: float(row["curve"][-1][key])


def least_lead(rows: Sequence[Row]) -> list[float]:
    """Return the least lead of pre-trained accuracy, where the other is measured."""
    found, first = [], {row["seed"]: row for row in of_arm(rows, "pre-trained")}
    for row in of_arm(rows, "from scratch"):
        if row["seed"] in first:
            (at, ahead), (points, behind) = (
                [[each[key] for each in curve] for key in ("progress", "accuracy")]
                for curve in (first[row["seed"]]["curve"], row["curve"])
            )
            leads = np.interp(points, at, ahead) - np.array(behind)
            found.append(float(leads.min()))
    return found


def reward_settles(rows: Sequence[Row]) -> list[float]:
    """Return by how much the last quarter's change is below a tenth of the rise."""
    curves = (row["returns"] for row in of_arm(rows, "1"))
    return [0.1 * (curve[-1] - curve[0]) - abs(last_rise(curve)) for curve in curves]


def share_of_layers(row: Row) -> float:
    """Return the share of decisions for a layer, in %."""
    return 100 * float(sum(row["shares"][1:]))


def of_samples(part: str) -> Value:
    """Return the accuracy of a model on all samples, or on a few."""
    return lambda row: float(row[part]["accuracy"])


def iterated(key: str, sign: int) -> Value:
    """Return what an arm reaches at its most iterations, with a sign."""
    return lambda row: sign * float(row[most_iterations(row)][key])


def compute_saved(rows: Sequence[Row]) -> list[float]:
    """Return which share of the extra compute of everything an agent saves, in %."""
    return [100 * (1 - row["test"]["ppo"]["extra"]["mean"]) for row in rows]


def earns_more_than(policy: str) -> Values:
    """Return by how much an agent's return is above a policy's."""

    def values(rows: Sequence[Row]) -> list[float]:
        tests = (row["test"] for row in rows if policy in row["test"])
        return [test["ppo"]["return"] - test[policy]["return"] for test in tests]

    return values


def correlations(rows: Sequence[Row]) -> list[float]:
    """Return correlations of loss and compute; 0 where all inputs get the same."""
    return [row["loss"]["correlation"] or 0.0 for row in rows]


def worst_layer(value: Callable[[Any], float | None]) -> Values:
    """Return the least value of each network's layers; those without one are let be."""

    def values(rows: Sequence[Row]) -> list[float]:
        found = [[value(layer) for layer in row["layers"]] for row in rows]
        known = [[each for each in part if each is not None] for part in found]
        return [min(each) for each in known if each]

    return values


def below_bound(layer: Any) -> float | None:
    """Return how far an error stays below the a-priori bound, as a share of it."""
    return None if layer["share"] is None else 1 - float(layer["share"])


def at_one_point(layer: Any) -> float | None:
    """Return how far ten starts end below the allowed distance, as a share of it."""
    return 1 - layer["apart"] / layer["allowed"] if layer["allowed"] else None
