"""The unit of cost and the break-even penalty of a network, and all its states.

Axes: n samples, S = 2^L states (bit l - 1 = layer l sits on its fixed point).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.sessions.protocol import LayerSession, SessionState, StepCost

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class StateTable:
    """Every state of every sample, reached bottom up, on the CPU.

    Attributes:
        correct: Whether the answer is right, bool [n, S].
        log_score: Log-probability of the true class, float32 [n, S].
        macs: Extra MACs over the plain pass to get there, int64 [n, S].
        solver_steps: Iterations to get there, int64 [n, S].
    """

    correct: Tensor
    log_score: Tensor
    macs: Tensor
    solver_steps: Tensor


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a network's costs and penalties are measured against.

    Attributes:
        rtol: Relative tolerance of the solves.
        max_steps: Most iterations of a solve.
        plain_accuracy: Accuracy of NOP on the agent split.
        always_accuracy: Accuracy of *always* there.
        always_extra_macs: Mean extra MACs of *always* there.
    """

    rtol: float
    max_steps: int
    plain_accuracy: float
    always_accuracy: float
    always_extra_macs: float

    def break_even(self, alpha: float) -> float:
        """Penalty at which NOP and *always* earn the same, rounded to 1e-3, >= 0."""
        return max(0.0, round(alpha * (self.always_accuracy - self.plain_accuracy), 3))

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)


def calibrate(
    session: LayerSession, split: Split, table: StateTable | None = None
) -> Calibration:
    """Measure the unit of cost on a split.

    Args:
        session: The network.
        split: The agent split.
        table: Its states, if they are known already.
    """
    table = table or state_table(session, split)
    correct = table.correct.double().mean(0)
    return Calibration(
        rtol=session.solver.rtol,
        max_steps=session.solver.max_steps,
        plain_accuracy=correct[0].item(),
        always_accuracy=correct[-1].item(),
        always_extra_macs=table.macs[:, -1].double().mean().item(),
    )


def find_calibration(meta: dict[str, Any], solver: SolverConfig) -> Calibration | None:
    """Calibration stored with a checkpoint for these solver settings, if any.

    Raises:
        CheckpointError: the stored entry is malformed.
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


def state_table(session: LayerSession, split: Split) -> StateTable:
    """Visit all 2^L states of every sample of a split."""
    parts = []
    for start in range(0, len(split.labels), _BATCH):
        rows = slice(start, start + _BATCH)
        parts.append(_visit_batch(session, split.inputs[rows], split.labels[rows]))
    columns = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    correct, log_score, macs, steps = columns
    return StateTable(
        correct=correct, log_score=log_score, macs=macs, solver_steps=steps
    )


def _visit_batch(
    session: LayerSession, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, num_states = len(labels), 2**session.num_layers
    correct = torch.zeros(n, num_states, dtype=torch.bool, device=session.device)
    log_score = torch.zeros(n, num_states, device=session.device)
    macs = torch.zeros(n, num_states, dtype=torch.int64, device=session.device)
    steps = torch.zeros_like(macs)
    for path, state, cost in visit_states(session, images):
        correct[:, path] = state.logits.argmax(1) == labels
        log_score[:, path] = true_log_prob(state.logits, labels)
        macs[:, path], steps[:, path] = cost.macs, cost.solver_steps
    return correct, log_score, along_plans(macs), along_plans(steps)


def visit_states(
    session: LayerSession, images: Tensor
) -> Iterator[tuple[int, SessionState, StepCost]]:
    """Walk the tree of ascending choices; each state is reached exactly once.

    Yields:
        path (bit pattern), state of all rows, cost of the last choice on the way there.
    """
    rows = torch.arange(len(images), device=session.device)
    nothing = StepCost(rows.new_zeros(3, len(rows)))
    pending = [(0, session.begin(images), nothing)]
    while pending:
        path, state, last = pending.pop()
        yield path, state, last
        for layer in range(path.bit_length() + 1, session.num_layers + 1):
            child = state.clone()
            cost = session.apply(child, rows, torch.full_like(rows, layer))
            pending.append((path | 1 << (layer - 1), child, cost))


def parent_state(path: int) -> int:
    """State before the last choice of an ascending plan: 0b101 -> 0b001."""
    return path & ~(1 << path.bit_length() >> 1)


def along_plans(last: Tensor) -> Tensor:
    """Sum what each state's last choice took along its ascending plan, [n, S]."""
    total = last.clone()
    for path in range(1, last.shape[1]):  # a parent is smaller than its children
        total[:, path] += total[:, parent_state(path)]
    return total


def true_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the true class, float32 [n]."""
    return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]


def ascending_plan(path: int) -> tuple[int, ...]:
    """Layers of a state, bottom up: 0b101 -> (1, 3)."""
    return tuple(i + 1 for i in range(path.bit_length()) if path >> i & 1)


def accuracies(table: StateTable) -> list[float]:
    """Accuracy of every state, [S]."""
    return [float(x) for x in np.asarray(table.correct.double().mean(0))]
