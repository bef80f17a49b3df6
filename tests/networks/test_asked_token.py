"""Attention with a bias for each pair of positions, read at the token asked for."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch

from dynalay_gym.data.chains import make_chains_split
from dynalay_gym.data.sudoku.puzzles import make_sudoku_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.attention import AttentionFixedPointLayer
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.encoder import EncoderLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.testing import check_vector_env

ASKED = 2  # the token of "?"


def biased_layer(kappa: float | None = None) -> AttentionFixedPointLayer:
    torch.manual_seed(0)
    layer = AttentionFixedPointLayer(16, hidden=24, kappa=kappa, length=9)
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias, std=2.0)
    return layer


@torch.no_grad()
def test_a_bias_of_zero_is_none_and_another_moves_what_is_read() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 9, 16)
    layer = biased_layer()
    plain = AttentionFixedPointLayer(16, hidden=24)
    plain.load_state_dict(layer.state_dict(), strict=False)
    moved = (layer.apply_once(x, x) - plain.apply_once(x, x)).abs().amax()
    assert float(moved) > 0.1
    assert layer.bias is not None
    layer.bias.data.zero_()
    assert torch.equal(layer.apply_once(x, x), plain.apply_once(x, x))


@torch.no_grad()
def test_a_token_reads_by_the_bias_of_its_position() -> None:
    layer = biased_layer()
    assert layer.bias is not None
    layer.bias.data.zero_()
    layer.bias.data[:, 4, 7] = 1e4  # the fifth token reads the eighth alone
    x = torch.randn(2, 9, 16)
    other = x.clone()
    other[:, 7] += 1
    changed = (layer.apply_once(other, x) != layer.apply_once(x, x)).any(2)
    once = x.clone()
    once[:, 0] += 1
    assert changed[:, 4].all()
    assert torch.equal(layer.apply_once(once, x)[:, 4], layer.apply_once(x, x)[:, 4])


@torch.no_grad()
def test_active_tokens_are_biased_as_in_the_whole_map() -> None:
    layer, x = biased_layer().freeze(), torch.randn(5, 9, 16)
    settled = torch.rand(5, 9) < 0.5
    once = SolverConfig(rtol=1e-9, max_steps=1)
    found = layer.solve(x, x, once, settled=settled).value
    whole = layer.apply_once(x, x)
    expected = torch.where(settled[..., None], x, whole)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_certificate_holds_with_a_bias() -> None:
    layer, x = biased_layer(kappa=0.8), torch.randn(4, 9, 16)
    layer.out.mul_(20)
    layer.freeze()
    for size in (0.1, 1.0, 10.0):
        one, other = size * torch.randn(2, 4, 9, 16)
        moved = layer.apply_once(one, x) - layer.apply_once(other, x)
        before = (one - other).norm(dim=2).amax(1)
        assert (moved.norm(dim=2).amax(1) <= 0.8 * before * (1 + 1e-4)).all()


def sudoku_network() -> MainNetwork:
    torch.manual_seed(0)
    words = make_sudoku_split(1).vocabulary
    config = replace(make_config("sudoku", (16,), 4), vocabulary=words, max_steps=4)
    return MainNetwork(config)


@torch.no_grad()
def test_the_asked_token_is_read_and_no_other() -> None:
    network, split = sudoku_network().freeze(), make_sudoku_split(12, seed=99)
    top = network.tops(split.inputs, [1])[0]
    layer = network.main_layers[-1]
    assert isinstance(layer, EncoderLayer)
    pooled = layer.pool(top)
    where = (split.inputs == ASKED).int().argmax(1)
    assert torch.equal(pooled, top.y[torch.arange(12), :-1, where, 0])


@torch.no_grad()
def test_a_text_that_asks_for_nothing_is_read_as_a_whole() -> None:
    network = sudoku_network().freeze()
    top = network.tops(torch.ones(1, 16, dtype=torch.int64), [0])[0]
    mean = top.y[:, :-1, :, 0].mean(2)
    torch.testing.assert_close(network.main_layers[-1].pool(top), mean)


def test_its_environment_keeps_all_promises() -> None:
    network, split = sudoku_network().freeze(), make_sudoku_split(16, seed=99)
    given: Any = {"checkpoint": network, "split": split, "penalty": "0.1:0.9"}
    check_vector_env(
        lambda n, mode: gym.make_vec(
            "DynaLay/Sudoku-v0", num_envs=n, autoreset_mode=mode, **given
        )
    )


def test_gradients_reach_the_bias_in_the_plain_pass_and_at_fixed_points() -> None:
    network, split = sudoku_network(), make_sudoku_split(8, seed=99)
    for state in (0, 1):
        network.zero_grad()
        logits = network.forward_path(split.inputs, state)
        torch.nn.functional.cross_entropy(logits, split.labels).backward()
        layer = network.main_layers[0]
        assert isinstance(layer, EncoderLayer)
        bias = layer.recurrence.layer.bias
        assert bias is not None and bias.grad is not None
        assert float(bias.grad.abs().amax()) > 0


@pytest.mark.parametrize(
    "own", [{"in_shape": (3, 32, 32), "stem_stride": 4}, {"stem_stride": 2}]
)
def test_asked_is_for_words_alone(own: dict) -> None:
    options = {
        "in_shape": (16,),
        "num_classes": 4,
        "form": "attention",
        "stem": 8,
        "channels": (8,),
        "hidden": (8,),
        "asked": "?",
    }
    with pytest.raises(ConfigError, match="leave asked out"):
        MainNetworkConfig(**options | own)


def test_texts_without_the_word_are_refused() -> None:
    words = make_chains_split(1, seed=0).vocabulary
    config = make_config("sudoku", (7,), 5)
    with pytest.raises(ConfigError, match="no word '\\?' that says what they ask"):
        replace(config, vocabulary=words)
    text = make_config("chains", (7,), 5)
    with pytest.raises(ConfigError, match="only networks that attend take asked"):
        replace(text, asked="?")
