"""The decision process itself, for n rows at once; both env forms are shells of it.

Axes: n rows, m of them acted on, L layers, A = L + 1 actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.reward import Decision, LayerReward
from dynalay_gym.envs.transition_table import TransitionTable
from dynalay_gym.envs.walk import LayerWalk
from dynalay_gym.fixed_point.batch_invariant import take_rows
from dynalay_gym.sessions.activations import Rows
from dynalay_gym.sessions.calibration import true_log_prob
from dynalay_gym.sessions.protocol import LayerSession

Array = Tensor | NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class DecisionProblem:
    """Everything that defines the decision process except the number of rows.

    Attributes:
        session: The network.
        inputs: Samples [N, C, H, W] on the session's device.
        labels: Their classes, int64 [N].
        reward: Pays for each decision.
        max_decisions: After so many decisions the answer is given anyway.
        penalty_range: Lowest and highest penalty of an episode.
        cost_unit: MACs that count as cost 1: mean extra MACs of *always*.
        alpha: Weight of a right answer.
        split: Name of the split.
        table: Every state of every sample, in place of the network's passes.
    """

    session: LayerSession
    inputs: Tensor
    labels: Tensor
    reward: LayerReward
    max_decisions: int
    penalty_range: tuple[float, float]
    cost_unit: float
    alpha: float
    split: str
    table: TransitionTable | None = None


class LayerDynamics(LayerWalk):
    """n rows of the process, as tensors on one device.

    Args:
        problem: What is decided on.
        num_rows: Number of rows n.
        device: Where the rows live; beside the network if None.
    """

    def __init__(
        self,
        problem: DecisionProblem,
        num_rows: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(problem.session, num_rows, problem.max_decisions, device)
        self.problem = problem

    def begin(
        self,
        rows: NDArray[np.int64],
        index: NDArray[np.int64],
        penalty: NDArray[np.float32],
    ) -> None:
        """Start episodes: plain pass over the given samples.

        Args:
            rows: Rows to start, [m]; all of them the first time.
            index: Their samples, [m].
            penalty: Their penalties, [m].
        """
        where, samples = self._tensor(rows), self._tensor(index)
        images = take_rows(self.problem.inputs, samples)
        self.start(where, images, samples, self._tensor(penalty))

    def step(self, rows: Rows, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take one decision in each of the given rows.

        Args:
            rows: Distinct rows, int64 [m], or ``ALL``.
            actions: Their actions, int64 [m], in 0..L.

        Returns:
            Rewards, float32 [m], and whether the episode ended, bool [m].
        """
        assert self.begun, "begin comes before step"
        reward = self.problem.reward
        before = self._log_score(rows) if reward.uses_log_score else None
        again = self._apply(rows, actions)
        gain = torch.zeros(len(actions), device=self.device)
        if before is not None:
            gain = self._log_score(rows) - before
        stop = self._stops(rows, actions)
        decision = self._decide(rows, stop, again, gain)
        with np.errstate(over="ignore", invalid="ignore"):  # as tensors do
            rewards = _float(reward(decision))
        return torch.as_tensor(rewards), stop

    def _decide(
        self, rows: Rows, stop: Tensor, again: Tensor, gain: Tensor
    ) -> Decision:
        """What the rows did, in float32; arrays on a processor, tensors elsewhere."""
        assert self.state is not None, "begin comes before step"
        episode, here = self.episode, rows if isinstance(rows, slice) else _read(rows)
        answers = _read(self.state.logits)[here].argmax(1)
        labels = _read(self.problem.labels)[_read(episode.index)[here]]
        return Decision(
            stop=_float(_read(stop)),
            correct=_float(answers == labels),
            cost=_float(_read(self.macs)[here]) / self.problem.cost_unit,
            consecutive=_float(_read(episode.consecutive)[here]),
            again=_float(_read(again)),
            iterated=_read(self._share)[_read(self.state.path)[here]],
            log_score_gain=_read(gain),
            penalty=_read(episode.penalty)[here],
        )

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network other weights; rows stand in the same states as before."""
        states = self.states() if self.begun else None
        self.session.set_weights(weights)
        if states is not None:
            self.stand_in(states)

    def states(self) -> Tensor:
        """Bit pattern of each row's iterated layers, int64 [n]."""
        assert self.state is not None, "begin comes before states"
        return self.state.path.clone()

    def stand_in(self, states: Tensor) -> None:
        """Bring every row's sample to a state; the episodes' counts stay as they are.

        A state depends on the sample and on its bits alone, so it is the one that
        the row's own decisions would have led to.

        Args:
            states: Bit patterns, int64 [n].
        """
        images = take_rows(self.problem.inputs, self.episode.index)
        self.state = self.session.begin(images)
        self.session.reach(self.state, self._numbers, states)
        self.begun = True

    def observe(self) -> Array:
        """Observations of all rows, float32 [n, D]."""
        assert self.state is not None, "begin comes before observe"
        return self.observer(self.state, self.episode)

    def correct(self) -> Tensor:
        """Whether the current answer is right, bool [n]."""
        return self.prediction() == self.problem.labels[self.episode.index]

    def infos(self) -> dict[str, Array]:
        """Facts of all rows about their last step, [n] each (the mask [n, A])."""
        assert self.state is not None, "begin comes before infos"
        index, _, _, decisions, macs, steps, status = _copy(self._counts)
        prediction = _read(self.state.logits).argmax(1)
        right = prediction == _read(self.problem.labels)[index]
        useful = _read(self._useful)[_read(self.state.path)]
        return {
            "index": index,
            "penalty": _copy(self.episode.penalty),
            "macs": macs,
            "solver_steps": steps,
            "solver_status": status,
            "correct": _byte(right),
            "prediction": prediction,
            "decisions": decisions,
            "action_mask": _byte(useful),
        }

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    def _log_score(self, rows: Rows) -> Tensor:
        """Log-probability of the true class, float32 [m]."""
        assert self.state is not None, "begin comes before step"
        labels = self.problem.labels[self.episode.index[rows]]
        return true_log_prob(self.state.logits[rows], labels)


def _read(tensor: Tensor) -> Any:
    """The same memory as NumPy sees it, whose calls on few numbers cost less."""
    return tensor.numpy() if tensor.is_cpu else tensor


def _copy(tensor: Tensor) -> Any:
    return tensor.numpy().copy() if tensor.is_cpu else tensor.clone()


def _float(numbers: Any) -> Any:
    is_array = isinstance(numbers, np.ndarray)
    return numbers.astype(np.float32, copy=False) if is_array else numbers.float()


def _byte(numbers: Any) -> Any:
    is_array = isinstance(numbers, np.ndarray)
    return numbers.astype(np.int8) if is_array else numbers.to(torch.int8)
