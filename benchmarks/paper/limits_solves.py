"""What solves keep in memory, and whether they converge: two of DynaLay's limitations.

A measure finds entries, JSON-able dicts that differ from seed to seed in their numbers
alone. Networks are in the state in which every layer is iterated.

Axes: n samples.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from weakref import finalize

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from benchmarks.paper.agent_runs import shared_network
from benchmarks.paper.experiment import Setting, shared_folder
from dynalay_gym.cotraining.new_training import network_config
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.base import LayerState
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork

Entry = dict[str, Any]

BATCH = 16  # samples of a batch whose memory or time is measured
STEPS = (1, 2, 4, 8, 16, 32)  # iterations of a solve whose memory is measured
COMMON = SolverConfig(rtol=1e-4, max_steps=100)  # the same for all forms
NEVER = 1e-30  # a tolerance that only an iterate that stands still meets
_KAPPAS = (0.5, 0.8, 0.9, 0.95)
_SAMPLES = 50  # whose solves are looked at
# What makes the map of each form nonlinear.
_MAPS = {
    "state": "ReLU",
    "wide": "ReLU",
    "planner": "maximum",
    "text": "LSTM",
    "attention": "softmax",
}


def memory(setting: Setting, seed: int, folder: Path) -> list[Entry]:
    """Return what a training step keeps for a sample, by the iterations of its solves.

    Returns:
        Of each number of ``steps``: ``taken``, how many of them a solve took in the
        mean, and by the name of each gradient rule the bytes that a sample adds; what
        the weights need by themselves is left out.
    """
    data, found = setting.splits()["main"], []
    network = fresh(config_for(setting, data), seed).train()
    for steps in STEPS:
        entry: Entry = {"steps": steps}
        for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
            solver = SolverConfig(rtol=NEVER, max_steps=steps, rule=rule)
            once, entry["taken"] = kept_bytes(network, data, BATCH, solver)
            twice, _ = kept_bytes(network, data, 2 * BATCH, solver)
            entry[rule.value] = (twice - once) / BATCH
        found.append(entry)
    return found


def convergence(setting: Setting, seed: int, folder: Path) -> list[Entry]:
    """Return how solves end, by form and bound, and in the trained network.

    Returns:
        Of each network and layer its ``form``, ``map`` and ``weights``, and, where the
        map has a bound, ``kappa``; tolerance ``rtol`` and most iterations ``allowed``;
        and what `solves_of` says, also by the options of `COMMON`: ``common capped``
        and so on.
    """
    shared = shared_network(setting, seed, shared_folder(setting, folder))
    test, found = setting.splits()["test"], []
    for config in forms(setting, test):
        for kappa in _kappas(config):
            network = fresh(replace(config, kappa=kappa), seed)
            found += solves_on(network, test, "fresh")
    return found + solves_on(load_main_network(shared)[0], test, "trained")


class KeptBytes(saved_tensors_hooks):
    """Counts what autograd keeps for the backward passes of all that runs inside.

    A storage that several operations keep counts once, until the last of them has let
    go of it. What a solver holds for a moment is not kept, and does not count.

    Args:
        apart: Tensors whose storages do not count.

    Attributes:
        now: Bytes that are kept.
        most: The most that were kept at a time.
    """

    def __init__(self, apart: Iterable[Tensor] = ()) -> None:
        super().__init__(self._keep, lambda kept: kept.tensor)
        self._apart = {each.untyped_storage().data_ptr() for each in apart}
        self._users = Counter[int]()
        self.now = self.most = 0

    def _keep(self, tensor: Tensor) -> "_Kept":
        kept, storage = _Kept(tensor.detach()), tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if pointer not in self._apart:
            self.now += size if self._users[pointer] == 0 else 0
            self.most = max(self.most, self.now)
            self._users[pointer] += 1
            finalize(kept, self._let_go, pointer, size)
        return kept

    def _let_go(self, pointer: int, size: int) -> None:
        self._users[pointer] -= 1
        self.now -= size if self._users[pointer] == 0 else 0


@dataclass(eq=False)
class _Kept:
    """A tensor that is kept; it lives as long as the operation that needs it."""

    tensor: Tensor


def kept_bytes(
    network: MainNetwork, data: Split, num: int, solver: SolverConfig
) -> tuple[int, float]:
    """Return what the forward and the backward pass of a batch keep.

    Args:
        network: The network.
        data: The split whose first samples are the batch.
        num: Samples of the batch.
        solver: Options of every solve.

    Returns:
        The most bytes at a time, beside weights, samples and classes; and the mean
        number of iterations of a solve.
    """
    images, labels = data.inputs[:num], data.labels[:num]
    kept = KeptBytes([*network.parameters(), images, labels])
    with kept:
        top, solves = iterate_all(network, images, solver)
        logits = network.classify(top, 2**network.num_layers - 1)
        F.cross_entropy(logits, labels).backward()
    network.zero_grad()
    taken = torch.stack([each.num_steps for each in solves])
    return kept.most, float(taken.double().mean())


def iterate_all(
    network: MainNetwork, inputs: Tensor, solver: SolverConfig | None = None
) -> tuple[LayerState, list[SolveResult]]:
    """Iterate every layer; return the last one's state, and all solves.

    Args:
        network: The network.
        inputs: Samples [n, ...].
        solver: Options of every solve; the network's own if None.
    """
    below, solves = network.stem(inputs), []
    for level, layer in enumerate(network.main_layers):
        pattern, own = 2**level - 1, solver or network.solvers[level]
        plain = layer.plain(below, pattern)
        below, solve = layer.iterate(below, plain, pattern, own)
        solves.append(solve)
    return below, solves


def solves_on(network: MainNetwork, split: Split, weights: str) -> list[Entry]:
    """Return the entries of a network for `convergence`, over some of a split."""
    config = network.config
    about: Entry = {"form": config.form, "map": _MAPS[config.form], "weights": weights}
    if config.form != "text":
        about["kappa"] = config.kappa
    inputs = some_of(split)
    own, common = solves_of(network, inputs), solves_of(network, inputs, COMMON)
    return [
        about
        | {"layer": level + 1, "rtol": solver.rtol, "allowed": solver.max_steps}
        | own[level]
        | {f"common {name}": value for name, value in common[level].items()}
        for level, solver in enumerate(network.solvers)
    ]


@torch.no_grad()
def solves_of(
    network: MainNetwork, inputs: Tensor, solver: SolverConfig | None = None
) -> list[Entry]:
    """Return how solves of samples [n, ...] end, an entry of each layer.

    Args:
        network: The network.
        inputs: The samples.
        solver: Options of every solve; the network's own if None.

    Returns:
        ``iterations`` in the mean and the ``largest`` number of them; and samples in %
        that are ``capped``: stopped, for whatever reason, before they have converged.
    """
    entries = []
    for solve in iterate_all(network.freeze(), inputs, solver)[1]:
        is_capped = solve.status != SolverStatus.CONVERGED
        entries.append(
            {
                "iterations": float(solve.num_steps.double().mean()),
                "largest": int(solve.num_steps.max()),
                "capped": 100 * float(is_capped.double().mean()),
            }
        )
    return entries


def some_of(split: Split) -> Tensor:
    """Return a few samples from all over a split, [n, ...]."""
    return split.inputs[:: max(1, len(split) // _SAMPLES)][:_SAMPLES]


def forms(setting: Setting, data: Split) -> list[MainNetworkConfig]:
    """Return an architecture of every form that fits the data, the setting's first."""
    presets = [setting.preset, None]
    if len(dataset_spec(setting.dataset).in_shape) == 3:
        presets.append("paper")
    found = dict[str, MainNetworkConfig]()
    for preset in presets:
        config = config_for(replace(setting, preset=preset), data)
        found.setdefault(config.form, config)
    return [*found.values()]


def config_for(setting: Setting, data: Split) -> MainNetworkConfig:
    """Return the setting's architecture; that of a text network knows the words."""
    config = cast(MainNetworkConfig, network_config(setting.dataset, setting.preset))
    return replace(config, vocabulary=data.vocabulary)


def fresh(config: MainNetworkConfig, seed: int) -> MainNetwork:
    """Return a network with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return MainNetwork(config).eval()


def _kappas(config: MainNetworkConfig) -> list[float]:
    """Return the bounds to try, an architecture's own among them; texts have none."""
    own = config.kappa
    return [own] if config.form == "text" else sorted({*_KAPPAS, own})
