"""What each feedback hears, where it can be said in advance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.feedbacks import (
    FEEDBACKS,
    Attended,
    FromTheRight,
    RightMean,
    SameWord,
    measure,
    new_network,
    train,
)
from dynalay_gym.data.chains import make_chains_split
from dynalay_gym.networks.layers.reading import Rereading


def reading(states: Tensor, words: int) -> Tensor:
    """Return a reading [1, H + 1, T, 1] of states [T, H], of which some are words."""
    is_word = (torch.arange(len(states)) < words).float()[:, None]
    maps = torch.cat([(1 + states) / 2 * is_word, is_word], 1)
    return maps.T[None, :, :, None]


STATES = torch.tensor([[0.5, -0.5], [0.1, 0.3], [-0.3, 0.5], [0.9, 0.9]])


def test_the_same_word_and_the_mean_to_the_end() -> None:
    z = reading(STATES, words=3)
    same = SameWord(4, 2).hear(z)[0]
    assert torch.allclose(same[:3], STATES[:3]) and not same[3].any()
    mean = RightMean(4, 2).hear(z)[0]
    expected = torch.stack([STATES[t:3].mean(0) for t in range(3)])
    assert torch.allclose(mean[:3], expected) and not mean[3].any()


@pytest.mark.parametrize("feedback", [FromTheRight, RightMean])
@torch.no_grad()
def test_what_is_right_of_a_word_is_heard_and_nothing_else(feedback: Any) -> None:
    layer, other = feedback(4, 2), STATES.clone()
    other[1] = -other[1]
    before, after = (layer.hear(reading(each, 4))[0] for each in (STATES, other))
    changed = (before != after).any(1)
    assert changed.tolist() == [True, True, False, False]


@torch.no_grad()
def test_attention_that_does_not_care_is_the_mean_over_words() -> None:
    layer = Attended(4, 2)
    layer.query.weight.zero_()
    layer.query.bias.zero_()
    heard = layer.hear(reading(STATES, words=3))[0]
    assert torch.allclose(heard, STATES[:3].mean(0).expand(4, 2))
    assert not layer.hear(reading(STATES, words=0)).any()


@pytest.mark.parametrize("name", FEEDBACKS)
def test_a_network_of_each_trains_and_only_nothing_changes_nothing(name: str) -> None:
    split = make_chains_split(300, seed=99)
    network = new_network(FEEDBACKS[name], split, seed=0)
    x = network.stem(split.inputs[:4])
    layer = network.main_layers[0].recurrence
    assert isinstance(layer, Rereading)
    with torch.no_grad():
        layer.feedback.bias.zero_()
        first = layer.read(x.y, None)
        is_same = torch.equal(layer.read(x.y, first), first)
    assert is_same == (name == "nothing")
    train(network, split, 1, 0)
    gradient = layer.feedback.weight.grad
    assert gradient is not None and bool(gradient.any()) == (name != "nothing")
    found = measure(network, split)
    with torch.no_grad():
        right = network(split.inputs).argmax(1) == split.labels
    assert found["K = 0"] == pytest.approx(100 * float(right.double().mean()))
