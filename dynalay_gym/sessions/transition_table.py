"""A frozen network as a table: every state of every sample, and every action there.

Axes: n samples, S states, A actions, F features. A *table row* is a state of a sample,
``sample * S + state``; a *choice* is an action there, ``table_row * A + action``.
"""

import math
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.calibration import BATCH, visit_states
from dynalay_gym.sessions.protocol import FiniteSession, FiniteStates, NetworkSession

# Columns of a choice: what it takes, the table row that it leads to, the prediction
# there and whether it is right, whether its work was done already, and the bits of the
# change of log_score. They lie side by side in one cache line, because fetching it from
# memory is what a step over the table waits for.
CHOICE = (
    "macs",
    "solver_steps",
    "status",
    "table_row",
    "prediction",
    "correct",
    "already_iterated",
    "gain",
)

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True, kw_only=True)
class TransitionTable:
    """States and choices of all samples, in main memory.

    Attributes:
        features: What an observer sees of the network, float32 [n * S, F + P]; the last
            P columns are 0, room for what an observation has beside them.
        log_score: Log-probability of the true class, float32 [n * S].
        prediction: Current answer, int64 [n * S].
        correct: Whether it is right, bool [n * S].
        useful: Which actions can change something, bool [n * S, A].
        choices: What a choice does, int64 [n * S * A, len(CHOICE)].
    """

    features: Tensor
    log_score: Tensor
    prediction: Tensor
    correct: Tensor
    useful: Tensor
    choices: Tensor

    @property
    def num_actions(self) -> int:
        """Actions A."""
        return len(self.choices) // len(self.log_score)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def finite(session: NetworkSession, purpose: str) -> FiniteSession:
    """Return the session, if its states are finite.

    Args:
        session: Any session.
        purpose: What needs it, for the message: "a transition table".

    Raises:
        ConfigError: The session does not implement `FiniteStates`.
    """
    if not isinstance(session, FiniteStates):
        raise ConfigError(
            f"{purpose} needs a network with finitely many states; "
            f"{type(session).__name__} has no next_state, state_ids and reach "
            "(dynalay_gym.sessions.protocol.FiniteStates)"
        )
    return cast(FiniteSession, session)


def table_layout(session: FiniteSession, num_samples: int, padding: int) -> Layout:
    """Return shape and dtype of every tensor of a table, before there is one."""
    num_states, num_actions = session.next_state.shape
    rows = num_samples * num_states
    width = sum(session.feature_layout.values()) + padding
    return {
        "features": ((rows, width), torch.float32),
        "log_score": ((rows,), torch.float32),
        "prediction": ((rows,), torch.int64),
        "correct": ((rows,), torch.bool),
        "useful": ((rows, num_actions), torch.bool),
        "choices": ((rows * num_actions, len(CHOICE)), torch.int64),
    }


def num_bytes(layout: Layout) -> int:
    """Return the memory that a table takes, in bytes."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())


def build_table(
    session: FiniteSession, inputs: Tensor, labels: Tensor, padding: int = 0
) -> TransitionTable:
    """Visit every state of every sample and try every action there.

    Args:
        session: The network.
        inputs: Samples [n, ...] on its device.
        labels: Their classes, int64 [n].
        padding: Columns P of zeros behind the features.

    Returns:
        The table, on the CPU.
    """
    layout = table_layout(session, len(labels), padding)
    table = TransitionTable(
        **{
            name: torch.zeros(*shape, dtype=kind)
            for name, (shape, kind) in layout.items()
        }
    )
    size = f"transition table, {num_bytes(layout) / 2**20:.0f} MiB"
    with tqdm(  # leave=None: none stays behind inside another bar
        total=len(labels), desc=size, unit="sample", disable=None, leave=None
    ) as bar:
        for start in range(0, len(labels), BATCH):
            batch = slice(start, start + BATCH)
            _enter(table, session, start, inputs[batch], labels[batch])
            bar.update(len(labels[batch]))
    return table


def _enter(
    table: TransitionTable,
    session: FiniteSession,
    start: int,
    inputs: Tensor,
    labels: Tensor,
) -> None:
    """Enter the samples from number `start` on."""
    num_states, num_actions = session.next_state.shape
    first = (start + torch.arange(len(labels))) * num_states
    rows = torch.arange(len(labels), device=session.device)
    for number, state, costs in visit_states(session, inputs):
        logits = session.logits(state, rows)
        answers = logits.argmax(1)
        here = first + number
        features = session.features(state, rows).cpu()
        table.features[here, : features.shape[1]] = features
        table.log_score[here] = true_log_prob(logits, labels).cpu()
        table.prediction[here] = answers.cpu()
        table.correct[here] = (answers == labels).cpu()
        table.useful[here] = session.useful_actions(state, rows).cpu()
        for action, cost in costs.items():
            parts = [cost.macs, cost.solver_steps, cost.status]
            choice = here * num_actions + action
            table.choices[choice, :3] = torch.stack(parts, 1).cpu()
            already = cost.already_iterated.long().cpu()
            table.choices[choice, CHOICE.index("already_iterated")] = already
    for number in range(num_states):  # now that every state is known
        for action in range(num_actions):
            reached = first + int(session.next_state[number, action])
            _enter_arrival(table, first + number, action, reached)


def _enter_arrival(
    table: TransitionTable, here: Tensor, action: int, there: Tensor
) -> None:
    """Enter where a choice leads to, and what is known there."""
    choice = here * table.num_actions + action
    gain = table.log_score[there] - table.log_score[here]
    for name, values in (
        ("table_row", there),
        ("prediction", table.prediction[there]),
        ("correct", table.correct[there]),
        ("gain", gain.view(torch.int32)),
    ):
        table.choices[choice, CHOICE.index(name)] = values.long()


def true_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of the true class, float32 [n].

    Args:
        logits: Float [n, K].
        labels: Classes, int64 [n].
    """
    return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
