"""DynaLay's 9-fold cross-validation of the weights of its reward and its loss.

The paper weighs accuracy, compute and the reward in the loss by 0.5, 0.3 and 0.2. In
this project the reward in the loss (its third weight) reaches no parameter that the
loss reaches, so it changes nothing, and agents see the ratio of the first two alone:
accuracy has 0.5, and compute is what is tried. The folds are of the agent split; no
test sample is looked at.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from agents.environments import make_envs, make_evaluation_envs
from agents.options import Options
from agents.registry import make_agent
from benchmarks.paper.agent_runs import agent_penalty, shared_network
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    mean_and_range,
    of_arm,
    part_of,
    shared_folder,
)
from benchmarks.report import Columns, Row, Table
from dynalay_gym.data.splits import Split
from dynalay_gym.evaluation.evaluate import evaluate

_FOLDS = 9
_PAPER = "paper 0.3"
# Weight of compute, in break-evens of the network.
_SCALES = {f"{scale:g}": scale for scale in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)}


class CrossValidation(Experiment):
    """Accuracy and compute on what an agent has not seen; see `Experiment`."""

    name = "crossval"
    title = "Weight of compute by cross-validation"
    arms = (*_SCALES, _PAPER)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train an agent on eight ninths and evaluate it on the last one, nine times.

        Returns:
            ``penalty``, and of each fold ``accuracy`` in % and ``compute``.
        """
        network = shared_network(setting, seed, shared_folder(setting, folder))
        penalty = {_PAPER: 0.3, "0": 0.0}.get(arm)
        if penalty is None:
            penalty = _SCALES[arm] * agent_penalty(setting, network)
        options = Options(
            algo="ppo",
            dataset=setting.dataset,
            checkpoint=network,
            data_dir=setting.data_dir,
            seed=seed,
            penalty=repr(penalty),
        )
        found = [
            _fold(options, setting.decisions, *parts)
            for parts in folds(setting.splits()["agent"])
        ]
        return {
            "penalty": penalty,
            "accuracy": [each["accuracy"] for each in found],
            "compute": [each["compute"] for each in found],
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return what each weight is worth, and which one is chosen."""
        found = [_summary(arm, of_arm(rows, arm)) for arm in arms_of(rows)]
        best = max(found, key=lambda row: float(row["accuracy"]["mean"]))
        least = best["accuracy"]["mean"] - best["error"]
        enough = [row for row in found if row["accuracy"]["mean"] >= least]
        chosen = min(enough, key=lambda row: float(row["compute"]["mean"]))
        notes = (
            "Weight of compute in break-evens of the whole agent split; that of "
            "accuracy is 0.5. Held-out accuracy and compute in plain passes, means "
            "over seeds of means over folds, lowest and highest in brackets; standard "
            "error over folds, of the mean of the seeds. Chosen: "
            f"{chosen['arm']}, which takes least of those within a standard error of "
            "the best accuracy."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return accuracy against compute, a dot per weight, with standard errors."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for arm in arms_of(rows):
            own = _summary(arm, of_arm(rows, arm))
            x, y = own["compute"]["mean"], own["accuracy"]["mean"]
            axes.errorbar(x, y, yerr=own["error"], fmt="o", label=arm)
        axes.legend(title="weight of compute")
        axes.set_xlabel("compute, plain passes")
        axes.set_ylabel("held-out accuracy, %")
        return figure


def folds(split: Split) -> Iterator[tuple[Split, Split]]:
    """Yield what is learned from and what is held out, for each fold.

    They are the same whatever the seed of a unit, and samples of one group stay
    together.
    """
    groups = split.groups.unique()
    generator = torch.Generator().manual_seed(0)
    shuffled = groups[torch.randperm(len(groups), generator=generator)]
    for held in shuffled.tensor_split(_FOLDS):
        is_held = torch.isin(split.groups, held)
        learned, left = (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]
        yield part_of(split, learned), part_of(split, left)


def _fold(
    options: Options, decisions: int | None, learn: Split, held: Split
) -> dict[str, float]:
    """Train an agent on one part, and evaluate it on the other."""
    config = options.config()
    how: Any = {"transitions": "table", "output": config.output}
    train = make_envs(options, learn, options.penalty, config.num_envs, **how)
    agent = make_agent(train, config, seed=options.seed, baseline_envs=None)
    agent.learn(decisions or config.total_timesteps)
    envs = make_evaluation_envs(options, held, options.penalty, "table")
    result = evaluate(envs, agent.policy)
    return {"accuracy": 100 * result.accuracy, "compute": result.compute}


def _summary(arm: str, own: Sequence[Row]) -> dict[str, Any]:
    """Return means over folds of each seed, and the standard error over folds."""
    row: dict[str, Any] = {"arm": arm, "penalty": np.mean([r["penalty"] for r in own])}
    for key in ("accuracy", "compute"):
        row[key] = mean_and_range([float(np.mean(each[key])) for each in own])
    by_fold = np.mean([each["accuracy"] for each in own], 0)
    return row | {"error": float(np.std(by_fold, ddof=1) / np.sqrt(_FOLDS))}


_COLUMNS: Columns = {
    "weight of compute": ("arm", ""),
    "penalty": ("penalty", ".4f"),
    "accuracy, %": ("accuracy", ".2f"),
    "standard error": ("error", ".2f"),
    "compute": ("compute", ".2f"),
}
