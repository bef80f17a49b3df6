"""A decision problem small enough to work out by hand, in the real env's clothes.

Every sample needs one layer (or none, 0): its answer is right once that layer is
iterated, at any later time. Activations show which one, so a policy can learn to be
perfect: stop at once if nothing is needed, else iterate that layer and stop. Layer l
costs COSTS[l]; the best return is ALPHA - penalty * COSTS[needed].
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dynalay_gym.envs.oracle import Optimum
from dynalay_gym.envs.reward import PaperReward

ALPHA = 0.5
NUM_LAYERS = 2
COSTS = np.array([0.0, 0.4, 0.6])  # of NOP, layer 1, layer 2; always costs 1
PLANS = ((), (1,), (2,), (1, 2))
PLAIN_MACS = 1000
ALWAYS_MACS = 10_000.0


class NeedEnv(VectorEnv):
    """Batched problem with the observation layout and info keys of the real one.

    `correct` starts wrong wherever a layer is needed; max_prob says nothing about it
    but grows with the sample's index, entropy falls.
    """

    nop_action = 0
    num_actions = NUM_LAYERS + 1
    action_names = ("stop", "layer 1", "layer 2")
    full_plan = (1, 2)
    num_classes = 2
    max_decisions = NUM_LAYERS + 1
    plain_macs = PLAIN_MACS
    always_extra_macs = ALWAYS_MACS
    alpha = ALPHA
    problem = SimpleNamespace(reward=PaperReward(ALPHA), recall=False)
    penalty_scale = 1.0

    def __init__(
        self,
        num_envs: int = 16,
        num_samples: int = 30,
        penalty: float = 0.2,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
        output: str = "numpy",
    ) -> None:
        self.num_envs, self.num_samples, self.output = num_envs, num_samples, output
        self.penalty_range = (penalty, penalty)
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.autoreset_mode = autoreset_mode
        self.problem.session = SimpleNamespace(next_state=np.zeros((4, 3)))
        self.needs = np.arange(num_samples) % (NUM_LAYERS + 1)
        sizes = {"activations/0": 3, "max_prob": 1, "entropy": 1, "penalty": 1}
        sizes |= {"last_action": 3, "remaining": 1}
        ends = np.cumsum(list(sizes.values()))
        self.observation_layout = {
            name: slice(int(end) - size, int(end))
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        self.single_observation_space = Box(0.0, 1.0, (int(ends[-1]),), np.float32)
        self.single_action_space = Discrete(NUM_LAYERS + 1)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rng = np.random.default_rng(0)
        self._finished = np.ones(num_envs, dtype=bool)
        for name in ("index", "decisions", "consecutive", "macs"):
            setattr(self, name, np.zeros(num_envs, dtype=np.int64))
        self.last = np.full(num_envs, -1)
        self.iterated = np.zeros((num_envs, NUM_LAYERS + 1), dtype=bool)
        self.penalty = np.full(num_envs, penalty, dtype=np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict]:
        if seed is not None:
            first = seed if isinstance(seed, int) else seed[0]
            self._rng = np.random.default_rng(first)
        options = options or {}
        mask = options.get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self._begin(np.flatnonzero(mask), options)
        return self._out(self._observe()), self._infos()

    def step(self, actions: Any) -> tuple[Any, ...]:
        actions = np.asarray(actions)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            assert not self._finished.any(), "a finished row was stepped"
        self.consecutive = self.consecutive * (self.last == actions) + 1
        self.last = actions
        self.iterated[np.arange(self.num_envs), actions] = True
        self.decisions = self.decisions + 1
        ends = (actions == 0) | (self.decisions >= self.max_decisions)
        cost = COSTS[actions] * self.consecutive
        rewards = ALPHA * (ends & self._correct()) - self.penalty * cost
        self.macs = (COSTS[actions] * ALWAYS_MACS).astype(np.int64)
        self._finished = ends.copy()
        infos = self._infos()
        final = {"final_obs": self._out(self._observe()), "_final_obs": self._out(ends)}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final |= {"final_info": infos, "_final_info": self._out(ends)}
            self._begin(np.flatnonzero(ends), {})
            infos = self._infos()
        outcome = (rewards.astype(np.float32), ends, np.zeros_like(ends))
        return self._out(self._observe()), *map(self._out, outcome), infos | final

    def action_masks(self) -> Any:
        return self._out(self._mask())

    def _begin(self, rows: np.ndarray, options: dict) -> None:
        drawn = self._rng.integers(self.num_samples, size=self.num_envs)
        index = np.broadcast_to(options.get("index", drawn), self.num_envs)
        drawn_penalty = self.penalty_range[0] * self.penalty_scale
        penalty = options.get("penalty", drawn_penalty)
        self.index[rows] = index[rows]
        self.penalty[rows] = np.broadcast_to(penalty, self.num_envs)[rows]
        self.last = self.last.copy()
        self.last[rows] = -1
        self.decisions[rows] = self.consecutive[rows] = 0
        self.macs[rows] = PLAIN_MACS
        self.iterated[rows] = False
        self.iterated[rows, 0] = True  # needing layer 0 is needing none
        self._finished[rows] = False

    def _correct(self) -> np.ndarray:
        return self.iterated[np.arange(self.num_envs), self.needs[self.index]]

    def _mask(self) -> np.ndarray:
        mask = ~self.iterated
        mask[:, 0] = True
        return mask

    def _observe(self) -> np.ndarray:
        confidence = (self.index[:, None] + 1.0) / (self.num_samples + 1.0)
        parts = [
            np.eye(3)[self.needs[self.index]],
            confidence,
            1.0 - confidence,
            (self.penalty / (1.0 + self.penalty))[:, None],
            np.eye(4)[self.last][:, :3],  # -1, no action yet, is the fourth
            1.0 - self.decisions[:, None] / self.max_decisions,
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _infos(self) -> dict[str, Any]:
        return {
            "index": self._out(self.index.copy()),
            "penalty": self._out(self.penalty.copy()),
            "macs": self._out(self.macs.copy()),
            "correct": self._out(self._correct().astype(np.int8)),
            "prediction": self._out(self._correct().astype(np.int64)),
            "decisions": self._out(self.decisions.copy()),
            "action_mask": self._out(self._mask().astype(np.int8)),
        }

    def _out(self, value: np.ndarray) -> Any:
        return torch.as_tensor(value) if self.output == "torch" else value


def plan_results(envs: NeedEnv, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns and answers [n, 4] of PLANS on every sample, from the definition."""
    costs = np.array([COSTS[list(plan)].sum() for plan in PLANS])
    right = [[need == 0 or need in plan for plan in PLANS] for need in envs.needs]
    correct = np.array(right)
    return (ALPHA * correct - penalty * costs).astype(np.float32), correct


def need_optimum(envs: NeedEnv, penalty: float) -> Optimum:
    """The best plan of every sample, as `dynalay_gym.envs.oracle.optimum` gives it."""
    returns, _ = plan_results(envs, penalty)
    padded = np.array([[*plan, 0, 0][:2] for plan in PLANS])
    return Optimum(returns.max(1), padded[returns.argmax(1)])


def need_best_fixed_plan(envs: NeedEnv, penalty: float) -> tuple[int, ...]:
    """The plan of the highest mean return."""
    returns, _ = plan_results(envs, penalty)
    return PLANS[int(returns.mean(0).argmax())]


def best_return(envs: NeedEnv, penalty: float) -> float:
    """Mean return of the perfect policy, where iterating pays."""
    return float(np.mean(ALPHA - penalty * COSTS[envs.needs]))
