"""DynaLay's equations 11 and 12: gradients that come late, and a metric in the loss.

Equation 11 adds to each gradient what training out of step adds to it. In these arms a
gradient is that of the weights some optimiser steps ago, as of a worker that is so many
steps behind. Equation 12 adds a metric to the objective, at a weight. The metric is by
how much the plain pass disagrees with what the network answers when everything is
iterated. ``as it is`` has neither: it takes the steps of a `StatesTrainer`.
"""

from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    differences,
    dots,
    mean_and_range,
    of_arm,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import StatesTrainer, trained
from benchmarks.report import Columns, Row, Table
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.training import TrainingConfig

AS_IT_IS = "as it is"
# Of each arm: steps by which gradients are late, weight of the metric.
TERMS: dict[str, tuple[int, float]] = {
    AS_IT_IS: (0, 0.0),
    "1 step late": (1, 0.0),
    "4 steps late": (4, 0.0),
    "16 steps late": (16, 0.0),
    "metric 0.3": (0, 0.3),
    "metric 1": (0, 1.0),
}


class TermsTrainer(StatesTrainer):
    """Trains with late gradients, with a metric in the loss, or with neither.

    What is late is not saved with a training.

    Args:
        network: Main network, on its device.
        data: The main split, on the same device.
        config: Options.
        states: The states; None trains plain, full and a random one between.
        late: Steps by which gradients are late. In as many first steps none has come,
            and the weights stay what they are.
        weight: Weight of the metric.
    """

    def __init__(
        self,
        network: MainNetwork,
        data: Split,
        config: TrainingConfig,
        states: Sequence[int] | None,
        *,
        late: int = 0,
        weight: float = 0.0,
    ) -> None:
        super().__init__(network, data, config, states)
        self._late, self._weight = late, weight
        self._on_the_way: deque[list[Tensor | None]] = deque()

    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of states, and the weighted metric beside it."""
        loss = super().loss(images, labels, rows)
        if self._weight == 0:
            return loss
        return loss + self._weight * self.disagreement(images)

    def disagreement(self, images: Tensor) -> Tensor:
        """Return by how much plain answers differ from full ones, nats, a scalar.

        It is the Kullback-Leibler divergence of the plain pass's probabilities from
        those with all layers iterated, to which no gradient goes.
        """
        states = 0, 2**self.network.num_layers - 1
        plain, full = (
            logits.log_softmax(1)
            for logits in self.network.forward_paths(images, states, self.solver)
        )
        return F.kl_div(plain, full.detach(), reduction="batchmean", log_target=True)

    def before_step(self) -> None:
        """Put the gradients of some steps ago in the place of those of now."""
        super().before_step()
        if self._late == 0:
            return
        parts = list(self.network.parameters())
        self._on_the_way.append([part.grad for part in parts])
        come: list[Tensor | None] = [None] * len(parts)
        if len(self._on_the_way) > self._late:
            come = self._on_the_way.popleft()
        for part, gradient in zip(parts, come, strict=True):
            part.grad = gradient  # the optimiser leaves weights without one alone


class Terms(Experiment):
    """Late gradients and a metric in the loss; see `Experiment`."""

    name = "terms"
    title = "Late gradients, and a metric in the loss"
    arms = tuple(TERMS)

    def check(self, setting: Setting) -> None:
        """Raise ConfigError where the network predicts words."""
        super().check(setting)
        if setting.dataset == "wikitext2":
            raise ConfigError(
                "this metric compares the answers after a whole text; choose another "
                "--dataset"
            )

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network with the terms of an arm; measure two of its states."""
        splits, (late, weight) = setting.splits(), TERMS[arm]
        trainer = partial(TermsTrainer, late=late, weight=weight)
        own = folder / "network"
        found = trained(setting, splits["main"], None, seed, own, trainer=trainer)
        network = found.network.freeze()
        states = {"plain": 0, "full": 2**network.num_layers - 1}
        return {"minutes": found.minutes} | {
            name: answers(network, splits["test"], state)[0]
            for name, state in states.items()
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return what each arm answers, and how it differs from none of the terms."""
        notes = (
            "Test set; means over seeds, lowest and highest in brackets; differences "
            "are from networks of the same seeds, in points."
        )
        summaries = [_summary(rows, arm) for arm in arms_of(rows)]
        return [Table(self.title, notes, _COLUMNS, summaries)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return the accuracy of every network, beside its arm."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        labels = {"plain": "plain pass", "full": "all layers iterated"}
        for axes, (key, label) in zip(
            figure.subplots(1, 2), labels.items(), strict=True
        ):
            dots(axes, rows, lambda row, key=key: row[key]["accuracy"])  # type: ignore[misc]
            axes.set_ylabel(f"test accuracy, %, {label}")
            axes.tick_params("x", rotation=30)
        return figure


def _summary(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """Return means over the seeds of an arm."""
    own, found = of_arm(rows, arm), dict[str, Any](arm=arm)
    for key in ("plain", "full"):
        for name in ("accuracy", "loss"):
            found[f"{key} {name}"] = mean_and_range([row[key][name] for row in own])
        more = differences(rows, arm, AS_IT_IS, lambda row: row[key]["accuracy"])  # noqa: B023
        if arm != AS_IT_IS and more:
            found[f"{key} more"] = mean_and_range(more)
    return found | {"minutes": mean_and_range([row["minutes"] for row in own])}


_COLUMNS: Columns = {
    "training": ("arm", ""),
    "plain pass, %": ("plain accuracy", ".2f"),
    "more than as it is": ("plain more", "+.2f"),
    "loss, plain pass": ("plain loss", ".3f"),
    "all layers, %": ("full accuracy", ".2f"),
    "more than as it is ": ("full more", "+.2f"),
    "loss, all layers": ("full loss", ".3f"),
    "minutes": ("minutes", ".2f"),
}
