"""Measures the unit of cost and the break-even penalty; walks through all states.

Axes: n samples, S states.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.protocol import FiniteSession, NetworkSession, StepCost
from dynalay_gym.storage.io import plain
from dynalay_gym.storage.schema import read_as
from dynalay_gym.utils.ranges import Share

BATCH = 256  # samples that pass through a network together


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a network's costs and penalties are measured against, on the agent split.

    Attributes:
        rtol: Relative tolerance of the solves; 0 for a network without solves.
        max_steps: Most iterations of a solve; 0 for a network without solves.
        iterations_per_action: Iterations of a portion; None if an action takes all.
        plain_accuracy: Accuracy of stopping at once.
        always_accuracy: Accuracy of *always*.
        always_extra_macs: Mean multiply-adds of *always* beyond the plain pass.
    """

    rtol: float = 0.0
    max_steps: int | tuple[int, ...] = 0
    iterations_per_action: int | None = None
    plain_accuracy: Share
    always_accuracy: Share
    always_extra_macs: Annotated[float, Meta(ge=0, le=1e18)]

    @property
    def cost_unit(self) -> float:
        """Multiply-adds that count as cost 1.

        Raises:
            ConfigError: *Always* costs nothing, so that there is no such unit.
        """
        if self.always_extra_macs < 1:
            raise ConfigError(
                "iterating everything costs no multiply-add more than the plain pass: "
                "there is nothing to decide; give max_steps of at least 1"
            )
        return self.always_extra_macs

    def break_even(self, alpha: float) -> float:
        """Return the penalty at which stopping and *always* earn the same.

        Args:
            alpha: Weight of a right answer, at least 0.

        Returns:
            The penalty, at least 0, rounded to 1e-3.
        """
        return max(0.0, round(alpha * (self.always_accuracy - self.plain_accuracy), 3))

    def to_dict(self) -> dict[str, Any]:
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
    return Calibration(
        **getattr(session, "options", {}),
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


def find_calibration(
    stored: Iterable[Mapping[str, Any]], options: Mapping[str, Any]
) -> Calibration | None:
    """Return the calibration stored with a checkpoint for a session's options, if any.

    Args:
        stored: The checkpoint's calibrations.
        options: `TorchSession.options`.

    Raises:
        CheckpointError: The stored entry is malformed.
    """
    for each in stored:
        calibration = read_as(each, Calibration, "a calibration of the checkpoint")
        about = plain(calibration.to_dict())
        if all(about[name] == plain(value) for name, value in options.items()):
            return calibration
    return None


def visit_states(
    session: FiniteSession, inputs: Tensor
) -> Iterator[tuple[int, Any, dict[int, StepCost]]]:
    """Visit every state of some inputs.

    Args:
        session: The network.
        inputs: Samples [n, ...] on its device.

    Yields:
        State id; a session state with all rows in it, which the caller may modify; and
        the `StepCost` of each action from there, by action.
    """
    rows = _all_rows(session, inputs)
    pending = [(0, session.begin(inputs))]
    seen, known = {0}, dict[int, dict[int, StepCost]]()
    same_cost = getattr(session, "same_cost", None)
    while pending:
        number, state = pending.pop()  # the latest first: few states are kept at once
        costs = known[number] = {}
        for action in range(1, len(session.action_names)):
            reached = int(session.next_state[number, action])
            same = number if same_cost is None else int(same_cost[number, action])
            if same in known and same != number and reached in seen:
                costs[action] = known[same][action]
                continue
            # What leads back to the same state changes nothing.
            child = state if reached == number else state.clone()
            costs[action] = session.apply(child, rows, torch.full_like(rows, action))
            if reached not in seen:
                seen.add(reached)
                pending.append((reached, child))
        yield number, state, costs


def _all_rows(session: NetworkSession, inputs: Tensor) -> Tensor:
    return torch.arange(len(inputs), device=session.device)
