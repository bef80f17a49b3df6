"""What the states of a trained network are worth for every sample of a split.

Axes: n samples, C choices, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split
from dynalay_gym.sessions.calibration import BATCH
from dynalay_gym.sessions.torch_session import TorchSession


@dataclass(frozen=True)
class Choices:
    """What each choice does for every sample of a split.

    Attributes:
        features: What is seen when it can be taken, float32 [n, C, F]; [n, 1, F] if all
            are taken at once.
        loss: Cross-entropy of the answer, nats [n, C].
        right: Whether it is right, float [n, C].
        macs: Multiply-adds beyond the plain pass, in plain passes, float [n, C].
    """

    features: Tensor
    loss: Tensor
    right: Tensor
    macs: Tensor


@torch.no_grad()
def plain_features(session: TorchSession, split: Split) -> Tensor:
    """Return the features of every sample's plain pass, float32 [n, 1, F]."""
    parts = split.inputs.split(BATCH)
    seen = [session.features(session.begin(x), torch.arange(len(x))) for x in parts]
    return torch.cat(seen)[:, None]


@torch.no_grad()
def choices(session: TorchSession, split: Split, in_order: bool) -> Choices:
    """Look at every choice for every sample.

    Args:
        session: The network.
        split: The samples.
        in_order: Iterate one layer more with every choice, bottom up, from none to all;
            otherwise a choice is one of the states, by its number.
    """
    parts = []
    for start in range(0, len(split), BATCH):
        inputs = split.inputs[start : start + BATCH]
        labels = split.labels[start : start + BATCH]
        look = _in_order if in_order else _at_once
        parts.append(look(session, inputs, labels))
    return Choices(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _in_order(
    session: TorchSession, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    state, rows = session.begin(inputs), torch.arange(len(inputs))
    spent, found = torch.zeros(len(inputs)), []
    for layer in range(session.num_layers + 1):
        if layer > 0:
            cost = session.apply(state, rows, torch.full_like(rows, layer))
            spent = spent + cost.macs / session.plain_macs
        logits = session.logits(state, rows)
        found.append((session.features(state, rows), *_judged(logits, labels), spent))
    return tuple(torch.stack(each, 1) for each in zip(*found, strict=True))


def _at_once(
    session: TorchSession, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    rows, found = torch.arange(len(inputs)), []
    plain = session.begin(inputs)
    features = session.features(plain, rows)[:, None]
    for state_id in range(len(session.next_state)):
        state = plain.clone()
        cost = session.reach(state, rows, torch.full_like(rows, state_id))
        judged = _judged(session.logits(state, rows), labels)
        found.append((*judged, cost.macs / session.plain_macs))
    return features, *(torch.stack(each, 1) for each in zip(*found, strict=True))


def _judged(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and rightness of each answer, [n]."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    return loss, (logits.argmax(1) == labels).float()
