"""DynaLay's table 1: time of the backward passes, and accuracy, against peers.

All arms have the same stem, widths, data and epochs. ``3-layer CNN`` is the plain pass;
``all layers`` iterates every layer for every sample; ``DynaLay`` is trained for all
states, in each step the plain, the full and a random one, and an agent chooses among
them when it is tested. The DEQs iterate
everything, too, trained by the solvers of torchdeq and implicit gradients, and tested
by plain iteration. The other arms choose among the states of DynaLay's network, so
their times are its: a threshold on the entropy, everything or nothing by a coin that
takes as much compute as the agent, and `selectors`. What learns to choose is not in the
times.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.paper.agent_runs import agent_penalty, shared_network, unit_run
from benchmarks.paper.deq import check_solvable, solve_by
from benchmarks.paper.experiment import (
    Experiment,
    Setting,
    arms_of,
    dots,
    mean_and_range,
    of_arm,
    shared_folder,
)
from benchmarks.paper.measures import answers
from benchmarks.paper.networks import Trained, trained
from benchmarks.paper.selectors import Gumbel, PonderNet, Selector, best_outcome
from benchmarks.report import Columns, Row, Table
from dynalay_gym.envs.config import EnvConfig
from dynalay_gym.networks.checkpoint import load_main_network, load_network_facts
from dynalay_gym.sessions.torch_session import TorchSession

# The state that each arm trains, and the solver of a DEQ.
_TRAINED: dict[str, tuple[int, str | None]] = {
    "3-layer CNN": (0, None),
    "all layers": (7, None),
    "DEQ Anderson": (7, "anderson"),
    "DEQ Broyden": (7, "broyden"),
}
# Policies on DynaLay's network, by the names that the evaluation has for them.
_POLICIES = {"DynaLay": "ppo", "entropy rule": "entropy", "random": "random-mix"}
# Selectors on it, and the weights among which the validation split chooses.
SELECTORS: dict[str, tuple[type[Selector], tuple[float, ...]]] = {
    "Gumbel selector": (Gumbel, (0.003, 0.01, 0.03, 0.1, 0.3)),
    "PonderNet": (PonderNet, (0.2, 0.4, 0.6, 0.8, 0.95)),
}


class Table1(Experiment):
    """Backward passes and accuracy; see `Experiment`."""

    name = "table1"
    title = "Backward passes and accuracy"
    arms = (*_TRAINED, *_POLICIES, *SELECTORS)
    layers = 3

    def check(self, setting: Setting) -> None:
        """Raise ConfigError for texts, and without torchdeq."""
        super().check(setting)
        check_solvable(setting)

    def run(
        self, arm: str, seed: int, setting: Setting, folder: Path
    ) -> dict[str, Any]:
        """Train a network, timed; measure it on the test set, DynaLay by its agent."""
        if arm in _TRAINED:
            found, test = _alone(arm, seed, setting, folder)
        else:
            found, test = _on_the_shared_network(arm, seed, setting, folder)
        return {
            "accuracy": test["accuracy"],
            "compute": test["compute"],
            "minutes": found.minutes / len(found.epochs),
            "backward minutes": found.backward / len(found.epochs),
        }

    def tables(self, rows: Sequence[Row], setting: Setting) -> list[Table]:
        """Return the means of each arm."""
        found = []
        for arm in arms_of(rows):
            own = of_arm(rows, arm)
            row: dict[str, Any] = {"arm": arm}
            for key in ("accuracy", "compute"):
                row[key] = mean_and_range([each[key] for each in own])
            for key in ("minutes", "backward minutes"):
                row[key] = mean_and_range([60 * each[key] for each in own])
            found.append(row)
        notes = (
            "Test accuracy, compute in plain passes; the processor's seconds of an "
            "epoch and of its backward passes; means over seeds, lowest and highest in "
            "brackets."
        )
        return [Table(self.title, notes, _COLUMNS, found)]

    def draw(self, rows: Sequence[Row], setting: Setting) -> Figure:
        """Return backward seconds and accuracy, a dot per network."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        times, accuracies = figure.subplots(1, 2)
        dots(times, rows, lambda row: 60 * row["backward minutes"])
        times.set_ylabel("backward passes, s per epoch")
        dots(accuracies, rows, lambda row: row["accuracy"])
        accuracies.set_ylabel("test accuracy, %")
        return figure


def _alone(
    arm: str, seed: int, setting: Setting, folder: Path
) -> tuple[Trained, dict[str, float]]:
    """Train a network for one state, and return what it answers there."""
    state, solver = _TRAINED[arm]
    splits, how = setting.splits(), dict[str, Any]()
    if solver is not None:
        how["prepare"] = partial(solve_by, method=solver)
    own = folder / "network"
    found = trained(setting, splits["main"], (state,), seed, own, **how)
    return found, answers(found.network, splits["test"], state)[0]


def _on_the_shared_network(
    arm: str, seed: int, setting: Setting, folder: Path
) -> tuple[Trained, dict[str, float]]:
    """Return DynaLay's network, and what a policy or a selector makes of it."""
    network = shared_network(setting, seed, shared_folder(setting, folder))
    splits = setting.splits()
    found = trained(setting, splits["main"], None, seed, network.parent / "network")
    if arm in _POLICIES:
        return found, unit_run(setting, seed, folder)["test"][_POLICIES[arm]]
    worth = worth_of_a_pass(setting, network)
    session = TorchSession(load_main_network(network)[0])
    return found, best_outcome(*SELECTORS[arm], session, splits, worth, seed)


def worth_of_a_pass(setting: Setting, network: Path) -> float:
    """Return how many points of accuracy cost as much as a plain pass of compute.

    Args:
        setting: Data of the environment whose reward says so, at its break-even.
        network: Folder of the network.
    """
    facts: Any = load_network_facts(network)
    everything = facts.calibrations[0]["always_extra_macs"] / facts.about["plain_macs"]
    return 100 * agent_penalty(setting, network) / EnvConfig.alpha / float(everything)


_COLUMNS: Columns = {
    "arm": ("arm", ""),
    "accuracy, %": ("accuracy", ".2f"),
    "compute": ("compute", ".2f"),
    "backward, s per epoch": ("backward minutes", ".1f"),
    "epoch, s": ("minutes", ".1f"),
}
