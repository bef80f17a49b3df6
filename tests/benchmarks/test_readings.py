"""What is shown is what the network answers, and means are those of their texts."""

from dataclasses import replace

import torch

from benchmarks.readings import STEPS, by_difficulty, levels, solves
from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


def test_levels_and_solves_of_an_untrained_network() -> None:
    torch.manual_seed(0)
    config = replace(make_config("chains", (7,), 5), vocabulary=VOCABULARY)
    network = MainNetwork(config).freeze()
    split = make_chains_split(60, seed=99)
    shown = {(name, steps): right for name, steps, right in levels(network, split)}
    assert len(shown) == 1 + 3 * len(STEPS)
    plain = network.forward_path(split.inputs, 0).argmax(1) == split.labels
    assert torch.equal(shown["none", 0], 100 * plain.double())
    rows = solves(network, split)
    assert {row["layer"] for row in rows} == {"layer 1", "layer 2"}
    assert all(1 <= row["steps"] <= 8 for row in rows)


def test_means_by_difficulty() -> None:
    split = make_chains_split(60, seed=99)
    assert split.difficulty is not None
    found = by_difficulty(split.difficulty.double(), split)
    assert found["needs 1"] == 1 and found["needs 2"] == 2
    assert found["all"] == float(split.difficulty.double().mean())
