"""Perplexity over all words of a text: which ones, and its value where it is known."""

from math import log

import pytest
import torch

from benchmarks.paper.perplexity import perplexity, sliding
from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork

TEXT = torch.arange(2, 15)
SPLIT = Split(TEXT[:12].view(4, 3), TEXT[3::3])


def test_every_word_behind_a_window_is_asked_for() -> None:
    windows = sliding(SPLIT, 1)
    assert windows[:, -1].tolist() == TEXT[3:].tolist()
    assert windows[4].tolist() == [6, 7, 8, 9]
    whole = sliding(SPLIT, 3)
    assert torch.equal(whole[:, :-1], SPLIT.inputs)
    assert torch.equal(whole[:, -1], SPLIT.labels)


def test_a_network_that_guesses_has_the_perplexity_of_a_guess() -> None:
    config = MainNetworkConfig(
        in_shape=(3,),
        num_classes=16,
        form="text",
        vocabulary=Vocabulary(words=("", "?", *map(str, range(14)))),
        stem=4,
        channels=(4,),
        cutoffs=(10,),
    )
    network = MainNetwork(config).eval()
    for weight in network.word_head.parameters():
        weight.data.zero_()
    found, words = perplexity(network, SPLIT, 1)
    # The first cluster's ten words and the other cluster: a choice of 11; then of 6.
    asked = TEXT[3:]
    nats = log(11) + log(6) * float((asked >= 10).double().mean())
    assert words == 10
    assert log(found) == pytest.approx(nats, rel=1e-6)
