"""Peers that learn what to iterate by gradients through a relaxed choice.

They choose among the states of a network that is trained already, see what an agent
sees, learn on the agent split, and are chosen among on the validation split.

* **Gumbel**: one look at the plain pass, then a state is reached. Straight-through
  samples of a Gumbel softmax, averaged over relaxations, as in DynaLay's successor.
* **PonderNet**: layers are iterated bottom up; after each one a unit says whether to
  halt, with the network as it is now before it.

Axes: n samples, C choices, F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from benchmarks.paper.choices import Choices, choices
from dynalay_gym.data.splits import Split
from dynalay_gym.sessions.torch_session import TorchSession

_HIDDEN, _EPOCHS, _BATCH, _RATE = 64, 20, 256, 3e-3
_DRAWS = 10  # relaxations of a sample that are averaged


class Selector(nn.Module, ABC):
    """A small network that learns a choice.

    Args:
        num_features: Features F.
        num_outputs: Scores of each look.
        option: What a subclass says that it is; one of several is chosen.
    """

    in_order = False

    def __init__(self, num_features: int, num_outputs: int, option: float) -> None:
        super().__init__()
        self.option = option
        self.scores = nn.Sequential(
            nn.Linear(num_features, _HIDDEN),
            nn.Tanh(),
            nn.Linear(_HIDDEN, num_outputs),
        )

    @abstractmethod
    def loss(self, seen: Choices, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar."""

    @abstractmethod
    def choose(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is chosen, int64 [n]; features as in `Choices`."""


class Gumbel(Selector):
    """Chooses a state by straight-through Gumbel softmax.

    Its option is the weight of compute in the loss, in nats per plain pass.

    References:
        Paulus et al. (2021), Rao-Blackwellizing the Straight-Through Gumbel-Softmax
        Gradient Estimator.
    """

    def loss(self, seen: Choices, generator: torch.Generator) -> Tensor:
        """Return cross-entropy and weighted compute of what is drawn."""
        chosen = straight_through(self.scores(seen.features[:, 0]), generator)
        return (chosen * (seen.loss + self.option * seen.macs)).sum(1).mean()

    def choose(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return the state of the highest score."""
        scores: Tensor = self.scores(features[:, 0])
        return scores.argmax(1)


class PonderNet(Selector):
    """Halts after some layer; its option is the prior chance to halt at each look.

    References:
        Banino et al. (2021), PonderNet: Learning to Ponder.
    """

    in_order = True
    _PRIOR = 0.01  # weight of the distance from the prior, as published

    def loss(self, seen: Choices, generator: torch.Generator) -> Tensor:
        """Return the expected cross-entropy and the distance from the prior."""
        chances = halting(self.scores(seen.features)[..., 0])
        prior = halting(torch.full_like(chances, self.option).logit())
        log_ratio = (chances.clamp(min=1e-9) / prior).log()
        distance = (chances * log_ratio).sum(1)
        return ((chances * seen.loss).sum(1) + self._PRIOR * distance).mean()

    def choose(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return after how many layers each sample halts, drawn."""
        chances = halting(self.scores(features)[..., 0])
        return chances.multinomial(1, generator=generator)[:, 0]


def halting(scores: Tensor) -> Tensor:
    """Return the chance to halt at each look, [n, C], of log-odds to halt there.

    Who has not halted before the last look halts there, whatever its score.
    """
    halt = scores.sigmoid()
    halt = torch.cat([halt[:, :-1], torch.ones_like(halt[:, :1])], 1)
    going = (1 - halt).cumprod(1)
    return halt * torch.cat([torch.ones_like(halt[:, :1]), going[:, :-1]], 1)


def straight_through(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return one-hot samples [n, C] of a softmax whose gradient is a relaxation's.

    The gradient is the mean over several relaxations that all have the sample as their
    largest entry.

    Args:
        scores: Unnormalised log-probabilities [n, C].
        generator: Source of the draws.
    """
    with torch.no_grad():
        chosen = scores.softmax(1).multinomial(1, generator=generator)
        hard = torch.zeros_like(scores).scatter(1, chosen, 1.0)
        noises = [conditional_noise(scores, hard, generator) for _ in range(_DRAWS)]
    relaxed = torch.stack([(scores + noise).softmax(1) for noise in noises]).mean(0)
    return hard + relaxed - relaxed.detach()


def conditional_noise(
    scores: Tensor, hard: Tensor, generator: torch.Generator
) -> Tensor:
    """Return Gumbel noise [n, C] with which the chosen entries are the largest.

    Args:
        scores: Unnormalised log-probabilities [n, C].
        hard: The chosen entries, one-hot [n, C].
        generator: Source of the draws.
    """
    draws = torch.empty_like(scores).exponential_(generator=generator)
    first = (hard * draws).sum(1, keepdim=True) / scores.exp().sum(1, keepdim=True)
    largest = -first.log()
    others = -(draws / scores.exp() + first).log()
    return torch.where(hard > 0, largest, others) - scores


def fit(selector: Selector, seen: Choices, seed: int) -> None:
    """Train a selector.

    Args:
        selector: Changed in place.
        seen: Choices of the agent split.
        seed: Of the order of samples and of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(selector.parameters(), lr=_RATE)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(seen.loss), generator=generator)
        for rows in order.split(_BATCH):
            parts = (getattr(seen, field.name)[rows] for field in fields(seen))
            loss = selector.loss(Choices(*parts), generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def outcome(selector: Selector, seen: Choices, seed: int) -> dict[str, float]:
    """Return accuracy in % and compute in plain passes of what a selector chooses."""
    generator = torch.Generator().manual_seed(seed)
    chosen = selector.choose(seen.features, generator)[:, None]
    right, macs = (each.gather(1, chosen) for each in (seen.right, seen.macs))
    return {
        "accuracy": 100 * float(right.double().mean()),
        "compute": 1 + float(macs.double().mean()),
    }


def best_selector(
    kind: type[Selector],
    options: Sequence[float],
    session: TorchSession,
    splits: Mapping[str, Split],
    worth: float,
    seed: int,
) -> Selector:
    """Return the selector, of one for each option, that is best on validation.

    Args:
        kind: Class of the selectors.
        options: One is trained with each.
        session: The network.
        splits: Agent and validation split, by name.
        worth: Points of accuracy that a plain pass of compute must bring.
        seed: Of weights and of what is drawn.
    """
    agent, validation = (
        choices(session, splits[name], kind.in_order)
        for name in ("agent", "validation")
    )
    num_outputs = 1 if kind.in_order else agent.loss.shape[1]
    selectors = []
    for option in options:
        torch.manual_seed(seed)
        selectors.append(kind(agent.features.shape[2], num_outputs, option))
        fit(selectors[-1], agent, seed)

    def value(selector: Selector) -> float:
        found = outcome(selector, validation, seed)
        return found["accuracy"] - worth * found["compute"]

    return max(selectors, key=value)


def best_outcome(
    kind: type[Selector],
    options: Sequence[float],
    session: TorchSession,
    splits: Mapping[str, Split],
    worth: float,
    seed: int,
) -> dict[str, float]:
    """Return what `best_selector` does on the test split; see `outcome`."""
    selector = best_selector(kind, options, session, splits, worth, seed)
    seen = choices(session, splits["test"], kind.in_order)
    return outcome(selector, seen, seed)
