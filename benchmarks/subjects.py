"""The networks that are measured: trained where there is one, else random."""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import Options
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config

_NUM_RANDOM = 2048


@dataclass(frozen=True)
class Subject:
    """A network and its samples.

    Attributes:
        name: Name of the preset.
        about: What it is, for the tables.
        model: The network.
        env: Keywords of an environment over its agent split.
        test: Samples of the test split.
    """

    name: str
    about: str
    model: MainNetwork
    env: dict[str, Any]
    test: Split


def load_subject(name: str, options: Options) -> Subject:
    """Network of a preset; random weights unless there is a trained one."""
    device = {"device": options.device}
    if name == "digits":
        model, _ = load_network(SHIPPED / "digits", options.device)
        test = load_split("digits", "test")
        return Subject(name, "shipped network", model, device, test)
    if options.checkpoint is None:
        return _random_subject(name, options)
    model, _ = load_network(options.checkpoint, options.device)
    env = {
        "dataset": options.dataset,
        "checkpoint": str(options.checkpoint),
        "data_dir": None if options.data_dir is None else str(options.data_dir),
    }
    test = load_split(options.dataset, "test", data_dir=options.data_dir)
    return Subject(name, f"trained on {options.dataset}", model, device | env, test)


def _random_subject(name: str, options: Options) -> Subject:
    """Random weights and images: times mean something, accuracies nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MainNetwork(make_config(name, (3, 32, 32), 10)).to(options.device)
        images = torch.randn(_NUM_RANDOM, 3, 32, 32)
    number = torch.arange(_NUM_RANDOM)
    split = Split(inputs=images, labels=number % 10, groups=number, name="random")
    env = {"checkpoint": model, "split": split, "penalty": 0.1}
    about = "random weights and images"
    return Subject(name, about, model, env | {"device": options.device}, split)
