"""Results of many policies at many settings and seeds, and what they amount to.

Axes: n samples.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.evaluation.diagnostics import change_rates, diagnose
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.frontier import Measure, average, measure_frontier
from dynalay_gym.evaluation.tables import point_row
from dynalay_gym.evaluation.walk import Walk

# Budgets that thresholds are chosen for: shares of the full plan's extra MACs.
SETTINGS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Study:
    """Collects results on the test split, each beside what it was chosen on.

    Results under the same policy and setting are of different seeds (of the network, of
    the agent): they are averaged by sample.

    Attributes:
        points: Results on the test split by policy and setting.
        tuned: Results of policies that were chosen for return at some penalty, by
            penalty and policy: one dictionary per seed, by split.
        cascades: Names of the policies among them that are cascades.
    """

    def __init__(self) -> None:
        self.points: dict[str, dict[str, list[EvaluationResult]]] = {}
        self.tuned: dict[tuple[str, str], list[Mapping[str, EvaluationResult]]]
        self.tuned = defaultdict(list)
        self.cascades: list[str] = []

    def add(self, policy: str, setting: str, result: EvaluationResult) -> None:
        """Add a result on the test split."""
        settings = self.points.setdefault(policy, {})
        settings.setdefault(setting, []).append(result)

    def add_tuned(
        self, penalty: str, policy: str, results: Mapping[str, EvaluationResult]
    ) -> None:
        """Add the results by split of a policy that was chosen for return."""
        self.tuned[penalty, policy].append(results)

    def add_cascades(self, walks: Mapping[str, Walk]) -> None:
        """Add nop, always and every cascade of one network as frontiers.

        Args:
            walks: By split; the thresholds for the budgets of `SETTINGS` are chosen on
                ``validation`` and applied to ``test``.
        """
        test, validation = walks["test"], walks["validation"]
        self.add("nop", "", test.stop("fixed-k", -np.inf, name="nop"))
        self.add("always", "", test.always)
        full = float(validation.always.macs.mean())
        self.cascades = list(test.scores)
        for score in self.cascades:
            for share in SETTINGS:
                threshold = validation.budget_threshold(score, share * full)
                self.add(score, f"budget {share:g}", test.stop(score, threshold))
            self.add(score, "to the end", test.always)

    def add_tuned_cascades(self, penalty: str, walks: Mapping[str, Walk]) -> None:
        """Add nop, always and every cascade, chosen for return on ``validation``.

        Args:
            penalty: What the penalty of the walks is called.
            walks: By split.
        """
        best = walks["validation"].best_threshold
        choices = {"nop": ("fixed-k", -np.inf), "always": ("fixed-k", np.inf)}
        choices |= {name: (name, best(name)) for name in walks["test"].scores}
        for policy, (score, threshold) in choices.items():
            stops = {
                split: walk.stop(score, threshold, name=policy)
                for split, walk in walks.items()
            }
            self.add_tuned(penalty, policy, stops)

    def summary(self, groups: NDArray[Any]) -> dict[str, Any]:
        """Return all that the results amount to.

        Args:
            groups: Id of the original of every sample of the test split [n].

        Returns:
            ``full_plan``: accuracies of *nop* and *always*, `change_rates` between
            them. ``frontiers``: one entry per policy, with its ``points``, its
            ``measures`` (see `measure_frontier`) and, for agents, the ``lead`` of each
            measure over the cascade that is best at it, each number as value and ends
            of its 95 % interval. ``tuned``: one entry per penalty and policy, with
            ``returns`` by split and, on the test split, `point_row` and `diagnose`.
            All of it can be written as JSON.
        """
        nop, always = (self.points[name][""] for name in ("nop", "always"))
        rates = [
            change_rates(before.correct, after.correct)
            for before, after in zip(nop, always, strict=True)
        ]
        ends = average(nop), average(always)
        return {
            "full_plan": {
                "nop_accuracy": ends[0].accuracy,
                "always_accuracy": ends[1].accuracy,
                "always_compute": ends[1].compute,
                **{name: np.mean([each[name] for each in rates]) for name in rates[0]},
            },
            "frontiers": self._frontiers(ends, groups),
            "tuned": [
                {"penalty": penalty, "policy": policy} | _tuned_row(seeds, groups)
                for (penalty, policy), seeds in self.tuned.items()
            ],
        }

    def _frontiers(
        self, ends: tuple[EvaluationResult, EvaluationResult], groups: NDArray[Any]
    ) -> list[dict[str, Any]]:
        means = {
            policy: {name: average(seeds) for name, seeds in settings.items()}
            for policy, settings in self.points.items()
        }
        measures = {
            policy: measure_frontier(list(points.values()), *ends, groups)
            for policy, points in means.items()
        }
        cascades = [measures[policy] for policy in self.cascades]
        rows = []
        for policy, points in means.items():
            row: dict[str, Any] = {"policy": policy}
            row["measures"] = {k: m.interval() for k, m in measures[policy].items()}
            if policy not in (*self.cascades, "nop", "always"):
                row["lead"] = _lead(measures[policy], cascades)
            seeds = self.points[policy]
            row["points"] = [
                point_row(point, groups) | {"setting": name, "seeds": len(seeds[name])}
                for name, point in points.items()
            ]
            rows.append(row)
        return rows


def _lead(
    mine: Mapping[str, Measure], others: Sequence[Mapping[str, Measure]]
) -> dict[str, list[float]]:
    """Return the distance to the best of others, measure by measure."""
    found = {}
    for name, measure in mine.items():
        choose = min if name.startswith("compute") else max
        best = choose((other[name] for other in others), key=lambda each: each.value)
        found[name] = (measure - best).interval()
    return found


def _tuned_row(
    seeds: Sequence[Mapping[str, EvaluationResult]], groups: NDArray[Any]
) -> dict[str, Any]:
    returns = {
        split: float(np.mean([seed[split].mean_return for seed in seeds]))
        for split in seeds[0]
    }
    tests = [seed["test"] for seed in seeds]
    row = point_row(average(tests), groups) | {"returns": returns, "seeds": len(seeds)}
    del row["policy"]
    return row | diagnose(tests)
