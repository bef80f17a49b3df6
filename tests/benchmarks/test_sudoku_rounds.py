"""What is shown is what the network answers, and means are those of their samples."""

from dataclasses import replace

import pytest
import torch

from benchmarks.sudoku_rounds import STEPS, Args, by_group, levels, main, ranges, solve
from dynalay_gym.data.splits import Split
from dynalay_gym.data.sudoku.puzzles import make_sudoku_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


@pytest.fixture
def split() -> Split:
    return make_sudoku_split(60, seed=99)


@pytest.fixture
def network(split: Split) -> MainNetwork:
    torch.manual_seed(0)
    config = make_config("sudoku", (16,), 4)
    return MainNetwork(replace(config, vocabulary=split.vocabulary)).freeze()


def test_levels_are_what_the_network_answers(
    network: MainNetwork, split: Split
) -> None:
    shown = dict(levels(network, split))
    assert list(shown) == [0, *STEPS]
    for steps in (0, 3):
        solver = SolverConfig(rtol=1e-30, max_steps=steps)
        answers = network.forward_path(split.inputs, int(steps > 0), solver).argmax(1)
        assert torch.equal(shown[steps], 100 * (answers == split.labels).double())


def test_wider_tolerances_take_fewer_iterations(
    network: MainNetwork, split: Split
) -> None:
    wide, narrow = (solve(network, split, rtol) for rtol in (0.3, 1e-3))
    assert wide["steps"] < narrow["steps"]
    assert 0 < narrow["computed"] <= 100
    assert narrow["converged"] == 100


def test_means_by_rounds_and_by_blanks(split: Split) -> None:
    assert split.difficulty is not None
    found = by_group(split.difficulty.double(), split)
    assert found["round 1"] == 1 and found["round 2"] == 2
    assert found["all"] == float(split.difficulty.double().mean())
    blanks = 16 - (split.inputs > 2).sum(1)
    counted = by_group(blanks.double(), split)
    (name,) = (name for name in counted if name.startswith("up to"))
    assert counted[name] <= int(name.split()[2]) < counted["more"]


def test_many_rounds_share_columns() -> None:
    assert ranges(4) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert ranges(9) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 7), (8, 9)]


def test_a_network_for_another_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="trained on sudoku6, as --checkpoint"):
        main(Args(dataset="sudoku6"))
