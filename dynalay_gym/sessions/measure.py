"""What a checkpoint says about its network: accuracy, costs, break-even penalty.

Axes: n samples, L layers, S states.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.data.registry import DATASETS
from dynalay_gym.data.splits import Split
from dynalay_gym.networks.checkpoint import Network, save_network
from dynalay_gym.networks.lcnet.diagnostics import measure_gates
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.sessions.calibration import BATCH, Calibration, calibrate
from dynalay_gym.sessions.fastest import as_session, fastest_session
from dynalay_gym.sessions.protocol import FiniteSession, NetworkSession, begin_macs


def state_name(state_id: int, num_layers: int) -> str:
    """Return the bits of a state, layer 1 first: 0b001 of three layers is ``"100"``."""
    return f"{state_id:0{num_layers}b}"[::-1]


@torch.no_grad()
def accuracy(
    network: ResidualNetwork, split: Split, iterated: Collection[int] = ()
) -> float:
    """Return the share of a split that a network answers rightly, in its eval mode.

    Args:
        network: The network; it stays in the mode that it is in.
        split: Samples on its device.
        iterated: Blocks that are iterated; see `ResidualNetwork.forward`.
    """
    was_training = network.training
    network.eval()
    logits = [network(inputs, iterated) for inputs in split.inputs.split(BATCH)]
    network.train(was_training)
    return float((torch.cat(logits).argmax(1) == split.labels).double().mean())


def state_accuracies(session: FiniteSession, split: Split) -> dict[str, float]:
    """Return the accuracy in every state of a main network, by `state_name`.

    Args:
        session: Runs the main network.
        split: Samples on the session's device.
    """
    accuracies, _ = _measure_states(session, split)
    num_layers = len(session.action_names) - 1
    return {state_name(i, num_layers): value for i, value in enumerate(accuracies)}


def _measure_states(
    session: FiniteSession, split: Split
) -> tuple[list[float], list[float]]:
    """Return accuracy and mean iterations of every state over a split, each [S]."""
    num_states = len(session.next_state)
    totals = torch.zeros(2, num_states, dtype=torch.int64)
    for start in range(0, len(split), BATCH):
        inputs = split.inputs[start : start + BATCH]
        labels = split.labels[start : start + BATCH]
        rows = torch.arange(len(inputs), device=session.device)
        plain = session.begin(inputs)
        for number in range(num_states):
            state = plain.clone()
            cost = session.reach(state, rows, torch.full_like(rows, number))
            right = session.logits(state, rows).argmax(1) == labels
            totals[0, number] += int(right.sum())
            totals[1, number] += int(cost.solver_steps.sum())
    accuracies, steps = (totals.double() / len(split)).tolist()
    return accuracies, steps


def export(
    folder: Path,
    network: Network,
    splits: Mapping[str, Split],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a network with all that an environment wants to know of it.

    Args:
        folder: Where the checkpoint goes.
        network: The network; it stays as it is.
        splits: By name; ``agent`` is what costs and penalty are measured on. The
            accuracy of every state of a main network, and of others without and with
            all their blocks, with blocks iterated and as their gates say, is stored for
            each of them.
        facts: Further facts for the JSON. Where ``dataset`` names one whose environment
            takes portions, their costs are measured beside those of whole solves.

    Returns:
        What was written beside the weights, without the further facts.
    """
    if isinstance(network, MainNetwork):
        about, calibrations = _measure_main(network, splits, facts)
    else:
        about, calibrations = _measure_blocks(network, splits)
    units = tuple(calibration.to_dict() for calibration in calibrations)
    about["break_even_penalty"] = calibrations[0].break_even(alpha=0.5)
    save_network(folder, network, about | dict(facts), units)
    return about | {"calibrations": units}


def _measure_main(
    network: MainNetwork, splits: Mapping[str, Split], facts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Calibration]]:
    session = fastest_session(network)
    calibrations = [calibrate(session, splits["agent"])]
    known = DATASETS.get(facts.get("dataset", ""))
    if known is not None and known.iterations_per_action is not None:
        portion = known.iterations_per_action
        portions = fastest_session(network, iterations_per_action=portion)
        calibrations.append(calibrate(portions, splits["agent"]))
    about = {
        "plain_macs": round(begin_macs(session, splits["agent"].inputs).mean()),
        "solver_steps": _measure_states(session, splits["agent"])[1],
        "state_accuracy": {
            name: state_accuracies(session, split) for name, split in splits.items()
        },
    }
    return about, calibrations


def _measure_blocks(
    network: ResidualNetwork | GatedNetwork, splits: Mapping[str, Split]
) -> tuple[dict[str, Any], list[Calibration]]:
    session: Any = as_session(network)
    found = {name: calibrate(session, split) for name, split in splits.items()}
    accuracies = {
        name: {"no blocks": each.plain_accuracy, "all blocks": each.always_accuracy}
        for name, each in found.items()
    }
    backbone = network.backbone if isinstance(network, GatedNetwork) else network
    if backbone.config.iterated:
        for name, split in splits.items():
            share = accuracy(backbone, split, backbone.config.iterated)
            accuracies[name]["iterated"] = share
    about = {"plain_macs": session.plain_macs, "accuracy": accuracies}
    if isinstance(network, ResidualNetwork):
        return about | {"macs": network.macs}, [found["agent"]]
    gates = {
        name: measure_gates(session.network, each) for name, each in splits.items()
    }
    for name, each in gates.items():
        accuracies[name]["gates"] = each["accuracy"]
    return about | {"macs": network.open_macs, "gates": gates}, [found["agent"]]


def row_bytes(session: NetworkSession, sample: Tensor) -> int:
    """Return the memory that a session keeps of every row, in bytes.

    Args:
        session: Any session.
        sample: One input [1, ...] on its device.
    """
    kept = []
    for num_rows in (1, 2):  # what does not grow with the rows is no part of it
        rows = torch.arange(num_rows, device=session.device)
        state = session.begin(sample.repeat_interleave(num_rows, 0))
        for action in session.full_plan:
            session.apply(state, rows, torch.full_like(rows, action))
        kept.append(_num_bytes(state))
    return kept[1] - kept[0]


def _num_bytes(value: Any) -> int:
    """Return the bytes of all tensors and arrays inside a value."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return sum(map(_num_bytes, getattr(value, "__dict__", {}).values()))
