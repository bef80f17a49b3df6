"""Figure 2: losses by epoch, and what is shown of them."""

from pathlib import Path

import pytest

from benchmarks.paper.experiment import Setting
from benchmarks.paper.fig2 import Fig2
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork


def test_the_last_epoch_is_that_of_the_saved_network(tmp_path: Path) -> None:
    setting = Setting(dataset="digits", epochs=2, every=20)
    row = Fig2().run("main network", 0, setting, tmp_path)
    network = load_network(tmp_path / "network")[0].eval()
    assert isinstance(network, MainNetwork)
    test = setting.splits()["test"]
    right = 100 * (network(test.inputs).argmax(1) == test.labels).double().mean()
    last = row["epochs"][-1]["test"]
    assert len(row["epochs"]) == 2
    assert last["plain pass"]["accuracy"] == pytest.approx(float(right))
    again = Fig2().run("main network", 0, setting, tmp_path)  # of the saved network
    assert again == row


def test_means_bands_and_the_best_epoch() -> None:
    def epoch(train: float, test: float) -> dict[str, dict[str, dict[str, float]]]:
        both = {"train": train, "test": test}
        states = "plain pass", "all layers"
        return {
            part: {state: {"loss": loss, "accuracy": 50.0} for state in states}
            for part, loss in both.items()
        }

    rows = [
        {"epochs": [epoch(3, 3), epoch(2, 1), epoch(1, 2)]},
        {"epochs": [epoch(3, 3), epoch(2, 2), epoch(0, 2)]},
    ]
    (table,) = Fig2().tables(rows, Setting())
    assert table.rows[0]["train"] == {"mean": 0.5, "low": 0, "high": 1}
    assert [row["best"] for row in table.rows] == [2, 2]
    axes = Fig2().draw(rows, Setting()).axes
    assert axes[1].lines[1].get_ydata().tolist() == [3, 1.5, 2]  # type: ignore[union-attr]
