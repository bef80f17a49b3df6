"""Backward passes that follow the choices: what moves, and what is found."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import selective
from benchmarks.paper.experiment import Setting
from benchmarks.paper.selective import CHOSEN, PLAIN_PASSES, Selective, SelectiveTrainer
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.training import TrainingConfig

OPTIONS = TrainingConfig(epochs=1, batch_size=64, learning_rate=1e-4)


def moved(chosen: int, chosen_only: bool) -> dict[str, bool]:
    """Return, by name, whether a weight changes if all samples are in one state."""
    network = load_main_network(SHIPPED / "digits")[0].requires_grad_(True)
    before = copy.deepcopy(dict(network.named_parameters()))
    split = load_split("digits", "validation")
    data = Split(split.inputs[:128], split.labels[:128])
    states = torch.full((128,), chosen)
    trainer = SelectiveTrainer(network, data, OPTIONS, states, chosen_only=chosen_only)
    trainer.train_epoch(lambda step, loss: None)
    return {
        name: not torch.equal(weight, before[name])
        for name, weight in network.named_parameters()
    }


def of_layers(found: dict[str, bool]) -> set[str]:
    """Return the numbers of the layers in which something has changed."""
    names = [name.split(".") for name, has in found.items() if has]
    return {parts[1] for parts in names if parts[0] == "layers"}


def test_who_stops_teaches_the_head_alone() -> None:
    found = moved(0b000, chosen_only=True)
    assert found["head"] and of_layers(found) == set()


def test_chosen_layers_learn_and_others_do_not() -> None:
    assert of_layers(moved(0b101, chosen_only=True)) == {"0", "2"}
    assert of_layers(moved(0b101, chosen_only=False)) == {"0", "1", "2"}


def test_a_sample_is_trained_in_its_own_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = load_main_network(SHIPPED / "digits")[0].requires_grad_(True)
    split = load_split("digits", "validation")
    data = Split(split.inputs[:128], split.labels[:128])
    chosen, seen = torch.arange(128) % 8, []
    trainer = SelectiveTrainer(network, data, OPTIONS, chosen, chosen_only=True)
    run = trainer._selective.logits

    def logits(images: Any, states: Any, *others: Any, **options: Any) -> Any:
        seen.append((images, states))
        return run(images, states, *others, **options)

    monkeypatch.setattr(trainer._selective, "logits", logits)
    trainer.train_epoch(lambda step, loss: None)
    images, states = (torch.cat(each) for each in zip(*seen, strict=True))
    places = [int((data.inputs == x).flatten(1).all(1).nonzero()[0]) for x in images]
    assert torch.equal(states, chosen[places])


def test_arms_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a penalty that nothing is worth all samples stop: only the head learns."""
    setting = Setting(dataset="digits", epochs=1, every=40)
    monkeypatch.setattr(selective, "shared_network", lambda *_: SHIPPED / "digits")
    monkeypatch.setattr(selective, "worth_of_a_pass", lambda *_: 1e9)
    kind, _ = selective._GUMBEL
    monkeypatch.setattr(selective, "_GUMBEL", (kind, (1e4,)))
    options = replace(OPTIONS, batch_size=32)
    monkeypatch.setattr(selective, "_config", lambda *_: options)
    rows: list[dict[str, Any]] = [
        {"arm": arm, "seed": 0}
        | Selective().run(arm, 0, setting, tmp_path / f"selective-digits/{arm}-0")
        for arm in (selective.BEFORE, CHOSEN, PLAIN_PASSES)
    ]
    assert rows[1]["chosen"] == [len(setting.splits()["main"])]
    assert all(row["compute"] == 1 for row in rows)
    assert rows[0]["accuracy"] == pytest.approx(rows[0]["plain"])
    (table,) = Selective().tables(rows, setting)
    assert [row["arm"] for row in table.rows] == [row["arm"] for row in rows]
    assert "backward minutes" not in table.rows[0]
    assert len(Selective().draw(rows, setting).axes) == 2


def test_words_to_predict_are_an_error() -> None:
    with pytest.raises(ConfigError, match="choose another --dataset"):
        Selective().check(Setting(dataset="wikitext2"))


def test_the_learning_rate_is_lower(digits_network: MainNetwork) -> None:
    found = selective._config(digits_network, Setting(learning_rate=0.5), seed=3)
    assert found.learning_rate == pytest.approx(0.05) and found.seed == 3


@pytest.fixture
def digits_network() -> MainNetwork:
    return load_main_network(SHIPPED / "digits")[0]
