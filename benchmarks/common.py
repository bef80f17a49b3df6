"""What all benchmarks share: options, clock, rounds, summaries, tables.

Variants take turns in one process, so that whatever else the machine does hits all of
them; figures are medians over rounds, ratios are taken round by round.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Turn = Callable[[], float]  # one turn of a variant, returning its figure


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
    """Few short rounds (under two minutes in all): a look, not a measurement."""
    num_threads: int = 1
    """CPU threads."""

    @property
    def rounds(self) -> int:
        """Rounds in which every variant has one turn."""
        return 3 if self.quick else 7

    @property
    def seconds(self) -> float:
        """Length of a turn."""
        return 0.25 if self.quick else 1.0


class Clock:
    """Seconds of processor time of this process; of wall-clock time on a GPU.

    Processor time leaves out what other processes take, all threads included.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: str) -> None:
        self.is_gpu = torch.device(device).type == "cuda"
        self.name = "wall clock" if self.is_gpu else "processor time"

    def __call__(self) -> float:
        """Seconds; on a GPU all work that was queued has ended."""
        if self.is_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def rate(self, job: Callable[[], int], seconds: float) -> float:
        """Units per second of a job that returns how many it did; at least one call."""
        done, began = job(), self()
        while done == 0 or self() - began < seconds:
            done += job()
        return done / (self() - began)

    def per_call(self, job: Callable[[], object], seconds: float) -> float:
        """Mean seconds of a call, over at least three."""
        calls, began = 0, self()
        while calls < 3 or self() - began < seconds:
            job()
            calls += 1
        return (self() - began) / calls


def play_rounds(variants: Mapping[str, Turn], rounds: int) -> dict[str, np.ndarray]:
    """Figures [rounds] of every variant; a first round warms up and is dropped."""
    figures = [
        {name: turn() for name, turn in variants.items()} for _ in range(rounds + 1)
    ]
    return {name: np.array([each[name] for each in figures[1:]]) for name in variants}


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"low": low, "median": median, "high": high}


def ratio(values: np.ndarray, base: np.ndarray | float) -> float:
    """Median of the ratios of the rounds."""
    return float(np.median(values / base))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(figure: Mapping[str, float], form: str = ",.0f") -> str:
    """Median, and the quartiles in brackets."""
    low, median, high = (format(figure[k], form) for k in ("low", "median", "high"))
    return f"{median} ({low}–{high})"


def random_actions(
    generator: np.random.Generator, num_rows: int, num_layers: int
) -> np.ndarray:
    """NOP with probability 1/2, else a layer, int64 [N]."""
    chances = [0.5, *[0.5 / num_layers] * num_layers]
    drawn: np.ndarray = generator.choice(num_layers + 1, num_rows, p=chances)
    return drawn


def section(title: str, notes: str, body: str) -> str:
    """One titled table with its notes."""
    return f"### {title}\n\n{notes}\n\n{body}\n"


def result(text: str, **data: Any) -> dict[str, Any]:
    """What ``run`` of a part returns: ``markdown``, and data that JSON can hold."""
    return {"markdown": text, **data}
