"""One batch of inputs decided on by a policy, and the checks of what a caller gives.

Axes: n inputs, m of them undecided, K classes, A actions, T = most decisions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.checks import check_actions
from dynalay_gym.envs.observation import ALL, EpisodeState, Integers, Rows
from dynalay_gym.errors import ConfigError, DataError, InvalidActionError, brief
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.policy import NOP, Policy, as_numpy
from dynalay_gym.sessions.protocol import NetworkSession, StepCost, begin_macs


class Inference(NamedTuple):
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


class Batch:
    """Inputs [n, ...] of one batch, numbered from `first`, on their way to an answer.

    Penalties are float32 [n]; see `DynaLayPredictor` for the other arguments.
    """

    def __init__(
        self,
        session: NetworkSession,
        inputs: Tensor,
        penalty: NDArray[np.float32],
        first: int,
        max_decisions: int,
        penalty_unit: float,
    ) -> None:
        self.session, self.num_actions = session, len(session.action_names)
        self.is_on_cpu = session.device.type == "cpu"
        self.rows = np.arange(len(inputs))
        self.state = session.begin(inputs)
        self.episode = EpisodeState(
            len(inputs), self.num_actions, max_decisions, penalty_unit
        )
        self.macs = begin_macs(session, inputs)  # goes on to count
        self.episode.begin(self.rows, first + self.rows, penalty, self.macs)
        self.solver_steps = np.zeros_like(self.rows)
        self.status = np.zeros_like(self.rows)  # the worst so far

    def run(self, policy: Policy, has_finite_states: bool) -> Inference:
        """Decide to the end; a row that has stopped runs nothing more.

        Args:
            policy: Chooses the actions. If it has ``plans``, it knows them all from the
                first observation on: ``plans(observations, infos)``, int64 [n, P]. If
                its ``reads_observations`` is False, they have no columns then.
            has_finite_states: Whether the session can carry such plans out in one sweep
                (`FiniteStates`), without what a look in between would need.

        Returns:
            Inference of tensors.

        Raises:
            InvalidActionError: The policy chose an action that does not exist.
        """
        if has_finite_states and hasattr(policy, "plans"):
            self._follow(policy, self.session)
        else:
            self._decide(policy)
        logits = self.session.logits(self.state, self._tensor(self.rows))
        decisions = self.episode.decisions
        evidence = (
            self.macs,
            decisions * policy.macs_per_decision,
            decisions,
            self.solver_steps,
            self.status == SolverStatus.CONVERGED,
            self.episode.history,
        )
        answers = logits.softmax(1), logits.argmax(1)
        return Inference(*answers, *map(torch.from_numpy, evidence))

    def _decide(self, policy: Policy) -> None:
        """Ask the policy step by step."""
        going = self.rows
        while len(going) > 0:
            rows = ALL if len(going) == len(self.rows) else going  # ALL is faster
            where = self._tensor(going)
            chosen = policy.act(self._observe(rows, where), self._infos(rows, where))
            actions = check_actions(chosen, len(going), self.num_actions)
            cost = self.session.apply(self.state, where, self._tensor(actions))
            taken = self._add(rows, cost)
            going = going[~self.episode.advance(rows, actions, *taken)]

    def _follow(self, policy: Any, session: Any) -> None:
        """Carry the plans of a policy out in one sweep over the network."""
        where = self._tensor(self.rows)
        seen = torch.empty(len(where), 0, dtype=torch.float32, device=where.device)
        if getattr(policy, "reads_observations", True):
            seen = self._observe(ALL, where)
        plans = policy.plans(seen, self._infos(ALL, where))
        actions = self._read_plans(plans)
        is_stop = actions == NOP
        is_over = is_stop.cumsum(1) > is_stop  # it has stopped before
        self.episode.history[:] = np.where(is_over, -1, actions)
        self.episode.decisions[:] = (~is_over).sum(1)
        reached = np.zeros_like(self.rows)
        for column in np.where(is_over, NOP, actions).T:
            reached = session.next_state[reached, column]
        self._add(ALL, session.reach(self.state, where, self._tensor(reached)))

    def _read_plans(self, plans: Any) -> Integers:
        """Return plans as int64 [n, T], cut off or filled up with NOP."""
        given, n = as_numpy(plans), len(self.rows)
        if given.ndim != 2 or len(given) != n:
            raise InvalidActionError(
                f"plans must have shape ({n}, P), not {given.shape}"
            )
        actions = np.full_like(self.episode.history, NOP)
        if given.size > 0:
            check_actions(given.ravel(), given.size, self.num_actions)
            known = given[:, : actions.shape[1]]
            actions[:, : known.shape[1]] = known
        return actions

    def _observe(self, rows: Rows, where: Tensor) -> Tensor:
        """Return the observations of some rows, float32 [m, D]."""
        seen = self.session.features(self.state, where)
        return torch.cat([seen, self._tensor(self.episode.features(rows))], 1)

    def _infos(self, rows: Rows, where: Tensor) -> dict[str, Tensor]:
        """Return what a policy may know beside the observations; copies."""
        mask = self.session.useful_actions(self.state, where).to(torch.int8)
        names = ("index", "penalty", "decisions")
        infos = {n: self._tensor(getattr(self.episode, n)[rows].copy()) for n in names}
        return infos | {"action_mask": mask}

    def _add(self, rows: Rows, cost: StepCost) -> list[Integers]:
        """Add up what some rows took, and return it: three arrays, int64 [m]."""
        parts = cost.macs, cost.solver_steps, cost.status
        taken: list[Integers] = [part.numpy(force=True) for part in parts]
        self.macs[rows] += taken[0]
        self.solver_steps[rows] += taken[1]
        self.status[rows] = np.maximum(self.status[rows], taken[2])
        return taken

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.is_on_cpu else tensor.to(self.session.device)


def read_inputs(inputs: Any, session: NetworkSession) -> Tensor:
    """Check inputs and bring them to the session's device.

    A session may say what it takes by two attributes: `in_shape`, the shape of one
    input, and `in_dtype`. What it does not say is taken as it comes. A method `encode`
    turns texts into inputs.

    Args:
        inputs: Array or tensor [n, ...] of numbers, or flat [n, D]; or texts.
        session: The network.

    Returns:
        The inputs [n, ...] in the session's dtype.

    Raises:
        ConfigError: Wrong shape or type.
        DataError: NaN or infinite numbers.
    """
    shape = getattr(session, "in_shape", None)
    dtype: torch.dtype | None = getattr(session, "in_dtype", None)
    if _are_texts(inputs) and hasattr(session, "encode"):
        inputs = session.encode(inputs)
    given = inputs if isinstance(inputs, Tensor) else _as_tensor(inputs)
    if dtype is not None and dtype.is_floating_point != given.is_floating_point():
        kind = "floats, normalised" if dtype.is_floating_point else "integers, encoded"
        raise ConfigError(f"inputs must be {kind} as in training, not {given.dtype}")
    own = tuple(given.shape[1:])
    if given.dim() == 0 or (shape and own not in (tuple(shape), (math.prod(shape),))):
        sides = "..." if shape is None else ", ".join(map(str, shape))
        raise ConfigError(
            f"inputs must have shape [n, {sides}] or be flat, not {list(given.shape)}"
        )
    found = given.detach().to(session.device, dtype)
    if found.is_floating_point() and found.numel() > 0:
        # The extremes are NaN or infinite if any number is; no mask of all is made.
        if not all(map(math.isfinite, torch.aminmax(found))):
            raise DataError("the inputs hold NaN or infinite numbers; mend them")
    return found if shape is None else found.reshape(len(found), *shape)


def _are_texts(inputs: Any) -> bool:
    """Return whether inputs are a text, or begin with one."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and inputs.dtype.kind in "US"
    if isinstance(inputs, list | tuple) and inputs:
        return isinstance(inputs[0], str | bytes)
    return isinstance(inputs, str)


def _as_tensor(values: Any) -> Tensor:
    """Return an array as a tensor; copied where PyTorch could not share its memory."""
    try:
        array = np.asarray(values)
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, native, ["C", "W"]))
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"inputs must be an array of numbers, not {brief(values)}"
        ) from None


def read_penalty(penalty: Any, num: int) -> NDArray[np.float32]:
    """Check a penalty, a number or one per input; return float32 [num].

    Raises:
        ConfigError: Wrong shape or type, negative, NaN or infinite.
    """
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(as_numpy(penalty), dtype=np.float32)
    except (TypeError, ValueError):
        raise ConfigError(
            f"penalty must be a number, or one per input, not {brief(penalty)}"
        ) from None
    if values.shape not in ((), (1,), (num,)):
        raise ConfigError(
            f"penalty must be a number, or one per input [{num}], not of shape "
            f"{list(values.shape)}"
        )
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size > 0:
        raise ConfigError(f"penalty must be finite and at least 0, not {wrong[0]}")
    return np.broadcast_to(values, num).astype(np.float32)
