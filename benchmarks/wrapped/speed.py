"""Do skipped blocks become time, and what does wrapping cost when nothing is skipped?

    python -m benchmarks.wrapped.speed --network resnet18 --out speed.json

Each way of answering is timed in turn with the network itself, as it is, on the same
images; medians.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.wrapped.network import BLOCKS, load
from benchmarks.wrapped.states import macs_without
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.skip.decisions import RUN, SKIP
from dynalay_gym.sessions.skip.wrapped import WrappedSession
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

# Blocks that are skipped, from 0.
_PLANS: dict[str, tuple[int, ...]] = {
    "nothing skipped": (),
    "one skipped": (1,),
    "half skipped": (1, 3, 5, 7),
    "all but two skipped": (1, 2, 3, 5, 6, 7),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time a network and its predictor."""

    network: Path
    """Folder of the weights."""
    out: Path
    """JSON file for the results."""
    batches: tuple[int, ...] = (1, 32, 256)
    """Sizes of the batches."""
    repeats: int = 15
    """Turns, of which the median is taken."""


def main(args: Args) -> None:
    """Time, print a row per way and size, and write the JSON."""
    torch.set_num_threads(1)
    network = load(args.network).eval().requires_grad_(False)
    generator, rows = torch.Generator().manual_seed(0), list[dict[str, Any]]()
    session = WrappedSession(network)
    for size in args.batches:
        images = torch.randn(size, 3, 32, 32, generator=generator)
        rows += time_batch(network, session, images, args.repeats)
    write_json(args.out, {"rows": rows, "environment": run_metadata()})


def time_batch(
    network: WrappedNetwork, session: WrappedSession, images: Tensor, repeats: int
) -> list[dict[str, Any]]:
    """Return a row for each way of answering a batch."""
    ways: dict[str, Callable[[], Any]] = {
        "unwrapped": lambda: network.network(images),
        "wrapped": lambda: network(images),
    }
    whole = macs_without(network, ())
    counted = {"unwrapped": 1.0, "wrapped": 1.0}
    for name, skipped in _PLANS.items():
        plan = [SKIP if level in skipped else RUN for level in range(len(BLOCKS))]
        policy = PlanPolicy(plan)
        batch = len(images)
        predictor = DynaLayPredictor(session, policy, penalty=0.1, batch_size=batch)
        ways[name] = partial(predictor.infer, images)
        counted[name] = float(predictor.infer(images).macs.double().mean()) / whole
    times = interleaved(list(ways.values()), repeats)
    rows = []
    for name, ratios in zip(ways, times, strict=True):
        realised = float(np.median(ratios))
        low, high = np.percentile(ratios, [25, 75])
        row = {"batch": len(images), "way": name, "counted": counted[name]}
        row |= {"time": realised, "low": float(low), "high": float(high)}
        rows.append(row | {"realised / counted": realised / counted[name]})
        print(row, flush=True)
    return rows


@torch.no_grad()
def interleaved(ways: Sequence[Callable[[], Any]], repeats: int) -> np.ndarray:
    """Return the time of each way over that of the first in its turn, [ways, turns]."""
    for way in ways:
        way()
    found = np.empty((len(ways), repeats))
    for turn in range(repeats):
        for number, way in enumerate(ways):
            start = time.perf_counter()
            way()
            found[number, turn] = time.perf_counter() - start
    ratios: np.ndarray = found / found[0]
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
