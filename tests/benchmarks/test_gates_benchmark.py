"""Settings and figures of gated networks, on answers and shares that are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gates
from benchmarks.gates import Args, Found, form_of, settings, summary
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from tests.helpers.residual import random_gated, random_residual


def found(form: str, seed: int, correct: list[int], shares: list[float]) -> Found:
    right = np.array(correct, dtype=bool)
    figures, times = {"hard_first": 0.2}, {1: 2.0}
    return Found(form, 0.5, 4, seed, right, np.array(shares), figures, times, 0)


WHOLE = found("open", 0, [1, 1, 1, 0], [1.0] * 4)
FIRST = found("LC", 0, [1, 1, 0, 0], [0.2, 0.4, 0.8, 1.0])
SECOND = found("LC", 1, [1, 0, 1, 0], [0.2, 0.6, 0.4, 0.8])


def test_seeds_of_one_setting_are_averaged() -> None:
    row = summary([FIRST, SECOND], [WHOLE])
    assert (row["form"], row["target"], row["seeds"]) == ("LC", 0.5, 2)
    assert row["accuracy"]["mean"] == 50
    assert row["lost"]["mean"] == -25
    assert row["accuracies"] == [50, 50]
    assert row["share"] == pytest.approx(0.55)
    assert row["hard_first"] == 0.2
    assert row["times"] == {1: 2}
    # Right ones took 0.3 and 0.3, wrong ones 0.9 and 0.7.
    assert row["right_by_wrong"] == pytest.approx(0.3 / 0.8)


def test_networks_are_compared_with_their_own_backbone() -> None:
    other = found("open", 1, [1, 0, 0, 0], [1.0] * 4)
    row = summary([FIRST, SECOND._replace(backbone=1)], [WHOLE, other])
    assert row["lost"]["mean"] == pytest.approx((50 + 50 - 75 - 25) / 2)


def test_a_backbone_that_is_missing_is_named() -> None:
    one: Any = gates.Backbone(0, None, None)  # type: ignore[arg-type]
    assert gates.backbone_of(Path("net"), 3, [one]) is one
    with pytest.raises(ConfigError, match="net has seed 2, and there are 2 backbones"):
        gates.backbone_of(Path("net"), 2, [one, one])


def test_an_interval_is_over_images() -> None:
    alike = summary([WHOLE, WHOLE], [WHOLE])
    assert alike["lost"] == {"mean": 0, "low": 0, "high": 0}
    row = summary([FIRST], [WHOLE])["accuracy"]
    assert row["low"] < row["mean"] < row["high"]


def test_settings_are_told_apart_and_ordered_by_compute() -> None:
    cheap = found("L", 0, [1, 1, 1, 1], [0.1] * 4)
    assert settings([cheap, FIRST, SECOND]) == [[FIRST, SECOND], [cheap]]
    longer = SECOND._replace(epochs=8)
    assert settings([FIRST, longer]) == [[FIRST], [longer]]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "LC, scale"),
        ({"channels": False, "kind": "binary"}, "L, binary"),
        ({"layers": False, "slices": True}, "C, scale, slices"),
    ],
)
def test_forms_have_names(config: dict[str, Any], name: str) -> None:
    assert form_of(random_gated(**config)) == name


def test_static_gates_have_a_name() -> None:
    network = GatedNetwork(random_residual(), GateConfig(per_input=False))
    assert form_of(network) == "LC, scale, static"


def test_the_policy_gradient_has_a_name() -> None:
    network = random_gated(kind="binary")
    assert form_of(network, "policy-gradient") == "LC, binary, hybrid"
    assert form_of(network, "straight-through") == "LC, binary"


def test_it_measures_saved_networks(tmp_path: Path, monkeypatch, capsys) -> None:
    backbone = random_residual()
    shape = backbone.config.in_shape
    images = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % backbone.config.num_classes
    split = Split(images, labels)
    monkeypatch.setattr(gates, "load_splits", lambda *_, **__: {"test": split})
    save_network(tmp_path / "open", backbone, {})
    save_network(tmp_path / "gated", random_gated(), {})
    out, figure = tmp_path / "out.json", tmp_path / "figure.png"
    gates.main(
        Args(
            backbones=(tmp_path / "open",),
            networks=(tmp_path / "gated",),
            out=out,
            figure=figure,
            batch_sizes=(1, 8),
            rounds=1,
        )
    )
    text = capsys.readouterr().out
    assert "| LC, scale | 1.00 | 0 | 1 |" in text
    assert out.is_file()
    assert figure.stat().st_size > 1000
