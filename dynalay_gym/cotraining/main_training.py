"""Training a main network by itself: alone, or as the start of a co-training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.new_training import (
    AnyTrainer,
    Splits,
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.checkpoint import (
    Network,
    load_network,
    load_network_facts,
    save_network,
)
from dynalay_gym.networks.lcnet.diagnostics import measure_gates
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.training import GateTrainer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.measure import accuracy, export, state_accuracies
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.run_folder import STATE
from dynalay_gym.storage.saved_folder import is_saved
from dynalay_gym.utils.interrupts import finish_step

OnStep = Callable[[int, int, float], None]


def train(
    trainer: AnyTrainer, validation: Split, folder: Path, writer: MetricWriter
) -> None:
    """Train all epochs; validate after each, and save the best network.

    Args:
        trainer: A training, fresh or loaded.
        validation: The validation split.
        folder: The run's folder; gets ``best`` and ``resume``.
        writer: Where the metrics go.

    Raises:
        Stopped: A signal came; the training is saved after the step that it was in.
    """
    epochs, per_epoch = trainer.config.epochs, trainer.steps_per_epoch
    best = -1.0
    if trainer.epoch > 0:
        best = _mean_accuracy(folder / "best")
    # disable=None: no bar where nobody watches
    total = epochs * per_epoch
    bar = tqdm(total=total, initial=trainer.steps, unit="step", disable=None)

    def on_step(step: int, loss: float) -> None:
        bar.update()
        if step % 20 == 0:
            writer.scalar("main/loss", loss, step)

    def validate() -> None:
        nonlocal best
        step = trainer.steps
        found, gates = _measure(trainer.network, validation)
        writer.scalars({f"main/accuracy/{k}": v for k, v in found.items()}, step)
        writer.scalars({f"main/gates/{k}": v for k, v in gates.items()}, step)
        rate = trainer.optimizer.param_groups[0]["lr"]
        writer.scalar("main/learning_rate", rate, step)
        shown = " ".join(f"{name} {value:.3f}" for name, value in found.items())
        bar.set_postfix_str(f"validation: {shown}")
        mean = sum(found.values()) / len(found)
        # Gates are trained to less and less compute: the last ones are wanted.
        if mean > best or isinstance(trainer, GateTrainer):
            best = mean
            facts = {"epoch": trainer.epoch, "mean": mean}
            save_network(folder / "best", trainer.network, facts)

    with bar:
        run_epochs(
            trainer, epochs, folder / STATE, on_step, validate, sizes=writer.sizes
        )


def follow(trainer: AnyTrainer, folder: Path | None) -> None:
    """Take part in a training that another process records and saves.

    Args:
        trainer: A fresh training.
        folder: The run's folder, if that process goes on with one.

    Raises:
        Stopped: A signal came to one of the processes.
    """
    state = (folder or Path()) / STATE
    if folder is not None and is_saved(state):
        trainer.load(state)
    run_epochs(trainer, trainer.config.epochs, state, lambda step, loss: None)


def _measure(
    network: Network, split: Split
) -> tuple[dict[str, float], dict[str, float]]:
    """Return accuracies by name, and what gates do, if there are any."""
    if isinstance(network, MainNetwork):
        return state_accuracies(fastest_session(network), split), {}
    if isinstance(network, GatedNetwork):
        gates = measure_gates(network, split)
        return {"gates": gates["accuracy"]}, gates
    found = {"all blocks": accuracy(network, split)}
    if network.config.iterated:
        found["iterated"] = accuracy(network, split, network.config.iterated)
    return found, {}


def _mean_accuracy(folder: Path) -> float:
    """Return the accuracy that a network was kept for."""
    mean = load_network_facts(folder).about.get("mean")
    if not isinstance(mean, float):
        raise CheckpointError(f"{folder} does not say how accurate it is; start anew")
    return mean


def run_epochs(
    trainer: AnyTrainer,
    epochs: int,
    folder: Path,
    on_step: Callable[[int, float], None],
    after_epoch: Callable[[], None] = lambda: None,
    sizes: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """Train to a number of epochs, and save at the start and after each of them.

    Args:
        trainer: A training, fresh or loaded.
        epochs: Epochs at the end.
        folder: Where the training is saved.
        on_step: See `MainTrainer.train_epoch`.
        after_epoch: Called before the training is saved.
        sizes: Returns the sizes that are saved beside it, see `MetricWriter.sizes`.

    Raises:
        Stopped: A signal came; the training is saved after the step that it was in.
    """
    with finish_step() as stop:

        def save() -> None:
            trainer.save(folder, sizes())
            stop.obey()

        def after_step(step: int, loss: float) -> None:
            on_step(step, loss)
            # A signal to any of the processes ends all of them after the same step.
            stop.number = trainer.processes.largest(stop.number or 0) or None
            if stop and step % trainer.steps_per_epoch:
                save()

        trainer.agree()
        if trainer.steps == 0:
            trainer.save(folder, sizes())
        while trainer.epoch < epochs:
            trainer.train_epoch(after_step)
            after_epoch()
            save()


def report(
    trainer: AnyTrainer,
    splits: Splits,
    folder: Path,
    about: Mapping[str, Any],
    writer: MetricWriter,
) -> None:
    """Measure and export the best network, and print the accuracy of its states.

    Args:
        trainer: The training, at its end.
        splits: The data by name.
        folder: The run's folder, with ``best`` in it, which gets the figures.
        about: What the network's JSON says of the run.
        writer: Where the metrics go.
    """
    meta = remeasure(folder / "best", splits, about, keep=("epoch", "mean"))
    if isinstance(trainer.network, MainNetwork):
        test = meta["state_accuracy"]["test"]
        print("test accuracy by state (bits: layer 1 first, 1 = iterated):")
    else:
        test = meta["accuracy"]["test"]
        print("test accuracy:")
    values = {f"main/test_accuracy/{k}": v for k, v in test.items()}
    writer.scalars(values, trainer.steps)
    print("  " + "  ".join(f"{state} {value:.3f}" for state, value in test.items()))
    if "gates" in meta:
        parts = (f"{name} {value:.3g}" for name, value in meta["gates"]["test"].items())
        print("gates: " + "  ".join(parts))
    print(f"plain pass: {meta['plain_macs']:,} MACs; ", end="")
    print(f"always: {meta['calibrations'][0]['always_extra_macs']:,.0f} more; ", end="")
    print(f"break-even penalty: {meta['break_even_penalty']}")
    print(f"network: {folder / 'best'} (use it as --checkpoint)")


def train_network(
    folder: Path,
    dataset: str,
    splits: Splits,
    config: CoTrainingConfig,
    *,
    seed: int,
    on_step: OnStep,
) -> None:
    """Train a fresh main network and write it with its calibration.

    An interrupted warm-up continues where it was saved last; see `run_epochs`.

    Args:
        folder: Gets ``main``, and ``training`` while it is under way.
        dataset: Name of the data set, whose preset is the architecture.
        splits: Its splits by name.
        config: Its ``main_epochs`` is a number; 0 leaves the network untrained.
        seed: Of initial weights, order and augmentation.
        on_step: Called after every step with its number, all steps, and the loss.
    """
    epochs = config.main_epochs or 0
    architecture = network_config(dataset)
    options = {"epochs": max(epochs, 1), "precision": config.precision, "seed": seed}
    training = training_config(architecture, dataset, **options)
    trainer = new_trainer(architecture, training, splits["main"])
    if is_saved(folder / "training"):
        trainer.load(folder / "training")
    total = epochs * trainer.steps_per_epoch
    run_epochs(
        trainer,
        epochs,
        folder / "training",
        lambda step, loss: on_step(step, total, loss),
    )
    about = {"dataset": dataset, "warm_up_epochs": epochs}
    export(folder / "main", trainer.network.eval(), splits, about)


def remeasure(
    folder: Path, splits: Splits, about: Mapping[str, Any], keep: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure a saved network and write the numbers beside its weights; see `export`.

    During a run its cost unit and break-even stay what they were at the start, so that
    a return means the same from the first decision to the last.

    Args:
        folder: Folder of the network.
        splits: The data by name.
        about: What the network's JSON says of the run.
        keep: Facts in it that stay.
    """
    network, facts = load_network(folder, splits["agent"].labels.device)
    kept = {name: facts.about[name] for name in keep if name in facts.about}
    return export(folder, network, splits, kept | dict(about))
