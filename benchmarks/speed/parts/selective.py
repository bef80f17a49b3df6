"""What the main network's passes cost through chosen layers, and through all.

The same batches of the digits' main split go forward and backward in four ways, each
sample in a state that is drawn in the shares in which a co-trained policy left them
(docs/results/co-training.md). Multiply-adds are torch's count.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Table, spread
from benchmarks.speed.common import Clock, Options, play_rounds
from dynalay_gym.data.splits import load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.selective import SelectiveNetwork
from dynalay_gym.networks.state_losses import loss_of_states

BATCH = 128
VISITED = {0b000: 0.44, 0b001: 0.44, 0b101: 0.12}  # share of the samples in a state


def measure(options: Options) -> list[Table]:
    """Measure every way of learning from the same samples."""
    clock, ways = Clock("cpu"), make_ways(1 if options.quick else 6)

    def turn(forward: Callable[[], Tensor]) -> tuple[float, float]:
        began = clock()
        loss = forward()
        between = clock()
        loss.backward()
        return 1e3 * (between - began), 1e3 * (clock() - between)

    took = play_rounds(
        {name: partial(turn, way) for name, way in ways.items()}, options.rounds
    )
    rows = []
    for name, way in ways.items():
        forward, backward = count(way)
        row = {"way": name, "macs": forward / 1e6, "macs_backward": backward / 1e6}
        row |= {"ms": spread(took[name][:, 0])}
        rows.append(row | {"ms_backward": spread(took[name][:, 1])})
    columns = {
        "what learns": ("way", ""),
        "M multiply-adds forward": ("macs", ",.1f"),
        "backward": ("macs_backward", ",.1f"),
        "ms forward": ("ms", ",.1f"),
        "ms backward": ("ms_backward", ",.1f"),
    }
    notes = f"batches of {BATCH}; {options.notes}"
    return [Table("Passes of the main network", notes, columns, rows)]


def make_ways(num_batches: int) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to learn from such batches: the sum of their losses."""
    network = load_network(SHIPPED / "digits")[0].requires_grad_(True)
    selective, top = SelectiveNetwork(network), 2**network.num_layers - 1
    config = network.config
    solver = SolverConfig(
        rtol=config.rtol,
        max_steps=max(config.layer_steps),
        adjoint_rtol=0.1,
        adjoint_max_steps=4,
    )
    data, generator = load_split("digits", "main"), torch.Generator().manual_seed(0)
    num = num_batches * BATCH
    rows = torch.randperm(len(data), generator=generator)[:num].split(BATCH)
    shares = torch.tensor(list(VISITED.values()))
    drawn = torch.multinomial(shares, num, replacement=True, generator=generator)
    states = torch.tensor(list(VISITED))[drawn].split(BATCH)

    def through(chosen_only: bool, everything: bool) -> Tensor:
        losses = []
        for some, state in zip(rows, states, strict=True):
            at = torch.full_like(state, top) if everything else state
            logits = selective.logits(
                data.inputs[some], at, solver, chosen_only=chosen_only
            )
            losses.append(F.cross_entropy(logits, data.labels[some]))
        return torch.stack(losses).sum()

    def all_states() -> Tensor:
        network.train()
        weights = dict.fromkeys(range(top + 1), 1.0)
        losses = [
            loss_of_states(network, data.inputs[i], data.labels[i], weights, solver)
            for i in rows
        ]
        return torch.stack(losses).sum()

    return {
        "chosen layers (equation 4)": lambda: through(True, False),
        "every layer on the way": lambda: through(False, False),
        "always everything": lambda: through(False, True),
        "all states": all_states,
    }


def count(forward: Callable[[], Tensor]) -> tuple[float, float]:
    """Return the multiply-adds of a forward and a backward pass."""
    with FlopCounterMode(display=False) as first:
        loss = forward()
    with FlopCounterMode(display=False) as second:
        loss.backward()
    return first.get_total_flops() / 2, second.get_total_flops() / 2
