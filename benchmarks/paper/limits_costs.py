"""What an agent takes, and how networks grow: two of DynaLay's limitations.

A measure finds entries, JSON-able dicts that differ from seed to seed in their numbers
alone.

Axes: n samples, L layers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.environments import make_envs
from agents.options import Options
from agents.registry import make_agent
from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.experiment import Setting, shared_folder
from benchmarks.paper.limits_solves import (
    BATCH,
    NEVER,
    Entry,
    config_for,
    fresh,
    iterate_all,
    solves_on,
)
from benchmarks.paper.networks import trained
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork

ITERATIONS = 10  # of each solve, where networks of different sizes are compared
_PENALTY = "0.1"  # of compute; what the agent's learning takes does not depend on it
_REPEATS = 5  # of what is timed


def agent(setting: Setting, seed: int, folder: Path) -> list[Entry]:
    """Return what a PPO agent takes, beside the network that it decides for.

    Returns:
        ``part`` and, where they mean something, its ``parameters``, its ``macs`` (of a
        decision, a plain pass or a solve) and the processor's ``minutes`` of its
        training; and all of them in % of the network's, of its plain pass and of its
        training: ``parameters share`` and so on.
    """
    shared = shared_network(setting, seed, shared_folder(setting, folder))
    main = setting.splits()["main"]
    training = trained(setting, main, None, seed, shared.parent / "network")
    network = load_main_network(shared)[0]
    base: Entry = {
        "part": "network, plain pass",
        "parameters": _num_parameters(network),
        "macs": CostTable.of(network).plain_pass,
        "minutes": training.minutes,
    }
    found = [*agent_entries(setting, seed, shared), base]
    found += solve_entries(setting, network)
    for entry in found:
        names = [name for name in entry if name != "part"]
        entry |= {f"{each} share": 100 * entry[each] / base[each] for each in names}
    return found


def growth(setting: Setting, seed: int, folder: Path) -> list[Entry]:
    """Return what networks of other sizes cost; those that cannot be are left out.

    Returns:
        ``what`` has been changed and its ``size``; of one sample the multiply-adds of
        the ``plain`` pass and of everything ``iterated``, and the processor's ``plain
        minutes`` and ``iterated minutes``.
    """
    test, found = setting.splits()["test"], []
    config = replace(config_for(setting, test), rtol=NEVER, max_steps=ITERATIONS)
    for what, size, changes in sizes(config):
        try:
            network = fresh(replace(config, **changes), seed)
        except ConfigError:
            continue
        entry = {"what": what, "size": size}
        found.append(entry | cost_of(network, test.inputs[:BATCH]))
    return found


def agent_entries(setting: Setting, seed: int, network: Path) -> list[Entry]:
    """Train a PPO agent on the table of a network's states; see `agent`."""
    options = Options(
        algo="ppo",
        dataset=setting.dataset,
        checkpoint=network,
        data_dir=setting.data_dir,
    )
    config = options.config()
    how: Any = {"transitions": "table", "output": config.output}
    envs = make_envs(options, "agent", _PENALTY, config.num_envs, **how)
    learner: Any = make_agent(envs, config, seed=seed)
    learner.model.train = updates = Stopwatch(learner.model.train)
    learn = Stopwatch(learner.learn)
    learn(setting.decisions or config.total_timesteps)
    own = {
        "part": "agent",
        "parameters": _num_parameters(learner.module),
        "macs": learner.policy.macs_per_decision,
        "minutes": learn.minutes,
    }
    return [own, {"part": "agent, its updates alone", "minutes": updates.minutes}]


def solve_entries(setting: Setting, network: MainNetwork) -> list[Entry]:
    """Return what a solve of each layer costs on test samples; see `agent`."""
    found = []
    for each in solves_on(network, setting.splits()["test"], "trained"):
        macs = solve_macs(network, each["layer"], each["iterations"])
        part = f"network, a solve of layer {each['layer']}"
        found.append({"part": part, "macs": macs})
    return found


class Stopwatch:
    """Calls a function, and adds up what it takes.

    Args:
        function: The function.

    Attributes:
        minutes: The processor's minutes so far.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self.minutes = 0.0

    def __call__(self, *args: Any) -> None:
        """Call it; what it returns is dropped."""
        start = time.process_time()
        self._function(*args)
        self.minutes += (time.process_time() - start) / 60


def sizes(config: MainNetworkConfig) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield what of a network is changed, to which size, and the fields for it."""
    for factor in (1, 2, 4):
        yield "width", factor, wider(config, factor)
    for layers in (1, 2, 3, 4):
        yield "depth", layers, deeper(config, layers)
    if len(config.in_shape) == 3:
        for side in (8, 16, 32):
            yield "resolution", side, {"in_shape": (config.in_shape[0], side, side)}


def wider(config: MainNetworkConfig, factor: int) -> dict[str, Any]:
    """Return the fields of a network that is so many times as wide."""
    return {
        "stem": factor * config.stem,
        "channels": tuple(factor * width for width in config.channels),
        "hidden": tuple(factor * width for width in config.hidden),
    }


def deeper(config: MainNetworkConfig, layers: int) -> dict[str, Any]:
    """Return the fields of a network of so many layers.

    They are the first ones; more of them are like the last, without its stride.
    """
    found = {}
    for name in ("channels", "strides", "hidden", "pools", "views"):
        own = getattr(config, name)
        more = (1,) if own and name == "strides" else own[-1:]
        found[name] = (own + more * layers)[:layers]
    return found


@torch.no_grad()
def cost_of(network: MainNetwork, inputs: Tensor) -> Entry:
    """Return what a network costs for a sample of [n, ...]; see `growth`."""
    network.freeze()
    if inputs.dim() == 4:  # images, in the size that the network takes
        inputs = F.interpolate(inputs, network.config.in_shape[1:])
    plain, layers = CostTable.of(network).plain_pass, range(network.num_layers)
    solves = sum(solve_macs(network, level + 1, ITERATIONS) for level in layers)
    return {
        "plain": plain,
        "iterated": plain + solves,
        "plain minutes": _minutes(lambda: network(inputs)) / len(inputs),
        "iterated minutes": _minutes(lambda: _answer(network, inputs)) / len(inputs),
    }


def solve_macs(network: MainNetwork, layer: int, iterations: float) -> float:
    """Return the multiply-adds of a solve of a layer (1..L) above iterated ones."""
    costs = CostTable.of(network).layers[layer - 1]
    return costs.setup[layer > 1] + costs.iteration * iterations


def _answer(network: MainNetwork, inputs: Tensor) -> Tensor:
    """Return logits of everything iterated, as a network's call does of the plain."""
    top, _ = iterate_all(network, inputs)
    return network.classify(top, 2**network.num_layers - 1)


def _num_parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _minutes(call: Callable[[], object]) -> float:
    """Return the processor's minutes of a call, the least of several."""
    times = []
    for _ in range(_REPEATS):
        watch = Stopwatch(call)
        watch()
        times.append(watch.minutes)
    return min(times)
