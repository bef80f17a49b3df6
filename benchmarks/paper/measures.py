"""What a main network answers in one of its states, by the iterations of its solves.

Axes: n samples, K iterations.
"""

from dataclasses import replace
from itertools import pairwise
from math import exp
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.calibration import BATCH
from dynalay_gym.sessions.protocol import begin_macs
from dynalay_gym.sessions.torch_session import TorchSession

_SAMPLES = 1_000  # from all over the split, on which the contraction is measured


@torch.no_grad()
def measure(network: MainNetwork, split: Split, state_id: int) -> dict[str, Any]:
    """Return what a network answers in a state, at each number of iterations.

    Returns:
        ``plain`` and ``K = 0``, ``K = 1``, ...: `answers` in the plain pass, and with
        solves of at most so many iterations. ``gain``: by how much the loss is less at
        the most iterations than at none, nats, with an interval over groups of samples.
        ``contraction`` of each iterated layer.
    """
    most = max(network.config.layer_steps)
    found: dict[str, Any] = {"plain": answers(network, split, 0, 0)[0]}
    losses = []
    for steps in range(most + 1) if state_id else (0,):
        found[f"K = {steps}"], loss = answers(network, split, state_id, steps)
        losses.append(loss)
    less = (losses[0] - losses[-1]).double().numpy()
    low, high = bootstrap_interval(less, split.groups.numpy())
    found["gain"] = {"mean": float(less.mean()), "low": low, "high": high}
    found["contraction"] = [
        contraction(network, split.inputs[:: max(1, len(split) // _SAMPLES)], level)
        for level in range(network.num_layers)
        if state_id >> level & 1
    ]
    return found


def answers(
    network: MainNetwork, split: Split, state_id: int, steps: int | None = None
) -> tuple[dict[str, float], Tensor]:
    """Return means over a split in one state, with solves of at most some steps.

    Args:
        network: The network.
        split: The split.
        state_id: The state.
        steps: Most iterations of a solve; None leaves them to the network.

    Returns:
        Accuracy in %, cross-entropy in nats, the perplexity (its exponential), compute
        in plain passes, iterations, and solves that converged in %; and the
        cross-entropy of each sample, [n].
    """
    session = TorchSession(network, max_steps=steps)
    totals, plain, losses = torch.zeros(4, dtype=torch.float64), 0, []
    for start in range(0, len(split), BATCH):
        batch = slice(start, start + BATCH)
        inputs, labels = split.inputs[batch], split.labels[batch]
        state, rows = session.begin(inputs), torch.arange(len(inputs))
        cost = session.reach(state, rows, torch.full_like(rows, state_id))
        logits = session.logits(state, rows)
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        right = (logits.argmax(1) == labels).sum()
        ended = (cost.status == SolverStatus.CONVERGED).sum()
        sums = right, cost.macs.sum(), cost.solver_steps.sum(), ended
        totals += torch.tensor([float(each) for each in sums], dtype=torch.float64)
        plain += int(begin_macs(session, inputs).sum())
    right, macs, taken, ended = (totals / len(split)).tolist()
    each = torch.cat(losses)
    loss = float(each.double().mean())
    means = {
        "accuracy": 100 * right,
        "loss": loss,
        "perplexity": exp(loss),
        "compute": 1 + macs * len(split) / plain,
        "steps": taken,
        "converged": 100 * ended,
    }
    return means, each


def contraction(network: MainNetwork, inputs: Tensor, level: int) -> dict[str, Any]:
    """Return by how much each iteration shrinks the step of the one before.

    Returns:
        The layer's number, and of ``||z_3 - z_2|| / ||z_2 - z_1||``, z_0 being the
        plain pass, the median and the largest value over the inputs.
    """
    below = network.stem(inputs)
    for layer in network.main_layers[:level]:
        below = layer.plain(below, 0)
    layer = network.main_layers[level]
    solver = replace(network.solvers[level], max_steps=1, rtol=1e-9)
    state, iterates = layer.plain(below, 0), []
    for _ in range(3):
        state, _ = layer.iterate(below, state, 0, solver)
        iterates.append(state.z.flatten(1))
    first, second = (
        (after - before).norm(dim=1) for before, after in pairwise(iterates)
    )
    ratios = (second / first.clamp(min=1e-12)).sort().values
    middle, largest = float(ratios[len(ratios) // 2]), float(ratios[-1])
    return {"layer": level + 1, "median": middle, "largest": largest}
