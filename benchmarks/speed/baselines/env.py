"""The environment as one would write it first: one sample, ordinary network calls.

Same decision process, observations and rewards as ``DynaLay/...-v0`` (tests: 1e-4), so
that its speed can be held against the package's; infos hold the essentials.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from benchmarks.speed.baselines.network import HandNetwork, largest_residual
from benchmarks.speed.common import Clock, stepper
from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.sessions.torch_session import TorchSession


class HandEnv(gym.Env):
    """One sample, decided on layer by layer.

    Args:
        problem: Samples and constants; its session runs a `MainNetwork`.
        network: The network by hand, which many environments may share.
    """

    def __init__(self, problem: DecisionProblem, network: HandNetwork) -> None:
        assert isinstance(problem.session, TorchSession)
        self.problem, self.session, self.network = problem, problem.session, network
        self.num_layers, self.penalty = network.num_layers, problem.penalty_range[0]
        shape = (problem.observation_layout["remaining"].stop,)
        self.observation_space = gym.spaces.Box(0.0, 1.0, shape, np.float32)
        self.action_space = gym.spaces.Discrete(problem.num_actions)

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Run the plain pass of a random sample, or of that of ``options["index"]``."""
        super().reset(seed=seed)
        drawn = self.np_random.integers(len(self.problem.labels))
        self.index = int((options or {}).get("index", drawn))
        layers = self.num_layers
        self.state, self.decisions, self.consecutive, self.last = 0, 0, 0, -1
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
        return self._observe(), self._info(self.session.plain_macs)

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
            reward += self.problem.alpha * self._is_correct()
        return self._observe(), reward, ended, False, self._info(macs)

    def _choose(self, action: int) -> int:
        """Bring a layer to its fixed point, or check that it sits there: MACs."""
        i, before = action - 1, self.state
        self.state = int(self.session.next_state[before, action])
        macs, pattern = self.session.costs.layers[i], self.state & (2**i - 1)
        if before >> i & 1:
            new = self.network.iterate(i, self.h[action], self.x[i])
            largest_residual(new, self.h[action])
            setup, steps = 0, 1
        else:
            below, solver = self.h[i], self.session.solver
            x = self.network.inject(i, self.u[i], below, pattern)
            h, self.residual[i], steps = self.network.solve(
                i, x, solver.rtol, solver.max_steps
            )
            y = self.network.read(i, self.u[i], h, pattern)
            self.x[i], self.h[action], self.y[action] = x, h, y
            self.features[i] = self.network.features(i, y, h)
            setup = macs.setup[int(below is not None)]
        self._refresh(action)
        refresh = self.session.costs.refresh(action)
        return int(setup + steps * macs.iteration + refresh)

    def _refresh(self, first: int) -> None:
        """Apply the layers from index ``first`` on plainly, and answer."""
        for i in range(first, self.num_layers):
            self.u[i] = self.network.plain(i, self.y[i], self.state)
            self.y[i + 1], self.h[i + 1] = torch.relu(self.u[i]), None
            self.features[i] = self.network.features(i, self.y[i + 1], None)
            self.residual[i] = 1.0
        top: Tensor = self.network.answer(self.y[-1], self.h[-1], self.state)
        self.logits = top[0]

    def _is_correct(self) -> bool:
        return int(self.logits.argmax()) == int(self.problem.labels[self.index])

    def _observe(self) -> np.ndarray:
        probs = torch.softmax(self.logits, 0)
        top = torch.topk(probs, 2).values
        entropy = torch.special.entr(probs).sum() / np.log(len(probs))
        features = torch.cat([part[0] for part in self.features])
        summary = torch.stack([top[0], entropy, top[0] - top[1]])
        seen = torch.cat([features / (1 + features), summary]).cpu().numpy()
        layers, limit = self.num_layers, self.problem.max_decisions
        iterated = [float(self.state >> i & 1) for i in range(layers)]
        one_hot = [float(self.last == action) for action in range(layers + 1)]
        rest = [*(min(r, 1.0) for r in self.residual), *iterated]
        rest += [self.penalty / (1 + self.penalty), *one_hot]
        rest += [self.consecutive / limit, 1 - self.decisions / limit]
        return np.concatenate([seen, np.array(rest, dtype=np.float32)])

    def _info(self, macs: int) -> dict[str, Any]:
        return {"index": self.index, "macs": macs, "correct": self._is_correct()}


def hand_env(problem: DecisionProblem, clock: Clock) -> Callable[[], gym.Env]:
    """Return what makes an environment, in the memory format that is faster on it."""
    assert isinstance(problem.session, TorchSession)

    def speed(make: Callable[[], gym.Env]) -> float:
        turn = stepper(DummyVecEnv([make]), clock, 0.1)
        return max(float(turn()) for _ in range(3))

    formats = (torch.contiguous_format, torch.channels_last)
    networks = [HandNetwork(problem.session.network, each) for each in formats]
    return max((partial(HandEnv, problem, each) for each in networks), key=speed)
