"""Networks that are trained for some of their states alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.paper.experiment import Setting, unit_name
from benchmarks.report import Row
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import network_config, training_config
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network, save_network
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.state_losses import mixed_states
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.storage.saved_folder import is_saved

PLAIN = "no FPI"  # the arm without iteration


class StatesTrainer(MainTrainer):
    """Trains some states, and no others; adds up the time of its backward passes.

    Args:
        network: Main network, on its device.
        data: The main split, on the same device.
        config: Options.
        states: The states; None trains plain, full and a random one between.

    Attributes:
        backward: The processor's seconds in backward passes so far.
    """

    def __init__(
        self,
        network: MainNetwork,
        data: Split,
        config: TrainingConfig,
        states: Sequence[int] | None,
    ) -> None:
        super().__init__(network, data, config)
        self.states = states
        self.backward = self._began = 0.0

    def weights(self) -> dict[int, float]:
        """Return the states that a step trains; see `MainTrainer.weights`."""
        if self.states is None:
            return mixed_states(2**self.network.num_layers, self.generator)
        return dict.fromkeys(self.states, 1.0)

    def explain(self, loss: Tensor, rows: Tensor) -> None:
        """Note the time; it is called before the backward pass."""
        super().explain(loss, rows)
        self._began = time.process_time()

    def before_step(self) -> None:
        """Add up the time; it is called after the backward pass."""
        self.backward += time.process_time() - self._began
        super().before_step()


@dataclass(frozen=True)
class Trained:
    """A network, and how it came to be.

    Attributes:
        network: The network, in evaluation mode.
        minutes: The processor's minutes of its training.
        backward: Those of them in backward passes.
        steps: Optimiser steps.
        epochs: What was found after each epoch.
    """

    network: MainNetwork
    minutes: float
    backward: float
    steps: int
    epochs: list[Row]


def trained(
    setting: Setting,
    data: Split,
    states: Sequence[int] | None,
    seed: int,
    folder: Path,
    after_epoch: Callable[[MainNetwork], Row] = lambda network: {},
    prepare: Callable[[MainNetwork], None] = lambda network: None,
    trainer: type[StatesTrainer] = StatesTrainer,
    **options: Any,
) -> Trained:
    """Return a folder's network; it is trained first if it is missing.

    Args:
        setting: Data and training.
        data: What to train on.
        states: States that are trained; see `StatesTrainer`.
        seed: Seed of weights and samples.
        folder: Where the network is, or gets to.
        after_epoch: Finds something JSON-able after each epoch.
        prepare: Changes how a new network is trained, not its weights.
        trainer: Class of the training.
        **options: Of that class; kept with the network.
    """
    asked: dict[str, Any] = {"seed": seed, **options}
    asked["states"] = None if states is None else list(states)
    if is_saved(folder):
        loaded, facts = load_main_network(folder)
        about: Any = facts.about
        setting.check_same(about["setting"], folder)
        if {name: about.get(name) for name in asked} != asked:
            raise ConfigError(f"{folder} has other states, seed or options; remove it")
        return Trained(
            loaded,
            *(about[name] for name in ("minutes", "backward", "steps", "epochs")),
        )
    network = new_network(setting, data, seed)
    prepare(network)
    config: Any = training_config(
        network.config,
        setting.dataset,
        epochs=setting.epochs,
        learning_rate=setting.learning_rate,
        seed=seed,
    )
    training = trainer(network, data, config, states, **options)
    epochs: list[Row] = []
    minutes = train_to_end(training, lambda: epochs.append(after_epoch(network)))
    times = {"minutes": minutes, "backward": training.backward / 60}
    about = asked | times | {"steps": training.steps, "epochs": epochs}
    about["setting"] = setting.facts()
    save_network(folder, network.eval(), about)
    # Loaded, it is what it was before `prepare`.
    return trained(setting, data, states, seed, folder, **options)


def new_network(setting: Setting, data: Split, seed: int) -> MainNetwork:
    """Return a network as it is before its training.

    Raises:
        CheckpointError: The one to start from is missing.
        ConfigError: It knows other words than the data.
    """
    torch.manual_seed(seed)
    if setting.start_from is not None:
        place = setting.start_from / unit_name(PLAIN, seed) / "network"
        network, _ = load_main_network(place)
        if network.config.vocabulary != data.vocabulary:
            raise ConfigError(f"{place} knows other words than the data; train it anew")
        _begin_as_the_plain_pass(network)
        return network
    config = cast(MainNetworkConfig, network_config(setting.dataset, setting.preset))
    if config.reads_texts:
        config = replace(config, vocabulary=data.vocabulary)
    return MainNetwork(config)


@torch.no_grad()
def _begin_as_the_plain_pass(network: MainNetwork) -> None:
    """Give all states the normalisation of the plain pass, which alone was trained."""
    for module in network.modules():
        if isinstance(module, PatternNorm):
            for part in (*module.parameters(), *module.buffers()):
                part[1:] = part[0]
