"""What the papers claim of their experiments, and controls, as numbers per seed.

A number is above 0 if the claim is true: mostly, by how much an arm is above another
one with the same seed. Controls are comparisons that the papers do not make and that
decide whether a claim means something.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.experiment import differences, of_arm
from benchmarks.paper.fig5 import last_rise
from benchmarks.paper.fig7 import most_iterations
from benchmarks.paper.networks import PLAIN
from benchmarks.paper.selective import BEFORE, CHOSEN, ON_THE_WAY, PLAIN_PASSES
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


def _accuracy(row: Row) -> float:
    return float(row["accuracy"])


def _backward(row: Row) -> float:
    """Return minus the seconds of an epoch's backward passes."""
    return -60 * float(row["backward minutes"])


def _falls(rows: Sequence[Row]) -> list[float]:
    """Return by how much the full test loss is less after the last epoch."""
    losses = [[e["test"]["all layers"]["loss"] for e in row["epochs"]] for row in rows]
    return [each[0] - each[-1] for each in losses]


def _rarer(choice: int) -> Values:
    """Return by how much a choice is rarer than the one before it, in points."""

    def values(rows: Sequence[Row]) -> list[float]:
        # To stop, and three layers; claims are about these.
        shares = [row["test"] for row in rows if len(row["test"]) == 4]
        return [100 * (share[choice - 1] - share[choice]) for share in shares]

    return values


def _end(key: str) -> Value:
    """Return what a joint training ends with."""
    return lambda row: float(row["curve"][-1][key])


def _throughout(rows: Sequence[Row]) -> list[float]:
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


def _settles(rows: Sequence[Row]) -> list[float]:
    """Return by how much the last quarter's change is below a tenth of the rise."""
    curves = (row["returns"] for row in of_arm(rows, "1"))
    return [0.1 * (curve[-1] - curve[0]) - abs(last_rise(curve)) for curve in curves]


def _chosen(row: Row) -> float:
    """Return the share of decisions for a layer, in %."""
    return 100 * float(sum(row["shares"][1:]))


def _of_samples(part: str) -> Value:
    """Return the accuracy of a model on all samples, or on a few."""
    return lambda row: float(row[part]["accuracy"])


def _iterated(key: str, sign: int) -> Value:
    """Return what an arm reaches at its most iterations, with a sign."""
    return lambda row: sign * float(row[most_iterations(row)][key])


def _cheaper(rows: Sequence[Row]) -> list[float]:
    """Return which share of the extra compute of everything an agent saves, in %."""
    return [100 * (1 - row["test"]["ppo"]["extra"]["mean"]) for row in rows]


def _earns_more_than(policy: str) -> Values:
    """Return by how much an agent's return is above a policy's."""

    def values(rows: Sequence[Row]) -> list[float]:
        tests = (row["test"] for row in rows if policy in row["test"])
        return [test["ppo"]["return"] - test[policy]["return"] for test in tests]

    return values


def _correlations(rows: Sequence[Row]) -> list[float]:
    """Return correlations of loss and compute; 0 where all inputs get the same."""
    return [row["loss"]["correlation"] or 0.0 for row in rows]


def _worst_layer(value: Callable[[Any], float | None]) -> Values:
    """Return the least value of each network's layers; those without one are let be."""

    def values(rows: Sequence[Row]) -> list[float]:
        found = [[value(layer) for layer in row["layers"]] for row in rows]
        known = [[each for each in part if each is not None] for part in found]
        return [min(each) for each in known if each]

    return values


def _below_bound(layer: Any) -> float | None:
    return None if layer["share"] is None else 1 - float(layer["share"])


def _at_one_point(layer: Any) -> float | None:
    return 1 - layer["apart"] / layer["allowed"] if layer["allowed"] else None


_CNN, _DEQS = "3-layer CNN", ("DEQ Anderson", "DEQ Broyden")
_PRE, _SCRATCH, _LONGER = "pre-trained", "from scratch", "longer"
RELATIONS = (
    above(
        "table1",
        "DynaLay's backward passes are faster than the CNN's",
        "s/epoch",
        ("DynaLay", _CNN),
        _backward,
    ),
    *(
        above(
            "table1",
            f"the CNN's backward passes are faster than {deq}'s",
            "s/epoch",
            (_CNN, deq),
            _backward,
        )
        for deq in _DEQS
    ),
    *(
        above(
            "table1",
            f"DynaLay is more accurate than {other}",
            "points",
            ("DynaLay", other),
            _accuracy,
            is_control=other not in (_CNN, *_DEQS),
        )
        for other in (_CNN, *_DEQS, "all layers", "entropy rule", "random")
    ),
    Relation(
        "fig2",
        "the test loss, all layers iterated, falls from the first to the last epoch",
        "nats",
        ("main network",),
        _falls,
    ),
    *(
        Relation("fig3", claim, "points", ("ppo",), _rarer(choice))
        for choice, claim in (
            (1, "to stop is chosen more often than layer 1 (each input stops once)"),
            (2, "layer 1 is chosen more often than layer 2"),
            (3, "layer 2 is chosen more often than layer 3"),
        )
    ),
    above(
        "fig4",
        "pre-trained is more accurate at the end than from scratch",
        "points",
        (_PRE, _SCRATCH),
        _end("accuracy"),
    ),
    above(
        "fig4",
        "the same, from scratch with as many steps of the network",
        "points",
        (_PRE, _LONGER),
        _end("accuracy"),
        is_control=True,
    ),
    above(
        "fig4",
        "pre-trained ends with a lower loss, all layers iterated, than from scratch",
        "nats",
        (_PRE, _SCRATCH),
        lambda row: -_end("full")(row),
    ),
    Relation(
        "fig4",
        "pre-trained is more accurate throughout (its least lead)",
        "points",
        (_PRE, _SCRATCH),
        _throughout,
    ),
    Relation(
        "fig5",
        "the reward settles: at the break-even penalty it changes by less than a tenth "
        "of its rise over the last quarter",
        "reward",
        ("1",),
        _settles,
    ),
    above(
        "fig5",
        "layers are chosen more often at 0.25 than at 4 break-evens",
        "points",
        ("0.25", "4"),
        _chosen,
    ),
    *(
        above(
            "fig6",
            f"Model 3 is more accurate than {other}",
            "points",
            ("Model 3", other),
            _of_samples("all"),
        )
        for other in ("Model 0", "Model 1", "Model 2")
    ),
    above(
        "fig6",
        "Model 3 is more accurate than Model 0 on 100 samples",
        "points",
        ("Model 3", "Model 0"),
        _of_samples("few"),
    ),
    *(
        above(
            "fig7",
            f"layer 3 iterated: {claim} than {other}",
            unit,
            ("layer 3", other),
            _iterated(key, sign),
        )
        for other in (PLAIN, "layer 1", "layer 2", "all")
        for claim, unit, key, sign in (
            ("more accurate", "points", "accuracy", 1),
            ("a lower loss", "nats", "loss", -1),
        )
    ),
    Relation(
        "cost",
        "the agent takes less extra compute than iterating everything",
        "%",
        ("ppo",),
        _cheaper,
    ),
    *(
        Relation(
            "cost",
            f"the agent's return is above that of {policy}",
            "reward",
            ("ppo",),
            _earns_more_than(policy),
            is_control=True,
        )
        for policy in ("nop", "always", "random-mix", "entropy", "max-prob")
    ),
    Relation(
        "difficulty",
        "inputs with a higher loss get more compute (rank correlation)",
        "",
        ("ppo",),
        _correlations,
    ),
    Relation(
        "theory",
        "errors are below the a-priori bound (1 − largest error / bound, worst layer)",
        "",
        ("main network",),
        _worst_layer(_below_bound),
    ),
    Relation(
        "theory",
        "ten random starts end at one point (1 − distance / allowed one, worst layer)",
        "",
        ("main network",),
        _worst_layer(_at_one_point),
    ),
    above(
        "selective",
        "backward passes through chosen layers are faster than the plain network's",
        "s/epoch",
        (CHOSEN, PLAIN_PASSES),
        _backward,
    ),
    above(
        "selective",
        "what learns through chosen layers is more accurate than before",
        "points",
        (CHOSEN, BEFORE),
        _accuracy,
    ),
    above(
        "selective",
        "and than what learns through every layer on the way",
        "points",
        (CHOSEN, ON_THE_WAY),
        _accuracy,
        is_control=True,
    ),
    above(
        "lcnet_cifar10",
        "LC-Net, trained to half of the MACs, is more accurate than the whole network",
        "points",
        ("LC 0.5", "whole"),
        _accuracy,
    ),
    *(
        above(
            "lcnet_cifar10",
            f"LC-Net is more accurate than {other}-Net, both trained to half",
            "points",
            ("LC 0.5", f"{other} 0.5"),
            _accuracy,
            is_control=True,
        )
        for other in ("L", "C", "LC-static")
    ),
)
