"""A network whose answer is wrong until it has iterated long enough.

An input is the number of portions that it needs. Its answer is class 1, which is wrong,
up to that level and class 0 from there on; the feature `done` shows it. The best policy
goes on until then. An agent that tries both actions alike gets there once in 2^needed
episodes, so all that it learns is that thinking costs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.sessions.features import SOFTMAX_LAYOUT, softmax_summary
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.states import layer_states

LEVELS = 10


class SlowSession:
    """Two actions; a portion costs one multiply-add, the plain pass one."""

    action_names, full_plan = ("stop", "think on"), (1,)
    feature_layout = SOFTMAX_LAYOUT | {"done": 1, "level": 1}
    num_classes, plain_macs = 2, 1
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.next_state = layer_states((LEVELS,))

    def begin(self, inputs: Tensor) -> Tensor:
        """The state of a row is what it needs and the level that it has reached."""
        return torch.stack([inputs, torch.zeros_like(inputs)], 1)

    def restart(self, state: Tensor, rows: Tensor, inputs: Tensor) -> None:
        state[rows] = self.begin(inputs)

    def apply(self, state: Tensor, rows: Tensor, actions: Tensor) -> StepCost:
        full = state[rows, 1] == LEVELS
        steps = ((actions == 1) & ~full).long()
        state[rows, 1] += steps
        return StepCost(steps, steps, torch.zeros_like(steps), full & (actions == 1))

    def reach(self, state: Tensor, rows: Tensor, state_ids: Tensor) -> StepCost:
        state[rows, 1] = state_ids
        none = torch.zeros_like(state_ids)
        return StepCost(state_ids, state_ids, none, none.bool())

    def state_ids(self, state: Tensor) -> Tensor:
        return state[:, 1].clone()

    def logits(self, state: Tensor, rows: Tensor) -> Tensor:
        return torch.stack(
            [4 * self._done(state[rows]), torch.full((len(rows),), 2.0)], 1
        )

    def features(self, state: Tensor, rows: Tensor) -> Tensor:
        parts = torch.stack([self._done(state[rows]), state[rows, 1] / LEVELS], 1)
        return torch.cat([softmax_summary(self.logits(state, rows)), parts], 1)

    def useful_actions(self, state: Tensor, rows: Tensor) -> Tensor:
        more = state[rows, 1] < LEVELS
        return torch.stack([torch.ones_like(more), more], 1)

    def _done(self, state: Tensor) -> Tensor:
        return (state[:, 1] >= state[:, 0]).float()

    def fingerprint(self) -> str:
        return "slow"

    def load_weights(self, weights: Any) -> None:
        """There are none."""


def make_slow(num_envs: int, **changes: Any) -> DynaLayVectorEnv:
    """Return an environment in which every input needs 6 to 9 portions."""
    needed = torch.arange(40) % 4 + 6
    rows = torch.arange(40)
    split = Split(inputs=needed, labels=torch.zeros(40).long(), groups=rows, name="own")
    own = {"checkpoint": SlowSession(), "split": split, "reward": "three-term"}
    own |= {"penalty": 0.35, "max_decisions": LEVELS + 2, "device": "cpu"}
    return DynaLayVectorEnv(num_envs, **own | changes)


def best_slow_return() -> float:
    """Mean return of thinking until the answer is right, from the definition."""
    return float(np.mean([0.5 - 0.35 * needed / LEVELS for needed in range(6, 10)]))
