"""Figure 7: what is trained and measured, and how it is summed up."""

from dataclasses import replace

import pytest
import torch

from benchmarks.paper.experiment import Setting
from benchmarks.paper.fig7 import STATES, Fig7
from benchmarks.paper.measures import contraction, measure
from benchmarks.paper.networks import StatesTrainer
from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.training import TrainingConfig

SPLIT = make_chains_split(60, seed=99)
CONFIG = MainNetworkConfig(
    in_shape=(7,),
    num_classes=5,
    form="text",
    vocabulary=VOCABULARY,
    stem=4,
    channels=(4, 4, 4),
    rtol=1e-3,
    max_steps=3,
)


@pytest.fixture
def network() -> MainNetwork:
    torch.manual_seed(0)
    return MainNetwork(CONFIG).freeze()


def test_only_the_states_that_are_wanted_are_trained() -> None:
    torch.manual_seed(0)
    options = TrainingConfig(epochs=1, batch_size=20, paths="mixed")
    trainer = StatesTrainer(MainNetwork(CONFIG), SPLIT, options, (0, 2))
    assert trainer.weights() == {0: 1.0, 2: 1.0}
    trainer.train_epoch(lambda step, loss: None)
    read_again = [
        layer.recurrence.feedback.weight.grad is not None  # type: ignore[attr-defined]
        for layer in trainer.network.main_layers
    ]
    assert read_again == [False, True, False]
    every = StatesTrainer(MainNetwork(CONFIG), SPLIT, options, None)
    drawn = [set(every.weights()) for _ in range(3)]
    assert all({0, 7} < states and len(states) == 3 for states in drawn)


def test_what_is_measured_is_what_the_network_answers(network: MainNetwork) -> None:
    found = measure(network, SPLIT, 4)
    for steps in range(4):
        solver = replace(network.solvers[0], max_steps=steps)
        logits = network.forward_path(SPLIT.inputs, 4, solver)
        right = 100 * float((logits.argmax(1) == SPLIT.labels).double().mean())
        assert found[f"K = {steps}"]["accuracy"] == pytest.approx(right)
        loss = float(torch.nn.functional.cross_entropy(logits, SPLIT.labels))
        assert found[f"K = {steps}"]["loss"] == pytest.approx(loss, rel=1e-5)
    plain = 100 * (network(SPLIT.inputs).argmax(1) == SPLIT.labels).double().mean()
    assert found["plain"]["accuracy"] == pytest.approx(float(plain))
    less = found["K = 0"]["loss"] - found["K = 3"]["loss"]
    assert found["gain"]["mean"] == pytest.approx(less, abs=1e-6)
    assert found["gain"]["low"] <= found["gain"]["mean"] <= found["gain"]["high"]
    one = 7 * 4 * 4 * (2 * 4 + 4)  # one reading, and its feedback
    extra = one + 4 * 8 + 5 * 8
    assert found["K = 1"]["compute"] == pytest.approx(1 + extra / (3 * one + 5 * 8))


@torch.no_grad()
def test_the_contraction_of_a_map_that_is_known(network: MainNetwork) -> None:
    feedback = network.main_layers[1].recurrence.feedback  # type: ignore[attr-defined]
    feedback.weight.zero_()  # every reading after the first is the same
    assert contraction(network, SPLIT.inputs, 1)["largest"] < 1e-3
    assert 0 < contraction(network, SPLIT.inputs, 0)["median"] < 2


@pytest.mark.parametrize("dataset", ["imdb", "wikitext2"])
def test_units_are_summed_up_by_arm(network: MainNetwork, dataset: str) -> None:
    rows = [
        {"arm": arm, "seed": seed, "minutes": 1.0 + seed}
        | measure(network, SPLIT, STATES[arm])
        for arm in ("no FPI", "all")
        for seed in (0, 1)
    ]
    setting = Setting(dataset=dataset)
    answers, contractions = Fig7().tables(rows, setting)
    without, found = answers.rows
    last = rows[2]["K = 3"]
    judged = {"imdb": "accuracy", "wikitext2": "perplexity"}[dataset]
    assert found["K = 3"] == dict.fromkeys(("mean", "low", "high"), last[judged])
    assert found["loss"] == last["loss"] and found["minutes"] == 1.5
    assert "K = 1" not in without
    assert [row["layer"] for row in contractions.rows] == [1, 2, 3]
    assert f"plain pass, {judged}" in answers.markdown()
    axes = Fig7().draw(rows, setting).axes
    assert [judged in each.get_ylabel() for each in axes] == [True, False]
