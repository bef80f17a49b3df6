"""DynaLay's figure 4: does it help to train network and agent by themselves first?

Then both learn together, for equally many decisions in every arm. ``pre-trained`` has
had its network trained for the epochs of the setting, and an agent on it.
``from scratch`` has not; ``longer`` has not either, but its network takes as many
optimiser steps in all as the pre-trained one's, at the lower rate of the co-training.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from agents.joint_run import JointRun
from agents.options import Options
from benchmarks.paper.agent_runs import agent_penalty, shared_network
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    differences,
    mean_and_range,
    of_arm,
    shared_folder,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import new_network
from benchmarks.report import Columns, Row, Table
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.networks.checkpoint import load_main_network, save_network
from dynalay_gym.storage.metrics import MetricWriter

_DECISIONS = 50_000  # of the joint training, and of the agent's own before it
_POINTS = 10  # of a curve


class Fig4(Experiment):
    """Pre-trained against not; see `Experiment`."""

    name = "fig4"
    title = "Pre-trained against not"
    arms = ("pre-trained", "from scratch", "longer")

    def check(self, setting: Setting) -> None:
        """Raise ConfigError where co-training would not be what the arms say."""
        super().check(setting)
        if setting.every != 1 or setting.start_from is not None:
            raise ConfigError(
                "fig4 trains on all samples and from scratch; leave --every and "
                "--start-from out"
            )

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train network and agent together; measure both on the test set on the way."""
        shared = shared_network(setting, seed, shared_folder(setting, folder))
        _, facts = load_main_network(shared)
        data = setting.splits()
        decisions = setting.decisions or _DECISIONS
        co = CoTrainingConfig(agent_steps=0, validations=_POINTS)
        start = shared
        if arm == "pre-trained":  # validations are spread over both of its parts
            co = replace(co, agent_steps=decisions, validations=2 * _POINTS)
        else:
            start = folder / "network"
            network = new_network(setting, data["main"], seed).eval()
            save_network(start, network, {}, facts.calibrations)
        if arm == "longer":
            samples = co.batch_size * facts.about["steps"]
            co = replace(co, update_ratio=co.update_ratio + samples / decisions)
        options = Options(
            algo="ppo",
            dataset=setting.dataset,
            checkpoint=start,
            data_dir=setting.data_dir,
            penalty=repr(agent_penalty(setting, shared)),
            total_timesteps=decisions,
            seed=seed,
            device="cpu",
            log_dir=folder / "runs",
            co=co,
            co_train=True,
        )
        with Watched(options, data["test"]) as run:  # lets go of its folder
            run.learn(None, lambda *_: None)
        return {"curve": run.curve, "main_steps": run.trainer.steps}

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the end of each curve, and how much more the other arms have."""
        found = []
        for arm in arms_of(rows):
            own = of_arm(rows, arm)
            row: dict[str, Any] = {"arm": arm}
            for key in _KEYS:
                row[key] = mean_and_range([each["curve"][-1][key] for each in own])
            more = differences(rows, arm, self.arms[0], _accuracy)
            if arm != self.arms[0] and more:
                row["more"] = mean_and_range(more)
            row["steps"] = float(np.mean([each["main_steps"] for each in own]))
            found.append(row)
        notes = (
            "At the end of the joint training: the agent's answers (test set) and "
            "the network's cross-entropy; means over seeds, lowest and highest in "
            "brackets. Steps are the network's optimiser steps in the joint training."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return accuracy and loss over the joint training, a band for seeds."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        labels = {"accuracy": "agent's accuracy, %", "full": "loss, all layers, nats"}
        thousands = (setting.decisions or _DECISIONS) / 1000
        for axes, (key, label) in zip(
            figure.subplots(1, 2), labels.items(), strict=True
        ):
            for arm in arms_of(rows):
                own = of_arm(rows, arm)
                at = [thousands * each["progress"] for each in own[0]["curve"]]
                values = np.array([[e[key] for e in row["curve"]] for row in own])
                (line,) = axes.plot(at, values.mean(0), label=arm)
                low, high = values.min(0), values.max(0)
                axes.fill_between(at, low, high, alpha=0.2, color=line.get_color())
            axes.set_xlabel("decisions of the joint training, thousands")
            axes.set_ylabel(f"test {label}")
            axes.legend()
        return figure


class Watched(JointRun):
    """A co-training that looks at the test set at each of its validations.

    Args:
        options: The command line.
        test: The test split.
    """

    def __init__(self, options: Options, test: Split) -> None:
        self.curve: list[dict[str, float]] = []
        self._test = test
        super().__init__(options, options.config(), lambda *_: None)

    def validate(self, writer: MetricWriter | None) -> EvaluationResult:
        """Validate; see `TrainingRun.validate`."""
        result = super().validate(writer)
        if self.taken >= self.start:
            self.curve.append(self._look())
        return result

    @torch.no_grad()
    def _look(self) -> dict[str, float]:
        envs: Any = self.envs.test.unwrapped
        envs.load_weights(self.trainer.weights())
        found = evaluate(self.envs.test, self.agent.policy, penalty=self.envs.penalty)
        network = self.trainer.network
        full = 2**network.num_layers - 1
        return {
            "progress": (self.taken - self.start) / (self.total - self.start),
            "accuracy": 100 * found.accuracy,
            "compute": found.compute,
            "return": found.mean_return,
            "plain": answers(network, self._test, 0)[0]["loss"],
            "full": answers(network, self._test, full)[0]["loss"],
        }


def _accuracy(row: Row) -> float:
    """Return the agent's accuracy at the end."""
    return float(row["curve"][-1]["accuracy"])


_KEYS = ("accuracy", "compute", "return", "plain", "full")
_COLUMNS: Columns = {
    "start": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "more than pre-trained": ("more", "+.2f"),
    "compute": ("compute", ".2f"),
    "return": ("return", ".4f"),
    "loss, plain pass": ("plain", ".3f"),
    "loss, all layers": ("full", ".3f"),
    "steps": ("steps", ".0f"),
}
