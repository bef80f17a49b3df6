"""LC-Net's CIFAR-10: what arms share, what is measured, and what is shown."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper.experiment import Setting
from benchmarks.paper.gated import measure
from benchmarks.paper.lcnet_cifar10 import LCNetCifar10
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.storage.saved_folder import MANIFEST_NAME
from tests.helpers.residual import random_gated, random_residual

DIGITS = Setting(dataset="digits", preset="fast", epochs=1)
CIFAR10 = Setting(dataset="cifar10", preset="fast")


def test_arms_of_a_seed_start_from_one_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Split(torch.rand(256, 1, 8, 8), torch.arange(256) % 10)
    monkeypatch.setattr(Setting, "splits", lambda _: {"main": few, "test": few})
    rows, saved = [], set()
    for arm in ("whole", "C-static 0.3"):
        folder = tmp_path / "lcnet" / arm
        folder.mkdir(parents=True)
        rows.append(LCNetCifar10().run(arm, 4, DIGITS, folder))
        shared = tmp_path / "shared-digits/residual-4/network"
        saved.add((shared / MANIFEST_NAME).stat().st_mtime_ns)
    assert len(saved) == 1
    whole, gated = (load_network(each) for each in (shared, folder / "network"))
    assert gated[0].gate_config == GateConfig(layers=False, per_input=False)
    how: list[Any] = [facts.about["training"] for _, facts in (whole, gated)]
    assert [each["epochs"] for each in how] == [1, 4]
    assert [each["seed"] for each in how] == [4, 4]
    assert how[1]["target"] == 0.3
    assert [each["minutes"] for each in rows] == [
        facts.about["minutes"] for _, facts in (whole, gated)
    ]
    assert rows[0] == measure(whole[0], few) | {"minutes": rows[0]["minutes"]}
    # Another setting does not go on with what this one left.
    with pytest.raises(ConfigError, match=r"another setting \(training\)"):
        LCNetCifar10().run("whole", 4, Setting(**vars(DIGITS) | {"epochs": 2}), folder)


def test_what_runs_is_counted() -> None:
    network = random_gated()
    inputs = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    output = network(inputs)
    labels = output.logits.argmax(1)
    labels[:10] = (labels[:10] + 1) % 3
    found = measure(network, Split(inputs, labels))
    macs = output.macs.double()
    assert found["accuracy"] == 75
    assert found["macs"] == pytest.approx(float(macs.mean()))
    assert found["share"] == pytest.approx(float(macs.mean()) / network.open_macs)
    assert found["deviation"] == pytest.approx(float(macs.std()) / network.open_macs)
    assert found["deviation"] > 0
    backbone = random_residual()
    found = measure(backbone, Split(inputs, backbone(inputs).argmax(1)))
    macs_of_all = {"macs": backbone.macs, "share": 1, "deviation": 0}
    assert found == {"accuracy": 100, **macs_of_all}


def row(arm: str, seed: int, accuracy: float, share: float) -> dict[str, Any]:
    facts = {"arm": arm, "seed": seed, "accuracy": accuracy, "share": share}
    return facts | {"macs": 2e6 * share, "deviation": 0.1, "minutes": 3.0}


ROWS = [
    *(row("whole", 0, 90.0, 1.0), row("LC 0.5", 0, 91.0, 0.5)),
    *(row("whole", 1, 92.0, 1.0), row("LC 0.5", 1, 92.5, 0.6)),
]


def test_gates_are_compared_with_their_own_network() -> None:
    table, published = LCNetCifar10().tables(ROWS, CIFAR10)
    whole, gated = table.rows
    assert "more" not in whole and whole["accuracy"]["mean"] == 91
    assert gated["more"] == {"mean": 0.75, "low": 0.5, "high": 1.0}
    assert gated["millions"]["mean"] == pytest.approx(1.1)
    best = published.rows[-1]
    assert (best["arm"], best["accuracy"]) == ("LC-Net", 95.30)
    assert best["share"] == pytest.approx(0.63, abs=0.005)
    assert "2007.15151" in published.notes


def test_every_unit_is_a_dot_and_published_ones_are_of_cifar10_alone() -> None:
    lines = LCNetCifar10().draw(ROWS, CIFAR10).axes[0].lines
    assert list(lines[1].get_xdata()) == [0.5, 0.6]
    assert [len(line.get_ydata()) for line in lines] == [2, 2, 6]
    assert len(LCNetCifar10().draw(ROWS, DIGITS).axes[0].lines) == 2
    assert len(LCNetCifar10().tables(ROWS, DIGITS)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar10"}, "give --preset fast"),
        ({"dataset": "imdb"}, "--dataset of images"),
        ({"preset": "fast", "start_from": Path("run")}, "leave --start-from out"),
    ],
)
def test_what_cannot_be_run_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LCNetCifar10().check(Setting(**options))
    LCNetCifar10().check(CIFAR10)
