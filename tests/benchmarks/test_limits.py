"""The paper's limitations: what is kept, what converges, the agent, and growth."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import limits_activations, limits_costs, limits_solves
from benchmarks.paper.experiment import Setting
from benchmarks.paper.limits import Limits, summary
from benchmarks.paper.limits_activations import ACTIVATIONS, ends
from benchmarks.paper.limits_costs import Stopwatch, cost_of, deeper, sizes, wider
from benchmarks.paper.limits_solves import (
    KeptBytes,
    forms,
    fresh,
    iterate_all,
    kept_bytes,
    memory,
    solves_of,
)
from benchmarks.paper.networks import Trained
from dynalay_gym.data.chains import make_chains_split
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.presets import make_config

SETTING = Setting(dataset="digits", epochs=1, every=40, decisions=256)
SMALL = MainNetworkConfig(
    in_shape=(1, 8, 8), num_classes=10, form="state", channels=(2, 3), strides=(1, 2)
)


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits", "validation")


def test_bytes_of_a_graph_made_by_hand() -> None:
    """Of exp, its output is kept; of a product, both factors; of a sum, nothing."""
    x = torch.ones(5, requires_grad=True)
    kept = KeptBytes([x])
    with kept:
        y = x.exp()  # 20 bytes
        total = (y * x + y).sum()  # keeps the same 20 bytes, and x, which is apart
        assert kept.now == kept.most == 20
        (total * total).backward()  # the storage of total, 4 bytes
    assert kept.now == 0 and kept.most == 24
    assert x.grad is not None  # 2 total (x + 2) exp(x), where total is 10 e
    assert torch.allclose(x.grad, torch.full_like(x, 60 * exp(2)))


def test_what_is_let_go_of_makes_room() -> None:
    kept = KeptBytes()
    with kept:
        for _ in range(3):
            y = torch.ones(5, requires_grad=True).exp()
            assert kept.now == 20
            del y
    assert kept.now == 0 and kept.most == 20


def test_unrolling_keeps_a_state_per_iteration(digits: Split) -> None:
    network = fresh(SMALL, seed=0).train()
    per_iteration = 4 * 4 * (2 * 8 * 8 + 3 * 4 * 4)  # 4 samples, float32, two layers
    found = {}
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        for steps in (1, 2, 6):
            solver = SolverConfig(rtol=1e-30, max_steps=steps, rule=rule)
            found[rule, steps], taken = kept_bytes(network, digits, 4, solver)
            assert taken == steps
    implicit = {found[GradientRule.IMPLICIT, steps] for steps in (1, 2, 6)}
    assert len(implicit) == 1
    one, two, six = (found[GradientRule.UNROLL, steps] for steps in (1, 2, 6))
    assert two - one == per_iteration and six - one == 5 * per_iteration


def test_memory_of_a_sample_is_the_same_when_measured_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits_solves, "STEPS", (1, 3))
    first, second = (memory(SETTING, 0, tmp_path) for _ in range(2))
    assert first == second
    # An iteration of the preset digits keeps its iterate and which ReLUs are open.
    added = (first[1]["unroll"] - first[0]["unroll"]) / 2
    config = make_config("digits", (1, 8, 8), 10)
    sides = [layer.hidden_size for layer in fresh(config, 0).main_layers]  # type: ignore[attr-defined]
    states = sum(h * s * s for h, s in zip(config.hidden, sides, strict=True))
    assert added == 4 * states
    assert [each["steps"] for each in first] == [each["taken"] for each in first]
    assert first[0]["implicit"] == first[1]["implicit"] <= first[0]["unroll"]
    assert first[0]["unroll"] < first[1]["unroll"]


def test_all_are_capped_by_a_tolerance_that_is_not_met(digits: Split) -> None:
    hopeless = fresh(replace(SMALL, max_steps=1, rtol=1e-9), seed=0)
    easy = fresh(replace(SMALL, max_steps=100, rtol=0.5), seed=0)
    for entry in solves_of(hopeless, digits.inputs[:6]):
        assert entry == {"iterations": 1, "largest": 1, "capped": 100}
    for entry in solves_of(easy, digits.inputs[:6]):
        assert entry["capped"] == 0 and 1 <= entry["iterations"] < 10


def test_iterating_all_is_the_full_state(digits: Split) -> None:
    network = fresh(make_config("digits", (1, 8, 8), 10), seed=0)
    with torch.no_grad():
        top, solves = iterate_all(network, digits.inputs[:5])
        logits = network.forward_path(digits.inputs[:5], 7)
        assert torch.equal(network.classify(top, 7), logits)
    assert len(solves) == 3


@pytest.mark.parametrize(
    ("dataset", "preset", "expected"),
    [
        ("digits", None, ["wide", "state"]),
        ("digits", "paper", ["state", "wide"]),
        ("maze", None, ["planner", "state"]),
    ],
)
def test_forms_that_fit_images(
    dataset: str, preset: str | None, expected: list[str], digits: Split
) -> None:
    setting = Setting(dataset=dataset, preset=preset)
    assert [each.form for each in forms(setting, digits)] == expected


def test_texts_have_one_form_that_knows_the_words() -> None:
    split = make_chains_split(6, seed=99)
    (config,) = forms(Setting(dataset="chains"), split)
    assert config.form == "text" and config.vocabulary == split.vocabulary
    assert limits_solves._kappas(config) == [config.kappa]
    entries = limits_solves.solves_on(fresh(config, 0), split, "fresh")
    assert len(entries) == 2 and "kappa" not in entries[0]


def test_costs_of_a_network_counted_by_hand(
    digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_costs, "_REPEATS", 1)
    config = replace(SMALL, max_steps=limits_costs.ITERATIONS)
    first, second = 9 * 1 * 2 * 64, 9 * 2 * 3 * 16  # 8x8 pixels, and 4x4
    solves = 10 * (9 * 2 * 2 * 64 + 9 * 3 * 3 * 16)
    found = cost_of(fresh(config, 0), digits.inputs[:2])
    assert found["plain"] == first + second + 3 * 10
    assert found["iterated"] == found["plain"] + solves
    assert found["plain minutes"] > 0
    # Twice as wide: inner convolutions have four times as many.
    wide = fresh(replace(config, **wider(config, 2)), 0)
    found = cost_of(wide, digits.inputs[:2])
    assert found["plain"] == 2 * first + 4 * second + 6 * 10
    assert found["iterated"] == found["plain"] + 4 * solves


def test_depth_takes_the_first_layers_or_repeats_the_last() -> None:
    config = make_config("small", (3, 32, 32), 10)
    assert deeper(config, 1)["channels"] == (16,)
    more = deeper(config, 4)
    assert more["channels"] == (16, 32, 64, 64) and more["hidden"][-1] == 96
    assert more["strides"] == (1, 2, 2, 1) and more["views"] == ()
    texts = make_config("chains", (7,), 5)
    assert {what for what, _, _ in sizes(texts)} == {"width", "depth"}
    assert deeper(texts, 3)["strides"] == ()


def test_sizes_that_cannot_be_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hidden stream of side 2 below cannot have a side of 3."""
    monkeypatch.setattr(limits_costs, "_REPEATS", 1)
    changes: Sequence[Any] = (
        ("unshuffle", 3, {"unshuffle": 3}),
        ("unshuffle", 2, {"unshuffle": 2}),
    )
    monkeypatch.setattr(limits_costs, "sizes", lambda config: changes)
    (entry,) = limits_costs.growth(SETTING, 0, tmp_path)
    assert entry["size"] == 2


def test_a_stopwatch_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 40.0, 100.0, 190.0])
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    called: list[int] = []
    watch = Stopwatch(called.append)
    watch(1)
    watch(2)
    assert called == [1, 2] and watch.minutes == 2


def test_tables_and_pictures_of_every_arm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits_solves, "STEPS", (1, 2))
    monkeypatch.setattr(limits_solves, "_KAPPAS", (0.5,))
    own = limits_solves.forms
    for module in (limits_solves, limits_activations):
        monkeypatch.setattr(module, "forms", lambda *args: own(*args)[:1])
    monkeypatch.setattr(limits_costs, "_REPEATS", 1)
    network, _ = load_main_network(SHIPPED / "digits")
    training = Trained(network, minutes=2.0, backward=1.0, steps=9, epochs=[])
    monkeypatch.setattr(limits_costs, "trained", lambda *_: training)
    for module in (limits_solves, limits_activations, limits_costs):
        monkeypatch.setattr(module, "shared_network", lambda *_: SHIPPED / "digits")
    experiment = Limits()
    rows: list[dict[str, Any]] = [
        {"arm": arm, "seed": 0}
        | experiment.run(arm, 0, SETTING, tmp_path / f"limits-digits/{arm}-0")
        for arm in experiment.arms
    ]
    kept, solves, functions, agent, growth = experiment.tables(rows, SETTING)
    assert [row["steps"] for row in kept.rows] == [1, 2]
    # Two bounds, its own among them, and the trained network, of three layers each.
    assert [row.get("kappa") for row in solves.rows] == [0.5] * 3 + [0.9] * 6
    assert [row["weights"] for row in solves.rows] == ["fresh"] * 6 + ["trained"] * 3
    names = [(row["weights"], row["activation"]) for row in functions.rows]
    assert names == [*product(("fresh", "trained"), ACTIVATIONS)]
    parts = {row["part"]: row for row in agent.rows}
    policy, plain = parts["agent"], parts["network, plain pass"]
    share = 100 * policy["parameters"] / plain["parameters"]
    assert policy["parameters share"]["mean"] == share
    assert policy["minutes share"]["mean"] == 50 * policy["minutes"]["mean"]
    updates = parts["agent, its updates alone"]["minutes"]["mean"]
    assert 0 < updates < policy["minutes"]["mean"]
    assert plain["macs share"]["mean"] == 100
    assert [row["size"] for row in growth.rows] == [1, 2, 4, 1, 2, 3, 4, 8, 16, 32]
    assert "| width | 4 |" in growth.markdown()
    assert len(experiment.draw(rows, SETTING).axes) == 5
    assert len(experiment.draw(rows[:1], SETTING).axes) == 1


def test_means_are_over_seeds_and_times_in_milliseconds() -> None:
    rows = [
        {"entries": [{"what": "width", "plain": 7, "plain minutes": minutes}]}
        for minutes in (1.0, 3.0)
    ]
    (entry,) = summary(rows)
    times = {"mean": 120_000, "low": 60_000, "high": 180_000}
    assert entry == {"what": "width", "plain": 7, "plain minutes": times}


@pytest.mark.parametrize("preset", ["digits", "paper"])
def test_a_relu_in_its_own_place_ends_as_the_solver_says(
    preset: str, digits: Split
) -> None:
    network = fresh(make_config(preset, (1, 8, 8), 10), seed=0)
    layers = solves_of(network, limits_solves.some_of(digits), limits_solves.COMMON)
    found = ends(network, digits, torch.relu)
    means = [each["iterations"] for each in layers]
    assert found["iterations"] == pytest.approx(sum(means) / len(means))
    assert found["largest"] == max(each["largest"] for each in layers)
    assert found["capped"] == 0


def test_activations_end_as_their_slopes_say(digits: Split) -> None:
    network = fresh(SMALL, seed=0)
    # A constant is there after the first step; a map that grows never ends.
    assert ends(network, digits, torch.ones_like)["iterations"] == 1
    assert ends(network, digits, lambda x: 100 * x)["capped"] == 100
    for function, slope in ACTIVATIONS.values():
        x = torch.linspace(-6, 6, 10_001, dtype=torch.float64, requires_grad=True)
        (derivative,) = torch.autograd.grad(function(x).sum(), x)
        assert float(derivative.abs().max()) == pytest.approx(slope, abs=3e-3)
