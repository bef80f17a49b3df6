"""Convolutions of a network: compiled, one row at a time, and PyTorch's.

A figure is multiply-adds per nanosecond, those with the zeros around a map counted.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import (
    Clock,
    Options,
    Turn,
    play_rounds,
    result,
    section,
    show,
    spread,
    table,
)
from benchmarks.subjects import load_subject
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.sessions.accel.maps import FROM_ZERO, NO_NORM, convolve
from dynalay_gym.sessions.accel.network import CONVS
from dynalay_gym.sessions.accel.pack import pack

ROWS = 64
COMPILED, ALONE, MANY = "compiled, one row", "PyTorch, one row", f"PyTorch, {ROWS} rows"


def run(options: Options) -> dict[str, Any]:
    """Measure every preset."""
    found = {name: measure(name, options) for name in options.presets}
    text = "\n".join(found[name].pop("markdown") for name in found)
    return result(text, clock=Clock("cpu").name, presets=found)


def measure(name: str, options: Options) -> dict[str, Any]:
    """Every convolution of one network but its head."""
    model = load_subject(name, options).model.freeze()
    net, _ = pack(model, SolverConfig())
    clock, figures = Clock("cpu"), {}
    convs = {
        (f"layer {i}, {name}" if i <= model.num_layers else "stem"): layer[name]
        for i, layer in enumerate(net.layers, start=1)
        for name in CONVS
        if layer[name]["columns"] > 0  # a form may not have it
    }
    for what, conv in convs.items():
        variants = make_variants(conv, net.numbers, clock, options.seconds / 5)
        figures[what] = {
            "conv": {key: int(conv[key]) for key in conv.dtype.names},
            "macs_per_ns": {
                way: spread(figure)
                for way, figure in play_rounds(variants, options.rounds).items()
            },
        }
    head = ["convolution", "channels", "side", *(COMPILED, ALONE, MANY)]
    lines = [
        [
            what,
            f"{one['conv']['in_channels']} → {one['conv']['out_channels']}",
            f"{one['conv']['in_side']} → {one['conv']['out_side']}",
            *(show(figure, ".1f") for figure in one["macs_per_ns"].values()),
        ]
        for what, one in figures.items()
    ]
    notes = f"multiply-adds per nanosecond; {clock.name}, {options.num_threads} thread"
    return {
        "markdown": section(f"Kernels, {name}", notes, table(head, lines))
    } | figures


def make_variants(
    conv: Any, numbers: np.ndarray, clock: Clock, seconds: float
) -> dict[str, Turn]:
    """A turn of each way: multiply-adds per nanosecond."""
    channels, out, kernel = (
        int(conv[key]) for key in ("in_channels", "out_channels", "kernel")
    )
    side, edge = int(conv["in_side"]), int(conv["padding"])
    macs = channels * out * kernel**2 * int(conv["out_side"]) ** 2
    draw = np.random.default_rng(0).standard_normal
    padded = draw(side * (side + 2 * edge) * channels, np.float32)
    sums = np.empty(int(conv["out_side"] ** 2 * conv["columns"]), dtype=np.float32)
    weight = torch.randn(out, channels, kernel, kernel)
    many = torch.randn(ROWS, channels, side, side)
    weight, many = (
        each.contiguous(memory_format=torch.channels_last) for each in (weight, many)
    )
    stride = int(conv["stride"])

    def torchs(x: Tensor) -> Callable[[], object]:
        return lambda: F.conv2d(x, weight, None, stride, edge)

    def rate(job: Callable[[], object], rows: int) -> Turn:
        return lambda: rows * macs / clock.per_call(job, seconds) / 1e9

    return {
        COMPILED: rate(lambda: _repeat(conv, numbers, padded, sums), ROWS),
        ALONE: rate(torch.inference_mode()(torchs(many[:1])), 1),
        MANY: rate(torch.inference_mode()(torchs(many)), ROWS),
    }


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _repeat(conv: Any, numbers: Any, padded: Any, sums: Any) -> None:
    for _ in range(ROWS):
        convolve(conv, numbers, padded, sums, FROM_ZERO, NO_NORM)
