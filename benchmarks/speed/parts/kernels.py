"""The recurrent convolutions: compiled, one row at a time, and PyTorch's.

A figure is multiply-adds per nanosecond, those with the zeros around a map counted.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.report import Table, spread
from benchmarks.speed.common import Clock, Options, Turn, play_rounds
from benchmarks.speed.subjects import load_subject
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.sessions.accel.maps import FROM_ZERO, NO_NORM, convolve
from dynalay_gym.sessions.accel.pack import pack
from dynalay_gym.sessions.states import layer_states

ROWS = 64
WAYS = {
    "compiled": "compiled, one row",
    "alone": "PyTorch, one row",
    "many": f"PyTorch, {ROWS} rows",
}


def measure(options: Options) -> list[Table]:
    """Measure every layer of every preset."""
    rows = []
    for preset in options.presets:
        network = load_subject(preset, options).network.to("cpu").freeze()
        states = layer_states((1,) * network.num_layers)
        net, _ = pack(network, SolverConfig(), states)
        for i in range(network.num_layers):
            conv = net.layers[i]["recurrence"]
            turns = make_turns(conv, net.numbers, options.seconds / 5)
            shape = f"{conv['in_channels']} channels, side {conv['in_side']}"
            figures = play_rounds(turns, options.rounds).items()
            row = {"network": preset, "layer": str(i + 1), "map": shape}
            rows.append(row | {way: spread(figure) for way, figure in figures})
    columns = {name: (name, "") for name in ("network", "layer", "map")}
    columns |= {heading: (way, ".1f") for way, heading in WAYS.items()}
    notes = f"multiply-adds per nanosecond; {options.notes}"
    return [Table("Recurrent convolutions", notes, columns, rows)]


def make_turns(conv: Any, numbers: Any, seconds: float) -> dict[str, Turn]:
    """Return a turn of each way: multiply-adds per nanosecond."""
    channels, side, edge = (int(conv[k]) for k in ("in_channels", "in_side", "padding"))
    macs, clock = 9 * channels**2 * side**2, Clock("cpu")
    draw = np.random.default_rng(0).standard_normal
    padded = draw(side * (side + 2 * edge) * channels, np.float32)
    sums = np.empty(side**2 * int(conv["columns"]), dtype=np.float32)
    weight, many = (
        torch.randn(channels, channels, 3, 3),
        torch.randn(ROWS, channels, side, side),
    )
    weight, many = (
        x.contiguous(memory_format=torch.channels_last) for x in (weight, many)
    )

    def rate(job: Callable[[], object], rows: int) -> Turn:
        def counted() -> int:
            job()
            return rows * macs

        return lambda: clock.rate(counted, seconds) / 1e9

    def convolve_torch(rows: int) -> Callable[[], object]:
        x = many[:rows]
        return torch.inference_mode()(lambda: F.conv2d(x, weight, padding=edge))

    return {
        "compiled": rate(lambda: _repeat(conv, numbers, padded, sums), ROWS),
        "alone": rate(convolve_torch(1), 1),
        "many": rate(convolve_torch(ROWS), ROWS),
    }


@numba.njit(nogil=True)
def _repeat(conv: Any, numbers: Any, padded: Any, sums: Any) -> None:
    for _ in range(ROWS):
        convolve(conv, numbers, padded, sums, FROM_ZERO, NO_NORM)
