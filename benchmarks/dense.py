"""The dense bound: the same multiply-adds in dense batches, no environment around.

A rollout is tallied into kinds of work (the plain application of a layer, a solve's
set-up, one iteration, ...); every kind is timed alone at several batch sizes in both
memory formats, and its best time counts. Nothing that the environment adds is in it:
no residuals, no rows to gather, no observations.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import Clock, random_actions
from benchmarks.plain_network import PlainNetwork
from dynalay_gym.envs.dynamics import Problem

BATCHES = (32, 64, 256)
FORMATS = (torch.contiguous_format, torch.channels_last)
_ITERATIONS = 4  # of one timed call, as in a solve

Work = Counter[str]
Jobs = dict[str, tuple[Callable[[], object], int]]  # a call, and how often it does it


class DenseBound:
    """Sample-steps per second that dense batches of a rollout's work would reach.

    Args:
        envs: Environment whose rollout with random actions is tallied.
        clock: Clock.
        seconds: Length of a turn.
    """

    def __init__(self, envs: Any, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.work, self.num_steps = tally(envs)
        every = [
            make_jobs(envs.problem, batch, memory_format)
            for batch in BATCHES
            for memory_format in FORMATS
        ]
        self.best = {kind: self._fastest(kind, every) for kind in self.work}

    def __call__(self) -> float:
        """One turn."""
        each, total = self.seconds / len(self.work), 0.0
        with torch.no_grad():
            for kind, count in self.work.items():
                job, times = self.best[kind]
                total += count * self.clock.per_call(job, each) / times
        return self.num_steps / total

    @torch.no_grad()
    def _fastest(self, kind: str, every: list[Jobs]) -> tuple[Callable, int]:
        def seconds(jobs: Jobs) -> float:
            job, times = jobs[kind]
            job()
            took = [self.clock.per_call(job, self.seconds / 50) for _ in range(3)]
            return min(took) / times

        return min(every, key=seconds)[kind]


def make_jobs(problem: Problem, batch: int, memory_format: torch.memory_format) -> Jobs:
    """A call for every kind of work, and how many sample-wise units it does."""
    network = PlainNetwork(problem.session.model, memory_format)  # type: ignore[attr-defined]
    images = problem.images[:batch]
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


def tally(envs: Any, num_steps: int = 20) -> tuple[Work, int]:
    """Units of every kind of work in a rollout of random actions; its sample-steps."""
    work: Work = Counter()
    path = np.zeros(envs.num_envs, dtype=np.int64)
    generator = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(num_steps):
        actions = random_actions(generator, envs.num_envs, envs.num_layers)
        _, _, ended, _, infos = envs.step(actions)
        steps = infos["final_info"]["solver_steps"]
        path = _count(work, actions, path, steps, envs.num_layers)
        begun = int(ended.sum())
        work.update({"stem": begun, "head": begun})
        work.update({f"plain/{i}": begun for i in range(envs.num_layers)})
        path[ended] = 0
    return Counter({k: v for k, v in work.items() if v}), num_steps * envs.num_envs


def _count(
    work: Work, actions: np.ndarray, path: np.ndarray, steps: np.ndarray, layers: int
) -> np.ndarray:
    """Add one step's work; returns the paths after it."""
    work["head"] += int((actions > 0).sum())
    for i in range(layers):
        work[f"plain/{i}"] += int(((actions > 0) & (actions < i + 1)).sum())
        chosen = actions == i + 1
        work[f"iteration/{i}"] += int(steps[chosen].sum())
        fresh = chosen & (path >> i & 1 == 0)
        below = (path >> (i - 1) & 1 == 1) if i else np.ones_like(fresh)
        work[f"setup/{i}/iterated below"] += int((fresh & below).sum())
        work[f"setup/{i}/plain below"] += int((fresh & ~below).sum())
    bit = 1 << actions >> 1
    return np.where(actions > 0, path & (bit - 1) | bit, path)
