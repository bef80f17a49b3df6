"""The decision process itself, for n rows at once; both env forms are shells of it.

Axes: n rows, m of them acted on, L layers, A = L + 1 actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.calibration import true_log_prob
from dynalay_gym.envs.observation import ActivationObserver, EpisodeState
from dynalay_gym.envs.reward import Decision, LayerReward
from dynalay_gym.envs.session import LayerSession, Rows, SessionState
from dynalay_gym.envs.transition_table import TransitionTable

NOP = 0
Array = Tensor | NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that defines the decision process except the number of rows.

    Attributes:
        session: The network.
        images: Samples [N, C, H, W] on the session's device.
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
    images: Tensor
    labels: Tensor
    reward: LayerReward
    max_decisions: int
    penalty_range: tuple[float, float]
    cost_unit: float
    alpha: float
    split: str
    table: TransitionTable | None = None


class LayerWalk:
    """n inputs walked through a network, decision by decision; knows no label.

    Attributes:
        state: The networks in progress; None before the first ``begin``.
        episode: Where each row stands in its episode.
        macs: MACs of the last step, int64 [n]; of the plain pass after ``begin``.
        solver_steps: Iterations of the last step, int64 [n].
        status: ``SolverStatus`` of the last step, int64 [n].
        history: Actions in order, int64 [n, max_decisions], for pictures; -1 where
            none was taken.
        begun: Whether all rows have begun an episode.

    Args:
        session: The network.
        num_rows: Number of rows n.
        max_decisions: After so many decisions the answer is given anyway.
        device: Where the rows live; beside the network if None.
    """

    def __init__(
        self,
        session: LayerSession,
        num_rows: int,
        max_decisions: int,
        device: torch.device | None = None,
    ) -> None:
        self.session, self.num_rows = session, num_rows
        self.device = session.device if device is None else device
        self.num_actions = session.num_layers + 1
        self.observer = ActivationObserver(session.feature_sizes, max_decisions)
        self.state: SessionState | None = None
        # One block, so that rows begin and infos are copied in one operation.
        self._counts = torch.zeros(7, num_rows, dtype=torch.int64, device=self.device)
        self._penalty = torch.zeros(num_rows, device=self.device)
        fresh = [0, -1, 0, 0, session.costs.plain_pass, 0, 0]
        self._fresh = self._counts.new_tensor(fresh)[:, None]
        self._numbers = torch.arange(num_rows, device=self.device)
        facts = facts_of_states(session.num_layers)
        self._useful, self._share = (fact.to(self.device) for fact in facts)
        self.history = self._counts.new_full((num_rows, max_decisions), -1)
        self.begun = False
        self._name_counts()

    def _name_counts(self) -> None:
        index, last_action, consecutive, decisions, *costs = self._counts.unbind()
        self.macs, self.solver_steps, self.status = costs
        self.episode = EpisodeState(
            index=index,
            penalty=self._penalty,
            last_action=last_action,
            consecutive=consecutive,
            decisions=decisions,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a copy's state; its names must share the copy's memory."""
        self.__dict__.update(state)
        self._name_counts()

    def start(
        self, rows: Tensor, inputs: Tensor, index: Tensor, penalty: Tensor
    ) -> None:
        """Start episodes: plain pass over the given inputs.

        Args:
            rows: Rows to start, int64 [m]; all of them the first time.
            inputs: Images [m, C, H, W].
            index: Their numbers, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        if self.state is None:
            self.state = self.session.begin(inputs)
        else:
            self.session.restart(self.state, rows, inputs)
        self.history[rows] = -1
        self._counts[:, rows] = self._fresh
        self.episode.index[rows] = index
        self.episode.penalty[rows] = penalty
        self.begun = True

    def advance(self, rows: Rows, actions: Tensor) -> Tensor:
        """Take one decision in each of the given rows; only these run anything.

        Args:
            rows: Distinct rows, int64 [m], or ``ALL``.
            actions: Their actions, int64 [m], in 0..L.

        Returns:
            Whether the answer is given now, bool [m].
        """
        self._apply(rows, actions)
        return self._stops(rows, actions)

    def follow(self, rows: Tensor, plans: Tensor) -> None:
        """Carry whole plans out in one sweep, and with that end the rows' episodes.

        Args:
            rows: Distinct rows that have just started, int64 [m].
            plans: Their actions in order, int64 [m, P]; what comes after a NOP, or
                after ``max_decisions``, is not taken.
        """
        assert self.state is not None, "start comes before follow"
        plans = plans[:, : self.observer.max_decisions]
        stops = (plans == NOP).long()
        taken = stops.cumsum(1) == stops  # no NOP before it
        path = torch.zeros_like(rows)
        for actions in torch.where(taken, plans, NOP).unbind(1):
            bit = 1 << actions >> 1  # none for NOP
            path = torch.where(bit > 0, path & (bit - 1) | bit, path)
        cost = self.session.reach(self.state, rows, path)
        self.macs[rows], self.status[rows] = cost.macs, cost.status
        self.solver_steps[rows] = cost.solver_steps
        self.history[rows, : plans.shape[1]] = torch.where(taken, plans, -1)
        self.episode.decisions[rows] = taken.sum(1)

    def observe_rows(self, rows: Tensor) -> Tensor:
        """Observations of m distinct ascending rows, float32 [m, D]."""
        assert self.state is not None, "start comes before observe_rows"
        if len(rows) == self.num_rows:
            return self.observer(self.state, self.episode)
        return self.observer(self.state.summary(rows), self.episode.take(rows))

    def prediction(self) -> Tensor:
        """Current answer of all rows, int64 [n]."""
        assert self.state is not None, "begin comes before prediction"
        return self.state.logits.argmax(1)

    def action_mask(self) -> Tensor:
        """Actions that can change something, bool [n, A].

        A layer that sits on its fixed point with nothing above it iterated is masked:
        choosing it can only cost. NOP never is.
        """
        assert self.state is not None, "begin comes before action_mask"
        return self._useful.index_select(0, self.state.path)

    def _apply(self, rows: Rows, actions: Tensor) -> Tensor:
        """Carry the actions out; whether the layer already sat there, bool [m]."""
        assert self.state is not None, "begin comes before step"
        again = self._sits(rows, actions)
        self.history[self._numbers[rows], self.episode.decisions[rows]] = actions
        self.macs[rows] = self.solver_steps[rows] = self.status[rows] = 0
        iterating = (actions != NOP).nonzero().flatten()
        if iterating.numel() > 0:
            some = self._numbers[rows][iterating]
            cost = self.session.apply(self.state, some, actions[iterating])
            self.macs[some], self.status[some] = cost.macs, cost.status
            self.solver_steps[some] = cost.solver_steps
        self.episode.advance(rows, actions)
        return again

    def _stops(self, rows: Rows, actions: Tensor) -> Tensor:
        spent = self.episode.decisions[rows] >= self.observer.max_decisions
        return (actions == NOP) | spent

    def _sits(self, rows: Rows, actions: Tensor) -> Tensor:
        """Whether the chosen layer already sits on its fixed point, bool [m]."""
        assert self.state is not None, "begin comes before step"
        bit = 1 << actions >> 1  # none for NOP
        return (self.state.path[rows] & bit) != 0


class LayerDynamics(LayerWalk):
    """n rows of the process, as tensors on one device.

    Args:
        problem: What is decided on.
        num_rows: Number of rows n.
        device: Where the rows live; beside the network if None.
    """

    def __init__(
        self, problem: Problem, num_rows: int, device: torch.device | None = None
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
        self.start(where, self.problem.images[samples], samples, self._tensor(penalty))

    def step(self, rows: Rows, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take one decision in each of the given rows.

        Args:
            rows: Distinct rows, int64 [m], or ``ALL``.
            actions: Their actions, int64 [m], in 0..L.

        Returns:
            Rewards, float32 [m], and whether the episode ended, bool [m].
        """
        assert self.begun, "begin comes before step"
        episode = self.episode
        reward = self.problem.reward
        before = self._log_score(rows) if reward.uses_log_score else None
        again = self._apply(rows, actions)
        stop = self._stops(rows, actions)
        gain = torch.zeros_like(episode.penalty[rows])
        if before is not None:
            gain = self._log_score(rows) - before
        decision = Decision(
            stop=stop,
            correct=self.correct()[rows],
            cost=self.macs[rows] / self.problem.cost_unit,
            consecutive=episode.consecutive[rows],
            again=again,
            iterated=self._iterated_share(rows),
            log_score_gain=gain,
            penalty=episode.penalty[rows],
        )
        return reward(decision).float(), stop

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
        self.state = self.session.begin(self.problem.images[self.episode.index])
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
        index, _, _, decisions, macs, steps, status = self._counts.clone().unbind()
        return {
            "index": index,
            "penalty": self.episode.penalty.clone(),
            "macs": macs,
            "solver_steps": steps,
            "solver_status": status,
            "correct": self.correct().to(torch.int8),
            "prediction": self.prediction(),
            "decisions": decisions,
            "action_mask": self.action_mask().to(torch.int8),
        }

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    def _log_score(self, rows: Rows) -> Tensor:
        """Log-probability of the true class, float32 [m]."""
        assert self.state is not None, "begin comes before step"
        labels = self.problem.labels[self.episode.index[rows]]
        return true_log_prob(self.state.logits[rows], labels)

    def _iterated_share(self, rows: Rows) -> Tensor:
        """Share of layers that sit on their fixed point, float32 [m]."""
        assert self.state is not None, "begin comes before step"
        return self._share.index_select(0, self.state.path[rows])


@cache
def facts_of_states(num_layers: int) -> tuple[Tensor, Tensor]:
    """What depends on a row's state alone, for all 2^L states, to be looked up.

    Returns:
        Actions that can change something, bool [2^L, A]; share of layers that sit on
        their fixed point, float32 [2^L].
    """
    iterated = (torch.arange(2**num_layers)[:, None] >> torch.arange(num_layers)) & 1
    above = iterated.flip(1).cumsum(1).flip(1) - iterated
    pointless = (iterated == 1) & (above == 0)
    nop = torch.ones_like(pointless[:, :1])
    return torch.cat([nop, ~pointless], 1), iterated.float().mean(1)


def row_tensors(walk: LayerWalk) -> dict[str, Tensor]:
    """What a walk keeps of each row beside the network's state, by name; no copies."""
    episode = {f.name: getattr(walk.episode, f.name) for f in fields(walk.episode)}
    names = ("macs", "solver_steps", "status", "history")
    return episode | {name: getattr(walk, name) for name in names}
