"""DynaLay's equations 11 and 12: gradients that come late, and a metric in the loss.

Equation 11 adds a term for asynchronous training to each gradient. In these arms a
gradient is that of the weights some optimiser steps ago, as of a worker that is so many
steps behind. Equation 12 adds a metric to the objective, at a weight. The metric is by
how much the plain pass disagrees with what the network answers when everything is
iterated. ``as it is`` has neither: it takes the steps of a `StatesTrainer`.
"""

from collections import deque
from collections.abc import Sequence
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
from dynalay_gym.cotraining.new_training import network_config, training_config
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.state_losses import weighted_loss
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
        if self._weight == 0:
            return super().loss(images, labels, rows)
        weights, full = self.weights(), 2**self.network.num_layers - 1
        # Each state is computed once: it moves the normalisation's statistics.
        ids = [*weights, *({0, full} - {*weights})]
        logits = self.network.forward_paths(images, ids, self.solver)
        found = dict(zip(ids, logits, strict=True))
        loss = weighted_loss([found[state] for state in weights], labels, weights)
        return loss + self._weight * disagreement(found[0], found[full])

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


def disagreement(plain: Tensor, full: Tensor) -> Tensor:
    """Return by how much plain answers differ from full ones, nats, a scalar.

    It is the Kullback-Leibler divergence KL(full || plain) of their probabilities, a
    mean over samples. No gradient goes to the full answers.

    Args:
        plain: Logits of the plain pass, [n, K].
        full: Logits with all layers iterated, [n, K].
    """
    log_p, target = plain.log_softmax(1), full.detach().log_softmax(1)
    return F.kl_div(log_p, target, reduction="batchmean", log_target=True)


class Terms(Experiment):
    """Late gradients and a metric in the loss; see `Experiment`."""

    name = "terms"
    title = "Late gradients, and a metric in the loss"
    arms = tuple(TERMS)

    def check(self, setting: Setting) -> None:
        """Raise ConfigError where steps are not of whole solves and one answer."""
        super().check(setting)
        config: Any = network_config(setting.dataset, setting.preset)
        training: Any = training_config(config, setting.dataset)
        if config.cutoffs or training.paths == "portions":
            raise ConfigError(
                "this metric compares answers after whole solves, one per sample; "
                "choose another --dataset (digits, cifar10, imdb, ...)"
            )

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network with the terms of an arm; measure two of its states."""
        splits, (late, weight) = setting.splits(), TERMS[arm]
        found = trained(
            setting,
            splits["main"],
            None,
            seed,
            folder / "network",
            trainer=TermsTrainer,
            late=late,
            weight=weight,
        )
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
