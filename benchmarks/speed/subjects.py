"""The networks that are measured: trained where there is one, else random."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.common import Options
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config

_NUM_RANDOM = 2048


@dataclass(frozen=True)
class Subject:
    """A network and its samples.

    Attributes:
        name: Name of the preset.
        about: What it is, for the tables.
        network: The network.
        env: Keywords of an environment over its agent split.
        inputs: Samples of the test split.
    """

    name: str
    about: str
    network: MainNetwork
    env: dict[str, Any]
    inputs: Tensor


def load_subject(name: str, options: Options) -> Subject:
    """Return the network of a preset; random weights unless there is a trained one."""
    if name != "digits" and options.checkpoint is None:
        network, split = random_network(name)
        env = {"checkpoint": network, "split": split, "penalty": 0.1}
        about, inputs = "random weights and images", split.inputs
    else:
        dataset, folder = options.dataset, options.checkpoint
        if name == "digits":
            dataset, folder = name, SHIPPED / name
        assert folder is not None
        network, _ = load_main_network(folder, options.device)
        files = {"data_dir": options.data_dir}
        env = {"dataset": dataset, "checkpoint": folder, **files}
        inputs = load_split(dataset, "test", data_dir=options.data_dir).inputs
        about = f"trained on {dataset}"
    env["device"] = options.device
    return Subject(name, about, network.to(options.device), env, inputs)


def random_network(preset: str) -> tuple[MainNetwork, Split]:
    """Return random weights and images: times mean something, accuracies nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MainNetwork(make_config(preset, (3, 32, 32), 10))
        images = torch.randn(_NUM_RANDOM, 3, 32, 32)
    number = torch.arange(_NUM_RANDOM)
    split = Split(inputs=images, labels=number % 10, groups=number, name="random")
    return network, split
