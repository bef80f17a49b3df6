"""One batch of inputs decided on by a policy, and the checks of what a caller gives.

Axes: n inputs, m of them undecided, K classes, A actions, T = most decisions.
"""

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.checks import check_actions
from dynalay_gym.envs.observation import EpisodeState, Integers
from dynalay_gym.errors import ConfigError, DataError, InvalidActionError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.policy import Policy, as_numpy
from dynalay_gym.sessions.protocol import FiniteStates, NetworkSession, StepCost


@dataclass(frozen=True)
class Inference:
    """Answers and what each took; NumPy arrays or tensors, as the inputs were.

    Attributes:
        probabilities: Softmax of the logits at the stop, float32 [n, K].
        labels: The most probable class, int64 [n].
        macs: Multiply-adds of the network, plain pass included, int64 [n].
        policy_macs: Multiply-adds of the policy, int64 [n].
        decisions: Decisions taken, int64 [n].
        solver_steps: Iterations of all solves, int64 [n].
        converged: Whether every solve reached its tolerance, bool [n].
        actions: Actions in order, int64 [n, T]; -1 after the stop.
    """

    probabilities: Any
    labels: Any
    macs: Any
    policy_macs: Any
    decisions: Any
    solver_steps: Any
    converged: Any
    actions: Any

    def map(self, convert: Callable[[Any], Any]) -> "Inference":
        """Return the same with every entry converted."""
        return Inference(*(convert(getattr(self, f.name)) for f in fields(self)))

    @staticmethod
    def join(parts: "Sequence[Inference]") -> "Inference":
        """Return one of all rows; the entries are tensors."""
        if len(parts) == 1:
            return parts[0]
        columns = ([getattr(part, f.name) for part in parts] for f in fields(Inference))
        return Inference(*(torch.cat(column) for column in columns))


class Batch:
    """Inputs of one batch on their way to an answer.

    Args:
        session: The network.
        inputs: Samples [n, ...] on its device.
        penalty: Their penalties, float32 [n].
        first: Number of the first input.
        max_decisions: T.
    """

    def __init__(
        self,
        session: NetworkSession,
        inputs: Tensor,
        penalty: NDArray[np.float32],
        first: int,
        max_decisions: int,
    ) -> None:
        self.session, self.num_actions = session, len(session.action_names)
        self.rows = np.arange(len(inputs))
        self.state = session.begin(inputs)
        self.episode = EpisodeState(len(inputs), self.num_actions, max_decisions)
        self.episode.begin(self.rows, first + self.rows, penalty, session.plain_macs)
        # Multiply-adds, iterations and the worst solver status, so far.
        self.cost = np.zeros((3, len(inputs)), dtype=np.int64)
        self.cost[0] = session.plain_macs

    def decide(self, policy: Policy) -> None:
        """Let a policy decide to the end; a row that has stopped runs nothing more."""
        rows = self.rows
        while len(rows) > 0:
            where = self._tensor(rows)
            chosen = policy.act(*self._look(rows, where))
            actions = check_actions(chosen, len(rows), self.num_actions)
            cost = self.session.apply(self.state, where, self._tensor(actions))
            taken = self._add(rows, cost)
            rows = rows[~self.episode.advance(rows, actions, *taken)]

    def follow(self, plans: Callable[..., Any], next_state: Integers) -> None:
        """Carry known plans out in one sweep, with no work that only a look needs.

        Args:
            plans: `plans` of an open-loop policy.
            next_state: The network's automaton, int64 [S, A].
        """
        rows, where = self.rows, self._tensor(self.rows)
        actions = self._check_plans(plans(*self._look(rows, where)))
        reached = np.zeros_like(rows)
        while len(rows) > 0:
            chosen = actions[rows, self.episode.decisions[rows]]
            reached[rows] = next_state[reached[rows], chosen]
            nothing = np.zeros_like(rows)
            stop = self.episode.advance(rows, chosen, nothing, nothing, nothing)
            rows = rows[~stop]
        session: Any = self.session
        self._add(self.rows, session.reach(self.state, where, self._tensor(reached)))

    def result(self, macs_per_decision: int) -> Inference:
        """Return the answers as they are now, as tensors."""
        logits = self.session.logits(self.state, self._tensor(self.rows))
        decisions, (macs, steps, status) = self.episode.decisions, self.cost
        counts = macs, decisions * macs_per_decision, decisions, steps
        counts += status == SolverStatus.CONVERGED, self.episode.history
        return Inference(
            logits.softmax(1), logits.argmax(1), *map(torch.from_numpy, counts)
        )

    def _look(self, rows: Integers, where: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return observations [m, D] of some rows and the infos of a policy, copies."""
        episode, session = self.episode, self.session
        seen = session.features(self.state, where)
        mask = session.useful_actions(self.state, where).to(torch.int8)
        infos = {
            "index": self._tensor(episode.index[rows]),
            "penalty": self._tensor(episode.penalty[rows]),
            "decisions": self._tensor(episode.decisions[rows]),
            "action_mask": mask,
        }
        return torch.cat([seen, self._tensor(episode.features(rows))], 1), infos

    def _add(self, rows: Integers, cost: StepCost) -> NDArray[np.int64]:
        """Add up what some rows took, and return it as int64 [3, m]."""
        parts = cost.macs, cost.solver_steps, cost.status
        taken = np.stack([part.cpu().numpy() for part in parts])
        self.cost[:2, rows] += taken[:2]
        self.cost[2, rows] = np.maximum(self.cost[2, rows], taken[2])
        return taken

    def _check_plans(self, plans: Any) -> Integers:
        """Return plans as int64 [n, P + 1], the last one NOP."""
        given = as_numpy(plans)
        if given.ndim != 2 or len(given) != len(self.rows):
            raise InvalidActionError(
                f"plans must have shape ({len(self.rows)}, P), not {given.shape}"
            )
        flat = np.append(given, np.zeros_like(given[:, :1]), axis=1).ravel()
        actions = check_actions(flat, flat.size, self.num_actions)
        return actions.reshape(len(given), -1)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.session.device)


@torch.no_grad()
def infer_batch(
    session: NetworkSession,
    policy: Policy,
    inputs: Tensor,
    penalty: NDArray[np.float32],
    first: int,
    max_decisions: int,
) -> Inference:
    """Decide on one batch; see `Batch` for the arguments.

    Returns:
        Inference of tensors.

    Raises:
        InvalidActionError: The policy chose an action that does not exist.
    """
    batch = Batch(session, inputs, penalty, first, max_decisions)
    plans = getattr(policy, "plans", None)
    if plans is not None and isinstance(session, FiniteStates):
        batch.follow(plans, session.next_state)
    else:
        batch.decide(policy)
    return batch.result(policy.macs_per_decision)


def read_inputs(inputs: Any, session: NetworkSession) -> Tensor:
    """Check inputs and bring them to the session's device.

    A session may say what it takes by two attributes: `in_shape`, the shape of one
    input, and `in_dtype`. What it does not say is taken as it comes.

    Args:
        inputs: Array or tensor [n, ...] of numbers, or flat [n, D].
        session: The network.

    Returns:
        The inputs [n, ...] in the session's dtype.

    Raises:
        ConfigError: Wrong shape or type.
        DataError: NaN or infinite numbers.
    """
    shape = getattr(session, "in_shape", None)
    dtype: torch.dtype | None = getattr(session, "in_dtype", None)
    given = inputs if isinstance(inputs, Tensor) else _as_tensor(inputs)
    if dtype is not None and dtype.is_floating_point != given.is_floating_point():
        kind = "floats, prepared" if dtype.is_floating_point else "integers, encoded"
        raise ConfigError(f"inputs must be {kind} as in training, not {given.dtype}")
    own = tuple(given.shape[1:])
    if given.dim() == 0 or (shape and own not in (shape, (math.prod(shape),))):
        sides = "..." if shape is None else ", ".join(map(str, shape))
        raise ConfigError(
            f"inputs must have shape [n, {sides}] or be flat, not {list(given.shape)}"
        )
    found = given.detach().to(session.device, dtype or given.dtype)
    # The extremes are NaN or infinite if any number is; no mask of all is made.
    # (NumPy's are found without threads, which would delay ours afterwards.)
    if found.is_floating_point() and found.numel() > 0:
        is_plain = found.is_cpu and found.dtype != torch.bfloat16
        numbers: Any = found.numpy() if is_plain else found
        if not (math.isfinite(numbers.min()) and math.isfinite(numbers.max())):
            raise DataError("the inputs hold NaN or infinite numbers; mend them")
    return found if shape is None else found.reshape(len(found), *shape)


def _as_tensor(values: Any) -> Tensor:
    """Return an array as a tensor; copied where PyTorch could not share its memory."""
    try:
        array = np.asarray(values)
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, native, ["C", "W"]))
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"inputs must be an array of numbers, not {reprlib.repr(values)}"
        ) from None


def read_penalty(penalty: Any, num: int) -> NDArray[np.float32]:
    """Check a penalty, a number or one per input; float32 [num].

    Raises:
        ConfigError: Wrong shape or type, negative, NaN or infinite.
    """
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(as_numpy(penalty), dtype=np.float32)
    except (TypeError, ValueError):
        raise ConfigError(
            f"penalty must be a number or an array, not {reprlib.repr(penalty)}"
        ) from None
    if values.shape not in ((), (1,), (num,)):
        raise ConfigError(
            f"penalty must be a number, or one per input [{num}], not of shape "
            f"{list(values.shape)}"
        )
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size > 0:
        raise ConfigError(f"penalty must be finite and at least 0, not {wrong[0]}")
    spread = np.empty(num, dtype=np.float32)
    spread[:] = values
    return spread
