"""Theorem 1 and the a-priori bound: on a known map, and on layers of all forms."""

from dataclasses import replace

import pytest
import torch

from benchmarks.paper.experiment import Setting
from benchmarks.paper.theory import Theory, from_starts, measured
from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.data.splits import load_split
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config

TEXTS = MainNetworkConfig(
    in_shape=(7,),
    num_classes=5,
    form="text",
    vocabulary=VOCABULARY,
    stem=4,
    channels=(4, 4),
    max_steps=3,
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts need not converge; do not wait for them."""
    monkeypatch.setattr("benchmarks.paper.theory._STARTS", 2)
    monkeypatch.setattr("benchmarks.paper.theory._EXACT", 100)


def test_a_map_that_halves_distances() -> None:
    offset = torch.tensor([[1.0, -2.0], [3.0, 0.0]], dtype=torch.float64)
    fixed, starts = 2 * offset, [torch.zeros_like(offset), 5 + offset]
    apart, allowed, factor = from_starts(
        lambda z: z / 2 + offset, lambda z: z.norm(dim=1), starts, fixed, 0.5
    )
    assert factor == pytest.approx(0.5)
    # A halving map is as far from its fixed point as its last step was long.
    assert allowed is not None and 0 < apart == pytest.approx(allowed)


@pytest.mark.parametrize("form", ["wide", "state", "planner", "text"])
def test_what_is_certified_holds(form: str) -> None:
    torch.manual_seed(0)
    if form == "text":
        network, split = MainNetwork(TEXTS), make_chains_split(6, seed=99)
    elif form == "planner":
        split = load_split("maze", "validation")
        config = make_config("maze", tuple(split.inputs.shape[1:]), 4)
        network = MainNetwork(replace(config, max_steps=4))
    else:
        split = load_split("digits", "validation")
        config = make_config("digits", (1, 8, 8), 10)
        if form == "state":
            plain = {"hidden": (), "pools": (), "unshuffle": 1}
            config = replace(config, form="state", **plain)  # type: ignore[arg-type]
        network = MainNetwork(config)
    inputs = split.inputs[:6]
    if inputs.is_floating_point():
        inputs = inputs.double()
    layers = [*measured(network.double().freeze(), inputs, seed=0)]
    assert len(layers) == network.num_layers
    for layer in layers:
        assert layer["norm"] == ("sup" if form == "planner" else "L2")
        if form == "text":
            assert layer["modulus"] is layer["share"] is layer["bounds"] is None
        else:
            assert 0 < layer["modulus"] < 1
            assert layer["measured"] <= layer["modulus"] * (1 + 1e-9)
            assert layer["share"] <= 1 + 1e-9
            assert layer["apart"] <= layer["allowed"] * (1 + 1e-6) + 1e-12


def test_the_table_and_the_picture() -> None:
    torch.manual_seed(0)
    network = MainNetwork(TEXTS).double().freeze()
    texts = make_chains_split(6, seed=99).inputs
    rows = [{"layers": [*measured(network, texts, seed)]} for seed in (0, 1)]
    (table,) = Theory().tables(rows, Setting(dataset="chains"))
    assert [each["layer"] for each in table.rows] == [1, 2]
    factors = [row["layers"][0]["measured"] for row in rows]
    assert table.rows[0]["measured"]["high"] == max(factors)
    assert "modulus" not in table.rows[0]
    assert len(Theory().draw(rows, Setting()).axes) == 2
