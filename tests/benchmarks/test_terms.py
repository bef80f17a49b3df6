"""Equations 11 and 12: terms that are off change nothing, and what they are when on."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks.paper.experiment import Setting
from benchmarks.paper.networks import StatesTrainer
from benchmarks.paper.terms import Terms, TermsTrainer
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import TrainingConfig

OPTIONS = TrainingConfig(epochs=1, batch_size=64)


def data(batches: int) -> Split:
    split = load_split("digits", "validation")
    return Split(split.inputs[: 64 * batches], split.labels[: 64 * batches])


def new_network() -> MainNetwork:
    torch.manual_seed(0)
    return MainNetwork(make_config("digits", (1, 8, 8), 10))


def weights_after(trainer: StatesTrainer) -> list[dict[str, Any]]:
    """Return the weights before the first step and after each step of an epoch."""
    found = [copy.deepcopy(dict(trainer.network.named_parameters()))]
    trainer.train_epoch(
        lambda step, loss: found.append(
            copy.deepcopy(dict(trainer.network.named_parameters()))
        )
    )
    return found


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_terms_that_are_off_change_nothing() -> None:
    plain = StatesTrainer(new_network(), data(3), OPTIONS, None)
    off = TermsTrainer(new_network(), data(3), OPTIONS, None)
    for first, second in zip(weights_after(plain), weights_after(off), strict=True):
        assert same(first, second)


def test_the_metric_moves_weights() -> None:
    # One step would not do: a fresh network answers the same with and without
    # iterating, so the metric is 0.
    plain = StatesTrainer(new_network(), data(3), OPTIONS, [0, 7])
    on = TermsTrainer(new_network(), data(3), OPTIONS, [0, 7], weight=1.0)
    assert not same(weights_after(plain)[-1], weights_after(on)[-1])


def test_late_gradients_are_those_of_earlier_weights() -> None:
    trainer = TermsTrainer(new_network(), data(4), OPTIONS, [0], late=2)
    before = weights_after(trainer)
    assert same(before[0], before[1]) and same(before[0], before[2])
    assert not same(before[2], before[3])
    # The third step takes the first batch's gradient at the first weights; for AdamW it
    # is the first one, at the rate of the third.
    rows = torch.randperm(256, generator=torch.Generator().manual_seed(0))[:64]
    expected = new_network()
    images, labels = data(4).inputs[rows], data(4).labels[rows]
    F.cross_entropy(expected.train().forward_path(images, 0), labels).backward()
    rate = OPTIONS.learning_rate * trainer.rate(3 / 4)
    step: Any = torch.optim.AdamW(
        expected.parameters(), lr=rate, weight_decay=OPTIONS.weight_decay
    )
    step.step()
    for name, weight in expected.named_parameters():
        assert torch.allclose(weight, before[3][name], atol=1e-6), name


def test_the_metric_is_a_divergence_of_answers() -> None:
    network, split = load_main_network(SHIPPED / "digits")[0], data(1)
    images, rows = split.inputs, torch.arange(64)
    with torch.no_grad():
        trainer = TermsTrainer(network, split, OPTIONS, [0], weight=0.5)
        found = trainer.loss(images, split.labels, rows)
        plain, full = (
            logits.softmax(1)
            for logits in network.forward_paths(images, (0, 7), trainer.solver)
        )
        own = StatesTrainer(network, split, OPTIONS, [0])
        expected = own.loss(images, split.labels, rows)
    divergence = (full * (full / plain).log()).sum(1).mean()
    assert divergence > 0.01
    assert float(found) == pytest.approx(float(expected + 0.5 * divergence), rel=1e-4)


@pytest.mark.parametrize("dataset", ["wikitext2", "maze"])
def test_other_trainings_are_refused(dataset: str) -> None:
    with pytest.raises(ConfigError, match="another --dataset"):
        Terms().check(Setting(dataset=dataset))


def test_the_metric_does_not_move_statistics_again() -> None:
    first, second = new_network(), new_network()
    for network, weight in ((first, 0.0), (second, 1.0)):
        split = data(1)
        trainer = TermsTrainer(network, split, OPTIONS, [0, 7], weight=weight)
        trainer.network.train()
        trainer.loss(split.inputs, split.labels, torch.arange(64))
    for name, value in first.named_buffers():
        assert torch.equal(value, dict(second.named_buffers())[name]), name


def test_an_arm_is_trained_measured_and_shown(tmp_path: Path) -> None:
    setting = Setting(dataset="digits", epochs=1, every=8)
    rows = []
    for arm in ("as it is", "4 steps late"):
        (tmp_path / arm).mkdir()
        row = Terms().run(arm, 0, setting, tmp_path / arm)
        rows.append({"arm": arm, "seed": 0} | row)
    (table,) = Terms().tables(rows, setting)
    late = rows[1]["full"]["accuracy"] - rows[0]["full"]["accuracy"]
    assert table.rows[1]["full more"]["mean"] == pytest.approx(late)
    assert len(Terms().draw(rows, setting).axes) == 2
