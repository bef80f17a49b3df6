"""What all parts share: options, clock, turns of the variants, random steps.

Variants take turns in one process, so that whatever else the machine does hits all of
them; figures are medians over rounds, ratios are taken round by round.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import MultiDiscrete
from numpy.typing import NDArray

Figures = NDArray[np.float64]
Turn = Callable[[], Any]  # one turn of a variant; returns its figure or figures


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure speed: every part in turn, one JSON and one Markdown file per part."""

    parts: tuple[str, ...] = ()
    """Parts to run; all of them if none is given."""
    out: Path = Path("benchmarks/results")
    """Folder of the results."""
    presets: tuple[str, ...] = ("digits", "small")
    """Networks: the shipped one of the digits, and the small preset for 3x32x32."""
    checkpoint: Path | None = None
    """Trained network for ``small`` (of --dataset); random weights without one."""
    dataset: str = "cifar10"
    """Data set of the checkpoint."""
    data_dir: Path | None = None
    """Folder of its files."""
    rows: tuple[int, ...] = (64, 256, 1024)
    """Rows of the batched environments and of the table."""
    batches: tuple[int, ...] = (1, 32, 256)
    """Batch sizes of the predictor."""
    device: str = "cpu"
    """Device of the networks; a CUDA device is synchronised around every turn."""
    quick: bool = False
    """Few short rounds: a look, not a measurement."""
    num_threads: int = 1
    """CPU threads."""

    @property
    def rounds(self) -> int:
        """Rounds in which every variant has one turn."""
        return 3 if self.quick else 7

    @property
    def seconds(self) -> float:
        """Length of a turn."""
        return 0.1 if self.quick else 1.0

    @property
    def notes(self) -> str:
        """How figures are taken, for the tables."""
        how = f"{Clock(self.device).name}, {self.rounds} rounds"
        return f"{how}, {self.num_threads} thread(s), {self.device}"


class Clock:
    """Seconds of processor time of this process; of wall-clock time on a GPU.

    Processor time leaves out what other processes take, all threads included.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: str) -> None:
        self._is_gpu = torch.device(device).type == "cuda"
        self.name = "wall clock" if self._is_gpu else "processor time"

    def __call__(self) -> float:
        """Return seconds; on a GPU all work that was queued has ended."""
        if self._is_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def time(self, job: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        began = self()
        job()
        return self() - began

    def turn(self, job: Callable[[], object], num: int) -> Turn:
        """Return a turn of one call, which does ``num`` units: microseconds each."""
        return lambda: 1e6 * self.time(job) / num

    def rate(self, job: Callable[[], int], seconds: float) -> float:
        """Return units per second of a job that returns how many it did."""
        done, began = 0, self()
        while done == 0 or self() - began < seconds:
            done += job()
        return done / (self() - began)


def play_rounds(variants: Mapping[str, Turn], rounds: int) -> dict[str, Figures]:
    """Return the figures [rounds, ...] of every variant; a first round warms up."""
    played = [{k: turn() for k, turn in variants.items()} for _ in range(rounds + 1)]
    return {name: np.array([each[name] for each in played[1:]]) for name in variants}


def ratio(figures: Figures, base: Figures) -> float:
    """Return the median of the ratios of the rounds."""
    return float(np.median(figures / base))


def stepper(envs: Any, clock: Clock, seconds: float) -> Turn:
    """Return a turn of random steps, half of them action 0: sample-steps per second.

    Args:
        envs: Batched environment, Gymnasium's or Stable-Baselines3's.
        clock: Clock.
        seconds: Length of a turn.
    """
    num = envs.num_envs
    actions = itertools.cycle(random_actions(envs, 256))
    if hasattr(envs, "seed"):  # Stable-Baselines3
        envs.seed(0)
        envs.reset()
    else:
        envs.reset(seed=0)

    def step() -> int:
        envs.step(next(actions))
        return int(num)

    return lambda: clock.rate(step, seconds)


def random_actions(envs: Any, num_steps: int) -> NDArray[np.int64]:
    """Return actions of all rows, [num_steps, N]; half of them are 0."""
    space, num = envs.action_space, envs.num_envs
    num_actions = int(space.nvec[0] if isinstance(space, MultiDiscrete) else space.n)
    chances = [0.5, *[0.5 / (num_actions - 1)] * (num_actions - 1)]
    generator = np.random.default_rng(0)
    drawn: NDArray[np.int64] = generator.choice(
        num_actions, (num_steps, num), p=chances
    )
    return drawn


@contextmanager
def empty_cache() -> Iterator[None]:
    """Let transition tables be built anew, in a folder that goes away."""
    before = os.environ.get("DYNALAY_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DYNALAY_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["DYNALAY_CACHE_DIR"]
            if before is not None:
                os.environ["DYNALAY_CACHE_DIR"] = before
