"""Measures the unit of cost and the break-even penalty; walks through all states.

Axes: n samples, S states.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.sessions.protocol import FiniteSession, NetworkSession, StepCost

BATCH = 256  # samples that pass through a network together


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a network's costs and penalties are measured against, on the agent split.

    Attributes:
        rtol: Relative tolerance of the solves; 0 for a network without solves.
        max_steps: Most iterations of a solve; 0 for a network without solves.
        plain_accuracy: Accuracy of stopping at once.
        always_accuracy: Accuracy of *always*.
        always_extra_macs: Mean multiply-adds of *always* beyond the plain pass.
    """

    rtol: float = 0.0
    max_steps: int = 0
    plain_accuracy: float
    always_accuracy: float
    always_extra_macs: float

    def break_even(self, alpha: float) -> float:
        """Return the penalty at which stopping and *always* earn the same.

        Args:
            alpha: Weight of a right answer, at least 0.

        Returns:
            The penalty, at least 0, rounded to 1e-3.
        """
        return max(0.0, round(alpha * (self.always_accuracy - self.plain_accuracy), 3))

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


def calibrate(session: NetworkSession, split: Split) -> Calibration:
    """Measure a network's unit of cost by running *always* over a split.

    Args:
        session: The network.
        split: The agent split, on the session's device.
    """
    plain, always, macs = 0, 0, 0
    for start in range(0, len(split), BATCH):
        inputs = split.inputs[start : start + BATCH]
        labels = split.labels[start : start + BATCH]
        state, rows = session.begin(inputs), _all_rows(session, inputs)
        plain += int((session.logits(state, rows).argmax(1) == labels).sum())
        macs += _run_full_plan(session, state, rows)
        always += int((session.logits(state, rows).argmax(1) == labels).sum())
    solver = getattr(session, "solver", None)
    return Calibration(
        rtol=0.0 if solver is None else solver.rtol,
        max_steps=0 if solver is None else solver.max_steps,
        plain_accuracy=plain / len(split),
        always_accuracy=always / len(split),
        always_extra_macs=macs / len(split),
    )


def _run_full_plan(session: NetworkSession, state: Any, rows: Tensor) -> int:
    """Carry *always* out in all rows; return the multiply-adds of all together."""
    macs = 0
    for action in session.full_plan:
        while True:
            useful = session.useful_actions(state, rows)[:, action]
            if not bool(useful.any()):
                break
            cost = session.apply(state, rows, action * useful.long())
            macs += int(cost.macs.sum())
    return macs


def find_calibration(meta: dict[str, Any], solver: SolverConfig) -> Calibration | None:
    """Return the calibration stored with a checkpoint for some solver settings, if any.

    Args:
        meta: The checkpoint's JSON.
        solver: The settings.

    Raises:
        CheckpointError: The stored entry is malformed.
    """
    for stored in meta.get("calibrations", []):
        try:
            calibration = Calibration(**stored)
        except TypeError:
            raise CheckpointError(
                "the checkpoint's calibrations are malformed; export it again with "
                "train_main.py"
            ) from None
        if (calibration.rtol, calibration.max_steps) == (solver.rtol, solver.max_steps):
            return calibration
    return None


def visit_states(
    session: FiniteSession, inputs: Tensor
) -> Iterator[tuple[int, Any, dict[int, StepCost]]]:
    """Visit every state of some inputs, each after the fewest decisions.

    Args:
        session: The network.
        inputs: Samples [n, ...] on its device.

    Yields:
        State id; a session state with all rows in it, which the caller may modify; and
        the `StepCost` of each action from there, by action.
    """
    rows = _all_rows(session, inputs)
    pending = {0: session.begin(inputs)}  # a dict keeps the order of insertion
    seen = {0}
    while pending:
        number = next(iter(pending))
        state, costs = pending.pop(number), {}
        for action in range(1, len(session.action_names)):
            reached = int(session.next_state[number, action])
            # What leads back to the same state changes nothing.
            child = state if reached == number else state.clone()
            costs[action] = session.apply(child, rows, torch.full_like(rows, action))
            if reached not in seen:
                seen.add(reached)
                pending[reached] = child
        yield number, state, costs


def _all_rows(session: NetworkSession, inputs: Tensor) -> Tensor:
    return torch.arange(len(inputs), device=session.device)
