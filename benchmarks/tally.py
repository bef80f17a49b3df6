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
        calls: Calls in which that was; one that two kinds share counts in proportion.
        num_steps: Sample-steps of the rollout.
    """

    units: Counter[str] = field(default_factory=Counter)
    calls: dict[str, float] = field(default_factory=dict)
    num_steps: int = 0

    def add(self, kind: str, units: int, calls: float = 1.0) -> None:
        """Count some work; none is no call."""
        if units:
            self.units[kind] += units
            self.calls[kind] = self.calls.get(kind, 0.0) + calls

    def group(self, kind: str) -> int:
        """Mean rows of a call, rounded; 1 for work that was not met.

        Where a call costs a constant and as much again for every row, all calls at this
        size take as long as they do at their own sizes.
        """
        return round(self.units[kind] / self.calls[kind]) if kind in self.calls else 1


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
        # Rows that only check their fixed point are iterated once, in their own call.
        work.add(f"iteration/{i}", int(steps[chosen & sits].sum()))
    bit = 1 << actions >> 1
    return np.where(actions > 0, path & (bit - 1) | bit, path)


def _count_solves(work: Tally, i: int, steps: np.ndarray, below: np.ndarray) -> None:
    """Add the solves of a layer: set up together, iterated until the last is done."""
    work.add(f"iteration/{i}", int(steps.sum()), int(steps.max(initial=0)))
    for name, rows in (("iterated", below), ("plain", ~below)):
        share = rows.mean() if rows.size else 0.0
        work.add(f"setup/{i}/{name} below", int(rows.sum()), float(share))
