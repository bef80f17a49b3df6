"""DynaLay's figure 4: does it help to train network and agent by themselves first?

Then both learn together, for equally many decisions in every arm. ``pre-trained`` has
had its network trained for the epochs of the setting, and an agent on it.
``from scratch`` has not; ``longer`` has not either, but its network takes as many
optimiser steps in all as the pre-trained one's.
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
from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    of_arm,
    shared_folder,
    spread,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import new_network
from benchmarks.report import Columns, Row, Table
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.splits import Split
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
        if arm == "pre-trained":
            co = replace(co, agent_steps=decisions)
        else:
            start = folder / "network"
            network = new_network(setting, data["main"], seed).eval()
            save_network(start, network, {}, facts.calibrations)
        if arm == "longer":
            epochs = facts.about["epochs"]
            samples = len(data["main"].inputs[:: setting.every]) * epochs
            co = replace(co, update_ratio=co.update_ratio + samples / decisions)
        options = Options(
            algo="ppo",
            dataset=setting.dataset,
            checkpoint=start,
            data_dir=setting.data_dir,
            penalty=repr(facts.about["break_even_penalty"]),
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
        """Return the end of each curve, and how much less the other arms have."""
        found = []
        for arm in arms_of(rows):
            own, first = of_arm(rows, arm), of_arm(rows, self.arms[0])
            row: dict[str, Any] = {"arm": arm}
            for key in _KEYS:
                row[key] = spread([each["curve"][-1][key] for each in own])
            theirs = {each["seed"]: each["curve"][-1]["accuracy"] for each in first}
            less = [
                theirs[each["seed"]] - each["curve"][-1]["accuracy"]
                for each in own
                if each["seed"] in theirs
            ]
            if arm != self.arms[0] and less:
                row["less"] = spread(less)
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
        for axes, (key, label) in zip(
            figure.subplots(1, 2), labels.items(), strict=True
        ):
            for arm in arms_of(rows):
                own = of_arm(rows, arm)
                at = [100 * each["progress"] for each in own[0]["curve"]]
                values = np.array([[e[key] for e in row["curve"]] for row in own])
                (line,) = axes.plot(at, values.mean(0), label=arm)
                low, high = values.min(0), values.max(0)
                axes.fill_between(at, low, high, alpha=0.2, color=line.get_color())
            axes.set_xlabel("joint training, %")
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
        full, most = 2**network.num_layers - 1, max(network.config.layer_steps)
        return {
            "progress": (self.taken - self.start) / (self.total - self.start),
            "accuracy": 100 * found.accuracy,
            "compute": found.compute,
            "return": found.mean_return,
            "plain": answers(network, self._test, 0, 0)[0]["loss"],
            "full": answers(network, self._test, full, most)[0]["loss"],
        }


_KEYS = ("accuracy", "compute", "return", "plain", "full")
_COLUMNS: Columns = {
    "start": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "less than pre-trained": ("less", "+.2f"),
    "compute": ("compute", ".2f"),
    "return": ("return", ".4f"),
    "loss, plain pass": ("plain", ".3f"),
    "loss, all layers": ("full", ".3f"),
    "steps": ("steps", ".0f"),
}
