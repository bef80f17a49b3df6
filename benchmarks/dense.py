"""The dense bound: the same multiply-adds in dense batches, no environment around.

A rollout is tallied into kinds of work (the plain application of a layer, a solve's
set-up, one iteration, ...); every kind is timed alone at several batch sizes in both
memory formats, and its best time counts. Nothing that the environment adds is in it:
no residuals, no rows to gather, no observations.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from benchmarks.common import Clock
from benchmarks.plain_network import PlainNetwork
from benchmarks.tally import Tally
from dynalay_gym.envs.dynamics import DecisionProblem

BATCHES = (32, 64, 256)
FORMATS = (torch.contiguous_format, torch.channels_last)
_ITERATIONS = 4  # of one timed call, as in a solve

Job = tuple[Callable[[], object], int]  # a call, and how many units of work it does
Jobs = dict[str, Job]


class DenseBound:
    """Sample-steps per second that dense batches of a rollout's work would reach.

    Args:
        problem: What the rollout was of.
        work: Tally of the rollout.
        clock: Clock.
        seconds: Length of a turn.
    """

    def __init__(
        self, problem: DecisionProblem, work: Tally, clock: Clock, seconds: float
    ) -> None:
        self.work, self.clock, self.seconds = work, clock, seconds

        @cache
        def jobs(batch: int, memory_format: torch.memory_format) -> Jobs:
            return make_jobs(problem, batch, memory_format)

        self.best = {}
        for kind in work.units:
            ways = [jobs(size, form)[kind] for size in BATCHES for form in FORMATS]
            self.best[kind] = self._fastest(ways)

    @torch.no_grad()
    def __call__(self) -> float:
        """One turn."""
        each, total = self.seconds / len(self.best), 0.0
        for kind, (job, times) in self.best.items():
            total += self.work.units[kind] * self.clock.per_call(job, each) / times
        return self.work.num_steps / total

    @torch.no_grad()
    def _fastest(self, jobs: list[Job]) -> Job:
        def seconds(job: Job) -> float:
            call, times = job
            call()
            took = [self.clock.per_call(call, self.seconds / 50) for _ in range(3)]
            return min(took) / times

        return min(jobs, key=seconds)


def make_jobs(
    problem: DecisionProblem, batch: int, memory_format: torch.memory_format
) -> Jobs:
    """A call for every kind of work, and how many sample-wise units it does."""
    network = PlainNetwork(problem.session.model, memory_format)  # type: ignore[attr-defined]
    images = problem.inputs[:batch]
    jobs: Jobs = {"stem": (lambda: network.stem(images), len(images))}
    with torch.no_grad():
        y, below = network.stem(images)
        for i in range(network.num_layers):
            u = network.plain(i, y, 0)
            x = network.inject(i, u, below, 2**i - 1)
            jobs |= _layer_jobs(network, i, y, u, below, x)
            below = torch.relu(x)
            y = network.read(i, u, below, 0)
    path = 2**network.num_layers - 1
    jobs["head"] = (lambda: network.answer(y, below, path), len(images))
    return jobs


def _layer_jobs(
    network: PlainNetwork, i: int, y: Any, u: Any, below: Any, x: Any
) -> Jobs:
    """Jobs of one layer on given activations."""
    n = len(u)

    def iterate() -> object:
        h = x
        for _ in range(_ITERATIONS):
            h = network.iterate(i, h, x)
        return h

    def setup(below: Any, pattern: int) -> object:
        injected = network.inject(i, u, below, pattern)
        return network.read(i, u, injected, pattern)

    return {
        f"plain/{i}": (lambda: network.plain(i, y, 0).relu_(), n),
        f"setup/{i}/plain below": (lambda: setup(None, 0), n),
        f"setup/{i}/iterated below": (lambda: setup(below, 2**i - 1), n),
        f"iteration/{i}": (iterate, n * _ITERATIONS),
    }
