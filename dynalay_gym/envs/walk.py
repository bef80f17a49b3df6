"""n inputs walked through a network, decision by decision; no label, no reward.

Axes: n rows, m of them acted on, L layers, A = L + 1 actions.
"""

from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.observation import EpisodeState, observer_of
from dynalay_gym.errors import InvalidActionError
from dynalay_gym.sessions.accel.episode import advance, follow
from dynalay_gym.sessions.activations import ALL, Rows
from dynalay_gym.sessions.protocol import (
    LayerSession,
    SessionState,
    bits_of_states,
    row_numbers,
)

NOP = 0


class LayerWalk:
    """n inputs walked through a network, decision by decision; knows no label.

    Attributes:
        state: The networks in progress; None before the first ``begin``.
        episode: Where each row stands in its episode.
        macs: MACs of the last step, int64 [n]; of the plain pass after ``begin``.
        solver_steps: Iterations of the last step, int64 [n].
        status: ``SolverStatus`` of the last step, int64 [n].
        costs: These three as one, int64 [3, n].
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
        self.observer = observer_of(session.feature_sizes, max_decisions)
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
        self.costs = self._counts[-len(costs) :]
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

    def start(self, rows: Rows, inputs: Tensor, index: Tensor, penalty: Tensor) -> None:
        """Start episodes: plain pass over the given inputs.

        Args:
            rows: Rows to start, int64 [m], or ``ALL``; all of them the first time.
            inputs: Images [m, C, H, W].
            index: Their numbers, int64 [m].
            penalty: Their penalties, float32 [m].
        """
        if self.state is None:
            self.state = self.session.begin(inputs)
        else:
            self.session.restart(self.state, self._numbers[rows], inputs)
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

    def follow(self, plans: Tensor) -> None:
        """Carry whole plans out in one sweep, and with that end all rows' episodes.

        The rows have just started.

        Args:
            plans: Their actions in order, int64 [n, P]; what comes after a NOP, or
                after ``max_decisions``, is not taken.

        Raises:
            InvalidActionError: for an action that there is not.
        """
        assert self.state is not None, "start comes before follow"
        history = np.empty(tuple(self.history.shape), dtype=np.int64)
        decisions, path = np.empty((2, self.num_rows), dtype=np.int64)
        actions = np.ascontiguousarray(plans.cpu().numpy())
        if actions.ndim != 2 or len(actions) != self.num_rows:
            raise InvalidActionError(
                f"plans must have shape ({self.num_rows}, P), not {actions.shape}"
            )
        if actions.dtype.kind not in "iu":
            raise InvalidActionError(f"plans must be integers, not {actions.dtype}")
        actions = actions.astype(np.int64, copy=False)
        bad = follow(actions, self.session.num_layers, history, decisions, path)
        if bad >= 0:
            raise InvalidActionError(
                f"actions must lie in 0..{self.num_actions - 1}, not "
                f"{actions[bad].tolist()}"
            )
        cost = self.session.reach(self.state, ALL, self._here(path), final=True)
        self.costs[:] = cost.counts
        self.history[:] = self._here(history)
        self.episode.decisions[:] = self._here(decisions)

    def _here(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def observe_rows(self, rows: Rows) -> Tensor:
        """Observations of m distinct ascending rows or ``ALL``, float32 [m, D]."""
        assert self.state is not None, "start comes before observe_rows"
        return self.observer(self.state, self.episode, rows)

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
        again = self._note(self.state, rows, actions)
        cost = self.session.apply(self.state, self._numbers[rows], actions)
        self.costs[:, rows] = cost.counts
        return again

    def _note(self, state: SessionState, rows: Rows, actions: Tensor) -> Tensor:
        """Note actions that are about to be carried out; see ``_apply``."""
        episode = self.episode
        if self.device.type == "cpu":
            again = np.empty(len(actions), dtype=np.bool_)
            advance(
                episode.last_action.numpy(),
                episode.consecutive.numpy(),
                episode.decisions.numpy(),
                self.history.numpy(),
                state.path.numpy(),
                row_numbers(state, rows),
                actions.numpy(),
                again,
            )
            return torch.from_numpy(again)
        bit = 1 << actions >> 1  # none for NOP
        sits = (state.path[rows] & bit) != 0
        self.history[self._numbers[rows], episode.decisions[rows]] = actions
        episode.advance(rows, actions)
        return sits

    def _stops(self, rows: Rows, actions: Tensor) -> Tensor:
        spent = self.episode.decisions[rows] >= self.observer.max_decisions
        return spent.logical_or_(actions == NOP)


@cache
def facts_of_states(num_layers: int) -> tuple[Tensor, Tensor]:
    """What depends on a row's state alone, for all 2^L states, to be looked up.

    Returns:
        Actions that can change something, bool [2^L, A]; share of layers that sit on
        their fixed point, float32 [2^L].
    """
    iterated = bits_of_states(num_layers).long()
    above = iterated.flip(1).cumsum(1).flip(1) - iterated
    pointless = (iterated == 1) & (above == 0)
    nop = torch.ones_like(pointless[:, :1])
    return torch.cat([nop, ~pointless], 1), iterated.float().mean(1)


def row_tensors(walk: LayerWalk) -> dict[str, Tensor]:
    """What a walk keeps of each row beside the network's state, by name; no copies."""
    episode = {f.name: getattr(walk.episode, f.name) for f in fields(walk.episode)}
    names = ("macs", "solver_steps", "status", "history")
    return episode | {name: getattr(walk, name) for name in names}
