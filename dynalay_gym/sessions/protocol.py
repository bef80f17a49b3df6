"""What an environment asks of a network: the protocol, and what an action took.

A session runs one network for many inputs at once. An *action* does a piece of work on
some rows (iterates a layer, runs a block); action 0 stops and does none. Any network
that can be run in such pieces can implement `NetworkSession`; nothing above it knows
which network it is. `docs/bring-your-own-network.md` builds one.

Axes: n rows (one input each), m of them chosen, A actions, F features, K classes,
S states of one input.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device


class SessionState(Protocol):
    """Networks in progress, one per row; opaque to everybody but its session."""

    def clone(self) -> Self:
        """Return an independent copy."""


@dataclass(frozen=True)
class StepCost:
    """What an action took, per row.

    Attributes:
        macs: Multiply-adds executed, int64 [m].
        solver_steps: Iterations of solves, int64 [m].
        status: Worst `SolverStatus` of the solves, int64 [m]; 0 (converged) if none.
        already_iterated: Whether the action found its work done already, bool [m].
    """

    macs: Tensor
    solver_steps: Tensor
    status: Tensor
    already_iterated: Tensor


class NetworkSession(Protocol):
    """A network that is run piece by piece, many inputs at a time.

    What happens to a row depends on its own input and actions alone: results are the
    same, bit for bit, whatever the batch around it and the order of the rows.

    Attributes:
        action_names: Name of each action; entry 0 stops.
        full_plan: Actions that *always* takes, each repeated while it is useful.
        feature_layout: Name and width of each part of `features`, in order. Confidence
            rules read the parts ``max_prob`` and ``entropy``, BlockDrop's reward the
            part ``iterated``.
        num_classes: Classes K.
        plain_macs: Multiply-adds of `begin` for one input, the largest one.
        device: Where the network computes.

    Where inputs differ in size, an optional method ``begin_macs(inputs)`` returns the
    multiply-adds of `begin` for each of them, int64 [n]; see `begin_macs`.
    """

    action_names: tuple[str, ...]
    full_plan: tuple[int, ...]
    feature_layout: Mapping[str, int]
    num_classes: int
    plain_macs: int
    device: device

    def begin(self, inputs: Tensor) -> Any:
        """Run the plain pass.

        Args:
            inputs: Samples [n, ...] on the session's device.

        Returns:
            A `SessionState` of n rows.
        """

    def restart(self, state: Any, rows: Tensor, inputs: Tensor) -> None:
        """Run the plain pass over new inputs in some rows.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            inputs: Samples [m, ...].
        """

    def apply(self, state: Any, rows: Tensor, actions: Tensor) -> StepCost:
        """Carry one action out in each of some rows.

        Args:
            state: Changed in place.
            rows: Distinct rows, int64 [m].
            actions: Their actions, int64 [m] in 0..A-1; 0 leaves a row as it is.

        Raises:
            ValueError: Rows or actions are out of range; nothing has changed.
        """

    def features(self, state: Any, rows: Tensor) -> Tensor:
        """Return what an observer sees of some rows: float32 [m, F] in [0, 1]."""

    def logits(self, state: Any, rows: Tensor) -> Tensor:
        """Return the current answers of some rows: float32 [m, K]."""

    def useful_actions(self, state: Any, rows: Tensor) -> Tensor:
        """Return which actions can change something: bool [m, A]; 0 always is one."""

    def fingerprint(self) -> str:
        """Return a hash: sessions with equal ones give equal results, bit for bit."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights of the same architecture; earlier states are void.

        Raises:
            CheckpointError: They belong to another architecture, or are not finite.
        """


def begin_macs(session: NetworkSession, inputs: Tensor) -> NDArray[np.int64]:
    """Return the multiply-adds of a session's `begin` for each input, int64 [n].

    Args:
        session: Any session; `plain_macs` counts if it has no ``begin_macs``.
        inputs: Samples [n, ...] on its device.
    """
    if hasattr(session, "begin_macs"):
        own: NDArray[np.int64] = session.begin_macs(inputs).cpu().numpy()
        return own
    return np.full(len(inputs), session.plain_macs)


@runtime_checkable
class FiniteStates(Protocol):
    """A session whose rows pass through finitely many states, the same for all inputs.

    Transition tables, the exact optimum and saved environments need it.

    Attributes:
        next_state: State that an action leads to, int64 [S, A]; 0 is the state after
            the plain pass. It defines the transition rule: `apply` must agree with it,
            and tables, the oracle and exact learning are derived from it.

    An optional attribute ``same_cost``, int64 [S, A], names a state from which an
    action takes as much, so that a table measures it once for all of them.
    """

    next_state: NDArray[np.int64]

    def state_ids(self, state: Any) -> Tensor:
        """Return the state of every row, int64 [n]."""

    def reach(self, state: Any, rows: Tensor, state_ids: Tensor) -> StepCost:
        """Bring rows from state 0 to given states, with no work that is not needed.

        Args:
            state: Changed in place.
            rows: Distinct rows in state 0, int64 [m].
            state_ids: Their new states, int64 [m].
        """


class FiniteSession(NetworkSession, FiniteStates, Protocol):
    """A network session with finitely many states."""


@runtime_checkable
class Inspectable(Protocol):
    """A session that shows what is inside: pictures and raw observations need it."""

    def maps(self, state: Any, rows: Tensor) -> dict[str, Tensor]:
        """Return non-negative activations of some rows by name, each [m, ...]."""

    def residual_curves(self, state: Any, row: int) -> dict[str, list[float]]:
        """Return the relative residual after each iteration, by the name of a solve."""


@runtime_checkable
class Savable(Protocol):
    """A session that a predictor can write into its folder."""

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return what recreates the session.

        Returns:
            Its kind, a name of one's own; JSON-able options; and weights by name. A
            function from these options and weights to a session is what
            ``DynaLayPredictor.load(folder, sessions={kind: function})`` calls.
        """
