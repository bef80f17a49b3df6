"""Backward passes through the layers that were chosen for each sample.

A step that trains the plain pass for all samples cannot take less than a plain
network's. One that follows the choices can: a sample whose choice is to stop teaches
the head alone, others the layers that they chose (DynaLay, equation 4). Each arm goes
on from DynaLay's trained network for the epochs of the setting, at a tenth of its
learning rate. A Gumbel selector chooses the state of each sample beforehand, and is
trained anew when it is tested. ``plain passes`` is what a plain network does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.choices import plain_features
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    differences,
    dots,
    mean_and_range,
    of_arm,
    shared_folder,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import StatesTrainer
from benchmarks.paper.selectors import best_outcome, best_selector
from benchmarks.paper.table1 import SELECTORS, worth_of_a_pass
from benchmarks.report import Columns, Row, Table
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import network_config, training_config
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.selective import SelectiveNetwork
from dynalay_gym.networks.training import TrainingConfig
from dynalay_gym.sessions.torch_session import TorchSession

BEFORE = "before"
CHOSEN, ON_THE_WAY = "chosen layers", "layers on the way"
PLAIN_PASSES = "plain passes"
# The states that arms without a selector train; None is plain, full and one between.
_STATES: dict[str, tuple[int, ...] | None] = {
    PLAIN_PASSES: (0,),
    "three states": None,
}
_SLOWER = 0.1  # the learning rate of what is trained already
_GUMBEL = SELECTORS["Gumbel selector"]


class SelectiveTrainer(StatesTrainer):
    """Trains each sample in the state that was chosen for it.

    Args:
        network: Main network, on its device.
        data: The main split, on the same device.
        config: Options.
        chosen: The state of each sample of the split, int64 [n].
        chosen_only: Whether only chosen layers learn; see `SelectiveNetwork`.
    """

    def __init__(
        self,
        network: MainNetwork,
        data: Split,
        config: TrainingConfig,
        chosen: Tensor,
        *,
        chosen_only: bool,
    ) -> None:
        super().__init__(network, data, config, None)
        self._chosen, self._chosen_only = chosen, chosen_only
        self._selective = SelectiveNetwork(network)

    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of the samples in their states."""
        logits = self._selective.logits(
            images, self._chosen[rows], self.solver, chosen_only=self._chosen_only
        )
        return F.cross_entropy(logits, labels)


class Selective(Experiment):
    """Backward passes that follow the choices; see `Experiment`."""

    name = "selective"
    title = "Backward passes through chosen layers"
    arms = (BEFORE, CHOSEN, ON_THE_WAY, *_STATES)
    layers = 3

    def check(self, setting: Setting) -> None:
        """Raise ConfigError where a sample has an answer for each word."""
        super().check(setting)
        config: Any = network_config(setting.dataset, setting.preset)
        if config.cutoffs:
            raise ConfigError(
                "this experiment trains one answer of each sample; choose another "
                "--dataset (digits, cifar10, imdb, ...)"
            )

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train on, timed; measure the network, and a selector on it."""
        shared = shared_network(setting, seed, shared_folder(setting, folder))
        network, splits = load_main_network(shared)[0], setting.splits()
        worth, found = worth_of_a_pass(setting, shared), dict[str, Any]()
        if arm != BEFORE:
            config = _config(network, setting, seed)
            if arm in _STATES:
                data, states = splits["main"], _STATES[arm]
                trainer = StatesTrainer(network, data, config, states)
            else:
                chosen = _chosen(network, splits, worth, seed)
                found["chosen"] = torch.bincount(chosen).tolist()
                trainer = SelectiveTrainer(
                    network,
                    splits["main"],
                    config,
                    chosen,
                    chosen_only=arm == CHOSEN,
                )
            network.requires_grad_(True)
            found["minutes"] = train_to_end(trainer) / config.epochs
            found["backward minutes"] = trainer.backward / 60 / config.epochs
            network.requires_grad_(False).eval()
        return found | _measured(network, splits, worth, seed)

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the means of each arm."""
        notes = (
            "Test accuracy and compute, in plain passes, of a selector that is trained "
            "on the network; accuracy in the plain pass and with all layers iterated; "
            "the processor's seconds of an epoch and of its backward passes; means "
            "over seeds, lowest and highest in brackets."
        )
        summaries = [_summary(rows, arm) for arm in arms_of(rows)]
        return [Table(self.title, notes, _COLUMNS, summaries)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return backward seconds and accuracy, a dot per network."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        times, accuracies = figure.subplots(1, 2)
        timed = [row for row in rows if row["arm"] != BEFORE]
        dots(times, timed, lambda row: 60 * row["backward minutes"])
        times.set_ylabel("backward passes, s per epoch")
        dots(accuracies, rows, lambda row: row["accuracy"])
        accuracies.set_ylabel("test accuracy of a selector, %")
        return figure


def _config(network: MainNetwork, setting: Setting, seed: int) -> TrainingConfig:
    """Return the setting's training, at a lower learning rate."""
    options = {"epochs": setting.epochs, "learning_rate": setting.learning_rate}
    found: Any = training_config(network.config, setting.dataset, seed=seed, **options)
    slower: TrainingConfig = replace(found, learning_rate=_SLOWER * found.learning_rate)
    return slower


def _chosen(
    network: MainNetwork, splits: Mapping[str, Split], worth: float, seed: int
) -> Tensor:
    """Return the state that a selector chooses for each sample to train on."""
    session = TorchSession(network)
    selector = best_selector(*_GUMBEL, session, splits, worth, seed)
    seen = plain_features(session, splits["main"])
    with torch.no_grad():
        return selector.choose(seen, torch.Generator().manual_seed(seed))


def _measured(
    network: MainNetwork, splits: Mapping[str, Split], worth: float, seed: int
) -> dict[str, Any]:
    """Return what a selector does on the test set, and the accuracy of two states."""
    found: dict[str, Any] = best_outcome(
        *_GUMBEL, TorchSession(network), splits, worth, seed
    )
    for name, state in (("plain", 0), ("full", 2**network.num_layers - 1)):
        found[name] = answers(network, splits["test"], state)[0]["accuracy"]
    return found


def _summary(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """Return means over the seeds of an arm."""
    own, found = of_arm(rows, arm), dict[str, Any](arm=arm)
    for key in ("accuracy", "compute", "plain", "full"):
        found[key] = mean_and_range([each[key] for each in own])
    more = differences(rows, arm, BEFORE, lambda row: row["accuracy"])
    if arm != BEFORE and more:
        found["more"] = mean_and_range(more)
    if arm != BEFORE:
        for key in ("minutes", "backward minutes"):
            found[key] = mean_and_range([60 * each[key] for each in own])
    return found


_COLUMNS: Columns = {
    "trained on": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "more than before": ("more", "+.2f"),
    "compute": ("compute", ".2f"),
    "plain pass, %": ("plain", ".2f"),
    "all layers, %": ("full", ".2f"),
    "backward, s per epoch": ("backward minutes", ".2f"),
    "epoch, s": ("minutes", ".2f"),
}
