"""The work of a rollout of random actions, tallied into kinds.

Axes: N rows, L layers. A path is a bit pattern, bit i set if layer i + 1 is iterated.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common import random_actions


@dataclass
class Tally:
    """Work of a rollout, by kind.

    Attributes:
        units: Rows that each kind of work was done on, counted every time.
        num_steps: Sample-steps of the rollout.
    """

    units: Counter[str] = field(default_factory=Counter)
    num_steps: int = 0

    def add(self, kind: str, units: int) -> None:
        """Count some work, if it is any."""
        if units:
            self.units[kind] += units


def tally(envs: Any, num_steps: int = 20) -> Tally:
    """Work of a rollout of random actions, ``num_steps`` of all rows."""
    work = Tally(num_steps=num_steps * envs.num_envs)
    path = np.zeros(envs.num_envs, dtype=np.int64)
    generator = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(num_steps):
        actions = random_actions(generator, envs.num_envs, envs.num_layers)
        _, _, ended, _, infos = envs.step(actions)
        steps = infos["final_info"]["solver_steps"]
        path = count_step(work, actions, path, steps, envs.num_layers)
        for kind in ("stem", "head", *(f"plain/{i}" for i in range(envs.num_layers))):
            work.add(kind, int(ended.sum()))
        path[ended] = 0
    return work


def count_step(
    work: Tally, actions: np.ndarray, path: np.ndarray, steps: np.ndarray, layers: int
) -> np.ndarray:
    """Add one step's work; returns the paths after it.

    Args:
        work: Changed in place.
        actions: Actions [N].
        path: Bit patterns of the iterated layers before it [N].
        steps: Iterations that it took [N].
        layers: Layers L.
    """
    work.add("head", int((actions > 0).sum()))
    for i in range(layers):
        work.add(f"plain/{i}", int(((actions > 0) & (actions < i + 1)).sum()))
        chosen, sits = actions == i + 1, path >> i & 1 == 1
        below = (path >> (i - 1) & 1 == 1) if i else np.ones_like(sits)
        _count_solves(work, i, steps[chosen & ~sits], below[chosen & ~sits])
        # Rows that only check their fixed point are iterated once.
        work.add(f"iteration/{i}", int(steps[chosen & sits].sum()))
    bit = 1 << actions >> 1
    return np.where(actions > 0, path & (bit - 1) | bit, path)


def _count_solves(work: Tally, i: int, steps: np.ndarray, below: np.ndarray) -> None:
    """Add the solves of a layer: their set-up and iterations."""
    work.add(f"iteration/{i}", int(steps.sum()))
    work.add(f"setup/{i}/iterated below", int(below.sum()))
    work.add(f"setup/{i}/plain below", int((~below).sum()))
