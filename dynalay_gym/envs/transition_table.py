"""A frozen network's decision process as a table: every state, every choice.

Axes: n samples, S = 2^L states (bit l - 1 = layer l sits on its fixed point),
A = L + 1 actions, D observation features. Places (``state`` of a sample) are numbered
``sample * S + state``, choices ``place * A + action``.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from tqdm import tqdm

from dynalay_gym.envs.observation import ActivationObserver
from dynalay_gym.sessions.calibration import (
    StateTable,
    along_plans,
    parent_state,
    true_log_prob,
    visit_states,
)
from dynalay_gym.sessions.protocol import LayerSession, StepCost

# Columns of a choice: its MACs, iterations and solver status, the place that it leads
# to, prediction and correctness there, whether the layer already sat there, and the
# bits of the change of log_score. All that a step asks lies together, in half a cache
# line, because fetching it from memory is what a step waits for.
CHOICE = (
    "macs",
    "solver_steps",
    "status",
    "place",
    "prediction",
    "correct",
    "again",
    "gain",
)

_BATCH = 256

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True, kw_only=True)
class TransitionTable:
    """Places and choices of all samples, in main memory.

    Attributes:
        observations: What is seen of the network, float32 [n * S, D]; the entries that
            belong to the episode are 0.
        log_score: Log-probability of the true class, float32 [n * S].
        prediction: Current answer, int64 [n * S].
        correct: Whether it is right, bool [n * S].
        choices: What a choice does, integers [n * S * A, len(CHOICE)]; its columns are
            named by ``CHOICE``.
    """

    observations: Tensor
    log_score: Tensor
    prediction: Tensor
    correct: Tensor
    choices: Tensor

    @property
    def num_actions(self) -> int:
        """Actions A."""
        return len(self.choices) // len(self.log_score)

    @property
    def num_states(self) -> int:
        """States S of a sample."""
        return 1 << (self.num_actions - 1)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def states(self) -> StateTable:
        """Every state reached bottom up: what the exact optimum is made of."""
        num_states, num_actions = self.num_states, self.num_actions
        choices = self.choices.view(-1, num_states, num_actions, len(CHOICE))
        last = torch.zeros(len(choices), num_states, 2, dtype=torch.int64)
        for path in range(1, num_states):
            chosen = choices[:, parent_state(path), path.bit_length()]
            last[:, path] = chosen[:, :2].long()
        macs, steps = along_plans(last).unbind(2)
        return StateTable(
            correct=self.correct.view(-1, num_states),
            log_score=self.log_score.view(-1, num_states),
            macs=macs,
            solver_steps=steps,
        )


def table_layout(session: LayerSession, num_samples: int) -> Layout:
    """Shape and dtype of every tensor of a table, before there is one."""
    places = num_samples << session.num_layers
    width = ActivationObserver(session.feature_sizes, 1).size
    return {
        "observations": ((places, width), torch.float32),
        "log_score": ((places,), torch.float32),
        "prediction": ((places,), torch.int64),
        "correct": ((places,), torch.bool),
        "choices": (
            (places * (session.num_layers + 1), len(CHOICE)),
            _choice_type(session, places),
        ),
    }


def _choice_type(session: LayerSession, places: int) -> torch.dtype:
    """Smallest type of a choice's columns."""
    costs, most = session.costs, session.solver.max_steps
    macs = max(
        max(part.setup) + most * part.iteration + costs.refresh(layer)
        for layer, part in enumerate(costs.layers, start=1)
    )
    fits = max(macs, places) < 2**31
    return torch.int32 if fits else torch.int64


def num_bytes(layout: Layout) -> int:
    """Memory of a table in bytes."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())


def build_table(
    session: LayerSession, images: Tensor, labels: Tensor
) -> TransitionTable:
    """Visit every state of every sample and try every choice there.

    Args:
        session: The network.
        images: Samples [n, C, H, W] on its device.
        labels: Their classes, int64 [n].

    Returns:
        The table, on the CPU.
    """
    layout = table_layout(session, len(labels))
    empty = {
        name: torch.zeros(*spec, dtype=kind) for name, (spec, kind) in layout.items()
    }
    table = TransitionTable(**empty)
    size = f"transition table, {num_bytes(layout) / 2**20:.0f} MiB"
    with tqdm(  # leave=None: none stays behind inside another bar
        total=len(labels), desc=size, unit="sample", disable=None, leave=None
    ) as bar:
        for start in range(0, len(labels), _BATCH):
            part = slice(start, start + _BATCH)
            _fill(table, session, start, images[part], labels[part])
            bar.update(len(labels[part]))
    return table


def _fill(
    table: TransitionTable,
    session: LayerSession,
    start: int,
    images: Tensor,
    labels: Tensor,
) -> None:
    """Enter the samples from ``start`` on."""
    observer = ActivationObserver(session.feature_sizes, 1)
    first = (start + torch.arange(len(labels))) * table.num_states
    rows = torch.arange(len(labels), device=session.device)
    solves, checks = {}, {}
    for path, state, cost in visit_states(session, images):
        seen = observer.network(state).cpu()
        table.observations[first + path, : seen.shape[1]] = seen
        table.log_score[first + path] = true_log_prob(state.logits, labels).cpu()
        answer = state.logits.argmax(1)
        table.prediction[first + path] = answer.cpu()
        table.correct[first + path] = (answer == labels).cpu()
        if path:
            # A check leaves the state as it is, so the walk goes on from it.
            top = torch.full_like(rows, path.bit_length())
            solves[path], checks[path] = cost, session.apply(state, rows, top)
    for before in range(table.num_states):
        _enter_choices(table, first, before, solves, checks)


def _enter_choices(
    table: TransitionTable,
    first: Tensor,
    state: int,
    solves: dict[int, StepCost],
    checks: dict[int, StepCost],
) -> None:
    """Enter the choices of one state; choosing a layer forgets all above it."""
    here = first + state
    for action in range(table.num_actions):
        bit = 1 << action >> 1  # 0 for NOP
        again, reached = bool(state & bit), state & (bit - 1) | bit if bit else state
        costs = checks if again else solves
        taken = _columns(costs[reached]) if bit else torch.zeros(len(here), 3)
        entries = here * table.num_actions + action
        table.choices[entries, :3] = taken.to(table.choices.dtype)
        table.choices[entries, 3:] = _arrival(table, here, first + reached, again)


def _columns(cost: StepCost) -> Tensor:
    return torch.stack([cost.macs, cost.solver_steps, cost.status], 1).cpu()


def _arrival(
    table: TransitionTable, here: Tensor, there: Tensor, again: bool
) -> Tensor:
    """Columns from ``place`` on."""
    gain = table.log_score[there] - table.log_score[here]
    parts = [there, table.prediction[there], table.correct[there]]
    parts += [torch.full_like(there, again), gain.view(torch.int32)]
    return torch.stack([part.to(table.choices.dtype) for part in parts], 1)
