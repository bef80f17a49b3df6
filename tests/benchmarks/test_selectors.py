"""Selectors: chances and gradients in closed form, choices that are easy to learn."""

import pytest
import torch

from benchmarks.paper.choices import Choices, choices
from benchmarks.paper.selectors import (
    Gumbel,
    PonderNet,
    conditional_noise,
    fit,
    halting,
    outcome,
    straight_through,
)
from dynalay_gym.data.splits import load_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.sessions.torch_session import TorchSession


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_who_has_not_halted_does_so_at_the_last_look() -> None:
    assert halting(torch.zeros(1, 3)).tolist() == [[0.5, 0.25, 0.25]]
    chances = halting(torch.tensor([[0.75, 0.2, 0.9]]).logit())
    torch.testing.assert_close(chances, torch.tensor([[0.75, 0.05, 0.2]]))


def test_noise_makes_the_chosen_entry_the_largest_and_is_gumbels() -> None:
    scores = torch.tensor([1.0, -2.0, 0.5]).expand(20_000, 3)
    chosen = torch.arange(20_000)[:, None] % 3
    hard = torch.zeros(20_000, 3).scatter(1, chosen, 1.0)
    noisy = scores + conditional_noise(scores, hard, generator())
    assert torch.equal(noisy.argmax(1, keepdim=True), chosen)
    # The largest of Gumbel variables is one itself, and does not say which it was.
    largest = noisy.max(1).values - scores.logsumexp(1)
    assert float(largest.mean()) == pytest.approx(0.5772, abs=0.04)
    assert float(largest.var()) == pytest.approx(torch.pi**2 / 6, abs=0.08)


def test_samples_are_the_softmax_and_gradients_those_of_the_relaxation() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    samples = straight_through(scores, generator())
    torch.testing.assert_close(samples, samples.round())
    torch.testing.assert_close(samples.sum(1), torch.ones(20_000))
    torch.testing.assert_close(
        samples.mean(0), scores[0].softmax(0), atol=0.012, rtol=0
    )
    # With two equal scores the relaxation is p = s(x), x logistic, and its slope
    # is the mean of p (1 - p), p uniform: 1/6. (That of the softmax itself is 1/4: what
    # is straight through is biased.)
    even = torch.zeros(20_000, 2, requires_grad=True)
    straight_through(even, generator())[:, 1].sum().backward()
    assert even.grad is not None
    assert float(even.grad[:, 1].mean()) == pytest.approx(1 / 6, abs=2e-3)


def easy(num: int = 600, seed: int = 0) -> Choices:
    """Three choices at 0, 1 and 2 passes; the features say which is the one to take."""
    torch.manual_seed(seed)
    best = torch.randint(0, 3, (num,))
    right = torch.nn.functional.one_hot(best, 3).float()
    macs = torch.tensor([0.0, 1.0, 2.0]).expand(num, 3)
    return Choices(right[:, None], 3 * (1 - right), right, macs)


def in_order(seen: Choices) -> Choices:
    """The same, where each look says whether to halt there."""
    return Choices(seen.right[:, :, None], seen.loss, seen.right, seen.macs)


def test_what_is_easy_to_see_is_learnt() -> None:
    torch.manual_seed(0)
    gumbel, ponder = Gumbel(3, 3, 0.01), PonderNet(1, 1, 0.4)
    fit(gumbel, easy(2_000), 0)
    fit(ponder, in_order(easy(2_000)), 0)
    test = easy(seed=1)
    assert outcome(gumbel, test, 0)["accuracy"] == 100
    found = outcome(ponder, in_order(test), 0)
    assert found["accuracy"] > 95 and found["compute"] == pytest.approx(2, abs=0.1)


def test_compute_that_costs_more_is_not_taken() -> None:
    torch.manual_seed(0)
    gumbel, test = Gumbel(3, 3, 100.0), easy(seed=1)
    fit(gumbel, easy(2_000), 0)
    assert outcome(gumbel, test, 0)["compute"] == 1
    taken = []
    for prior in (0.1, 0.9):
        blind = in_order(easy(2_000))  # all that it can learn is how often to halt
        blind = Choices(0 * blind.features, 0 * blind.loss, blind.right, blind.macs)
        ponder = PonderNet(1, 1, prior)
        fit(ponder, blind, 0)
        taken.append(outcome(ponder, blind, 0)["compute"])
    assert taken == pytest.approx([1 + 0.9 + 0.81, 1 + 0.1 + 0.01], abs=0.1)


@pytest.mark.parametrize(("in_order", "num"), [(True, 4), (False, 8)])
def test_choices_of_a_network(in_order: bool, num: int) -> None:
    torch.manual_seed(0)
    network = MainNetwork(make_config("digits", (1, 8, 8), 10)).eval()
    session, split = TorchSession(network), load_split("digits", "validation")
    seen = choices(session, split, in_order)
    assert seen.loss.shape == seen.right.shape == seen.macs.shape == (len(split), num)
    assert seen.features.shape[:2] == (len(split), num if in_order else 1)
    assert bool((seen.macs[:, 0] == 0).all()) and bool((seen.macs[:, 1:] > 0).all())
    if in_order:
        assert bool((seen.macs.diff(dim=1) > 0).all())
    with torch.no_grad():
        logits = network(split.inputs)
    torch.testing.assert_close(
        seen.loss[:, 0],
        torch.nn.functional.cross_entropy(logits, split.labels, reduction="none"),
        atol=1e-4,
        rtol=1e-4,
    )
