"""What should a reading know of the reading before? Feedbacks of text layers compared.

    python -m benchmarks.feedbacks

For every feedback and seed a network of the preset `chains` is trained; its lower layer
is then iterated K times. What differs is by what each word is multiplied in the second
half of an LSTM's input: a bounded gate, 4 tanh(W h + b), of what h is the feedback.

Axes: n texts, T words, H hidden units, F features of what is fed back.
"""

import json
from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.readings import levels
from benchmarks.report import table
from benchmarks.trainings import train_to_end
from dynalay_gym.cotraining.new_training import training_config
from dynalay_gym.data.chains import DIGITS
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.layers.reading import (
    LOUDEST,
    ReadingLayer,
    Rereading,
    summary,
)
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import MainTrainer
from dynalay_gym.storage.io import write_json


class Fed(Rereading):
    """A reading that is fed something of the reading before.

    Args:
        in_channels: Channels C of the sequence that is read.
        hidden: Hidden units H.
    """

    def __init__(self, in_channels: int, hidden: int) -> None:
        super().__init__(in_channels, hidden)
        self.feedback = nn.Linear(self.prepare(hidden), in_channels)

    def prepare(self, hidden: int) -> int:
        """Make the weights that `hear` needs; return how many features it gives."""
        return hidden

    @abstractmethod
    def hear(self, z: Tensor) -> Tensor:
        """Return what of a reading [n, H + 1, T, 1] each word gets, [n, T or 1, F]."""

    def gate(self, z: Tensor) -> Tensor:
        """Return by what each word is multiplied; see `Rereading.gate`."""
        return LOUDEST * torch.tanh(self.feedback(self.hear(z)))


class Nothing(Fed):
    """Control: a second reading that knows no more than the first."""

    def hear(self, z: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(states_of(z)[0][:, :1])


class SameWord(Fed):
    """Control: the state at the same word, which knows what stands to its left."""

    def hear(self, z: Tensor) -> Tensor:
        """Return the states."""
        return states_of(z)[0]


class RightMean(Fed):
    """The mean of the states from each word to the end of the text."""

    def hear(self, z: Tensor) -> Tensor:
        """Return means over what stands to the right."""
        sums, words = (part.flip(1).cumsum(1).flip(1) for part in states_of(z))
        return sums / words.clamp(min=1)


class FromTheRight(Fed):
    """States of a second LSTM, which reads those of the first from the right.

    It begins at the end of the batch, so its texts must be equally long.
    """

    def prepare(self, hidden: int) -> int:
        """Make the second LSTM."""
        self.backwards = nn.LSTM(hidden, hidden, batch_first=True)
        return hidden

    def hear(self, z: Tensor) -> Tensor:
        """Return its states."""
        states: Tensor = self.backwards(states_of(z)[0].flip(1))[0]
        return states.flip(1)


class Attended(Fed):
    """Each word asks, and the states answer: attention with one head."""

    def prepare(self, hidden: int) -> int:
        """Make queries and keys."""
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        return hidden

    def hear(self, z: Tensor) -> Tensor:
        """Return means of the states, weighted by how well they fit the word's own."""
        states, is_word = states_of(z)
        fit = self.query(states) @ self.key(states).mT / states.shape[2] ** 0.5
        weights = fit.masked_fill(is_word.mT == 0, -torch.inf).softmax(2)
        answers: Tensor = weights.nan_to_num() @ states  # without words, no weights
        return answers


class AnswerSoFar(Fed):
    """Probabilities of the five answers, of a head of the layer's own."""

    def prepare(self, hidden: int) -> int:
        """Make the head."""
        self.head = nn.Linear(2 * hidden, len(DIGITS))
        return len(DIGITS)

    def hear(self, z: Tensor) -> Tensor:
        """Return the probabilities."""
        answer: Tensor = self.head(2 * summary(z) - 1).softmax(1)
        return answer[:, None]


FEEDBACKS: dict[str, type[Rereading]] = {
    "nothing": Nothing,
    "the state at the same word": SameWord,
    "the mean from the word to the end": RightMean,
    "the states read from the right": FromTheRight,
    "states that the word attends to": Attended,
    "the answer so far": AnswerSoFar,
    "last state and mean (ours)": Rereading,
}


def states_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return states in (-1, 1) [n, T, H] of a reading, and what is a word [n, T, 1]."""
    maps = z[..., 0].movedim(1, 2)
    is_word = maps[..., -1:]
    return (2 * maps[..., :-1] - 1) * is_word, is_word


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a network for each feedback, and print how right they are."""

    feedbacks: tuple[str, ...] = tuple(FEEDBACKS)
    """Which ones."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the networks."""
    epochs: int = 16
    """Passes over the main split."""
    results: Path | None = None
    """JSON file of the figures; those that it has are kept."""


def main(args: Args) -> None:
    """Train what is missing, measure, print."""
    torch.set_num_threads(1)
    splits = {name: load_split("chains", name) for name in ("main", "test")}
    unknown = sorted(set(args.feedbacks) - set(FEEDBACKS))
    if unknown:
        raise ConfigError(f"unknown feedbacks {unknown}; choose of {[*FEEDBACKS]}")
    rows: list[dict[str, Any]] = []
    if args.results is not None and args.results.exists():
        kept = json.loads(args.results.read_text("utf-8"))
        if kept["epochs"] != args.epochs:
            raise ConfigError(f"{args.results} is of other epochs; give another file")
        rows = kept["rows"]
    for name, seed in product(args.feedbacks, args.seeds):
        if any((row["feedback"], row["seed"]) == (name, seed) for row in rows):
            continue
        network = new_network(FEEDBACKS[name], splits["main"], seed)
        minutes = train(network, splits["main"], args.epochs, seed)
        facts = {"feedback": name, "seed": seed, "minutes": minutes}
        rows.append(facts | measure(network, splits["test"]))
        if args.results is not None:
            write_json(args.results, {"epochs": args.epochs, "rows": rows})
        print(f"{name}, seed {seed}: {minutes:.1f} minutes", flush=True)
    print(table(COLUMNS, rows))


def new_network(feedback: type[Rereading], data: Split, seed: int) -> MainNetwork:
    """Return an untrained network, all layers of which are fed this feedback."""
    torch.manual_seed(seed)
    spec = dataset_spec("chains")
    config = make_config(spec.preset, spec.in_shape, spec.num_classes)
    network = MainNetwork(replace(config, vocabulary=data.vocabulary))
    for layer in network.main_layers:
        assert isinstance(layer, ReadingLayer)
        layer.recurrence = feedback(layer.in_channels, layer.hidden)
    return network


def train(network: MainNetwork, data: Split, epochs: int, seed: int) -> float:
    """Train as the network that ships was; return the processor's minutes."""
    options: Any = {"epochs": epochs, "seed": seed} | OPTIONS
    config: Any = training_config(network.config, "chains", **options)
    return train_to_end(MainTrainer(network, data, config))


@torch.no_grad()
def measure(network: MainNetwork, split: Split) -> dict[str, float]:
    """Return accuracy in %, by how often the lower layer has read once more."""
    found = {}
    for layers, steps, right in levels(network.eval(), split):
        if layers in ("none", "1"):
            found[f"K = {steps}"] = float(right.mean())
    return found


# Those of the network that ships.
OPTIONS = {"batch_size": 256, "learning_rate": 1e-2, "weight_decay": 1e-3}
COLUMNS = {
    "fed back": ("feedback", ""),
    "seed": ("seed", "d"),
    **{f"K = {k}, %": (f"K = {k}", ".1f") for k in (0, 1, 2, 3, 8)},
    "minutes": ("minutes", ".1f"),
}


if __name__ == "__main__":
    main(tyro.cli(Args))
