"""Figure 6: what is measured on few samples and on all, and how seeds are paired."""

import pytest
import torch

from benchmarks.paper.experiment import Setting
from benchmarks.paper.fig6 import STATES, Fig6, on_both
from dynalay_gym.data.splits import load_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


def test_a_state_is_measured_on_all_samples_and_on_a_few() -> None:
    torch.manual_seed(0)
    network = MainNetwork(make_config("digits", (1, 8, 8), 10)).freeze()
    split = load_split("digits", "validation")
    found = on_both(network, split, STATES["Model 2"])
    right = network.forward_path(split.inputs, 3).argmax(1) == split.labels
    assert found["all"]["accuracy"] == pytest.approx(100 * float(right.double().mean()))
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    few = 100 * float(right[drawn[:100]].double().mean())
    assert found["few"]["accuracy"] == pytest.approx(few)


def test_differences_are_of_the_same_seed() -> None:
    def unit(arm: str, seed: int, accuracy: float) -> dict[str, object]:
        part = {"accuracy": accuracy, "loss": 1.0, "compute": 2.0, "converged": 99.0}
        return {"arm": arm, "seed": seed, "all": part, "few": part, "minutes": 1.0}

    rows = [
        unit("Model 0", 0, 80.0),
        unit("Model 0", 1, 90.0),
        unit("Model 3", 0, 85.0),
        unit("Model 3", 1, 91.0),
    ]
    (table,) = Fig6().tables(rows, Setting())
    plain, full = table.rows
    assert "more" not in plain
    assert full["more"] == {"mean": 3.0, "low": 1.0, "high": 5.0}
    assert "+3.00 (+1.00 to +5.00)" in table.markdown()
    assert len(Fig6().draw(rows, Setting()).axes) == 4
