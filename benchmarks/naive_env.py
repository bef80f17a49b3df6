"""The environment as one would write it first: one sample, ordinary network calls.

Same decision process, observations and rewards as ``DynaLay/...-v0`` (tests: 1e-4), so
that its speed can be held against the package's; infos hold the essentials.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from benchmarks.plain_network import PlainNetwork, largest_residual
from dynalay_gym.envs.dynamics import DecisionProblem


@dataclass(frozen=True)
class Task:
    """What the environments of one problem share."""

    network: PlainNetwork
    problem: DecisionProblem

    @classmethod
    def of(
        cls,
        problem: DecisionProblem,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> "Task":
        """Task of a problem whose session runs a ``MainNetwork``."""
        return cls(PlainNetwork(problem.session.model, memory_format), problem)  # type: ignore[attr-defined]


class NaiveEnv(gym.Env):
    """One sample, decided on layer by layer.

    Args:
        task: Network, samples and constants.
    """

    def __init__(self, task: Task) -> None:
        self.network, self.problem = task.network, task.problem
        session = self.problem.session
        self.solver, self.costs = session.solver, session.costs
        self.num_layers = session.num_layers
        self.penalty = self.problem.penalty_range[0]
        size = sum(session.feature_sizes) + 3 + 2 * self.num_layers
        size += 1 + (self.num_layers + 1) + 2
        self.observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(self.num_layers + 1)

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Plain pass over a random sample, or over that of ``options["index"]``."""
        super().reset(seed=seed)
        drawn = self.np_random.integers(len(self.problem.labels))
        self.index = int((options or {}).get("index", drawn))
        layers = self.num_layers
        self.path, self.decisions, self.consecutive, self.last = 0, 0, 0, -1
        self.residual = [1.0] * layers
        self.u: list[Any] = [None] * layers
        self.x: list[Any] = [None] * layers
        # Entry 0 is the stem's, entry i that of layer i.
        self.y: list[Any] = [None] * (layers + 1)
        self.h: list[Any] = [None] * (layers + 1)
        self.features: list[Any] = [None] * layers
        image = self.problem.inputs[self.index : self.index + 1]
        self.y[0], self.h[0] = self.network.stem(image)
        self._refresh(0)
        return self._observe(), self._info(self.costs.plain_pass)

    @torch.no_grad()
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one decision; 0 stops."""
        action = int(action)
        macs = 0 if action == 0 else self._choose(action)
        self.consecutive = self.consecutive + 1 if action == self.last else 1
        self.last = action
        self.decisions += 1
        ended = action == 0 or self.decisions >= self.problem.max_decisions
        cost = macs / self.problem.cost_unit
        reward = -self.penalty * cost * self.consecutive
        if ended:
            reward += self.problem.alpha * self._correct()
        return self._observe(), reward, ended, False, self._info(macs)

    def _choose(self, action: int) -> int:
        """Bring a layer to its fixed point, or check that it sits there: MACs."""
        i, bit = action - 1, 1 << (action - 1)
        macs, pattern = self.costs.layers[i], self.path & (bit - 1)
        if self.path & bit:
            new = self.network.iterate(i, self.h[action], self.x[i])
            largest_residual(new, self.h[action])
            setup, steps = 0, 1
        else:
            below = self.h[i] if i == 0 or pattern >> (i - 1) else None
            x = self.network.inject(i, self.u[i], below, pattern)
            h, self.residual[i], steps = self.network.solve(
                i, x, self.solver.rtol, self.solver.max_steps
            )
            y = self.network.read(i, self.u[i], h, pattern)
            self.x[i], self.h[action], self.y[action] = x, h, y
            self.features[i] = self.network.features(i, y, h)
            setup = macs.setup[0 if below is None else 1]
        self.path = pattern | bit
        self._refresh(action)
        return int(setup + steps * macs.iteration + self.costs.refresh(action))

    def _refresh(self, first: int) -> None:
        """Apply the layers from index ``first`` on plainly, and answer."""
        for i in range(first, self.num_layers):
            self.u[i] = self.network.plain(i, self.y[i], self.path)
            self.y[i + 1], self.h[i + 1] = torch.relu(self.u[i]), None
            self.features[i] = self.network.features(i, self.y[i + 1], None)
            self.residual[i] = 1.0
        top: Tensor = self.network.answer(self.y[-1], self.h[-1], self.path)
        self.logits = top[0]

    def _correct(self) -> bool:
        return int(self.logits.argmax()) == int(self.problem.labels[self.index])

    def _observe(self) -> np.ndarray:
        probs = torch.softmax(self.logits, 0)
        top = torch.topk(probs, 2).values
        entropy = torch.special.entr(probs).sum() / np.log(len(probs))
        features = torch.cat([part[0] for part in self.features])
        summary = torch.stack([top[0], entropy, top[0] - top[1]])
        seen = torch.cat([features / (1 + features), summary]).cpu().numpy()
        layers, limit = self.num_layers, self.problem.max_decisions
        iterated = [float(self.path >> i & 1) for i in range(layers)]
        one_hot = [float(self.last == action) for action in range(layers + 1)]
        rest = [*(min(r, 1.0) for r in self.residual), *iterated]
        rest += [self.penalty / (1 + self.penalty), *one_hot]
        rest += [self.consecutive / limit, 1 - self.decisions / limit]
        return np.concatenate([seen, np.array(rest, dtype=np.float32)])

    def _info(self, macs: int) -> dict[str, Any]:
        return {"index": self.index, "macs": macs, "correct": self._correct()}
