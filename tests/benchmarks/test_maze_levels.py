"""The levels that are shown are those of the network's states."""

import torch

from benchmarks.maze_levels import (
    LENGTHS,
    accuracies,
    convergence,
    draw,
    levels,
    resized,
)
from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


def test_levels_of_an_untrained_network() -> None:
    torch.manual_seed(0)
    network = resized(MainNetwork(make_config("maze", (3, 19, 19), 4)), 9).freeze()
    split = make_maze_split(20, 9)
    shown = {
        (name, steps): logits
        for name, steps, logits, _ in levels(network, split.inputs, 1)
    }
    assert torch.equal(shown["none", 0], network.forward_path(split.inputs, 0))
    for name, steps, state_id in (
        ("near", 16, 1),
        ("map", 64, 2),
        ("near, map", 64, 3),
    ):
        expected = network.forward_path(split.inputs, state_id)
        torch.testing.assert_close(shown[name, steps], expected, rtol=1e-3, atol=1e-3)
    assert "largest modulus 0.9" in convergence(network, split)


def test_accuracy_by_length() -> None:
    split = make_maze_split(50, 9)
    found = accuracies(torch.eye(4)[split.labels], split)
    assert found["all"] == found["2 to 8"] == 100


def test_the_figure_has_a_line_per_range_of_lengths() -> None:
    row = {"steps": 4} | {f"{low} to {high}": low for low, high in LENGTHS}
    rows = [row | {"layers": name} for name in ("none", "near", "map")]
    (axes,) = draw(rows, 10).axes
    lines = [line.get_ydata().tolist() for line in axes.lines]
    assert lines == [[low, low] for low, _ in LENGTHS]
