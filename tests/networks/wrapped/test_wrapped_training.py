"""Training of wrapped networks: that of the module, and with blocks left out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.striped import striped_split
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.data.splits import Split
from dynalay_gym.networks.residual.training import ResidualTrainingConfig
from dynalay_gym.networks.wrapped.config import WrapConfig
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.networks.wrapped.training import WrappedTrainer

TRAINING = ResidualTrainingConfig(
    epochs=4, batch_size=24, learning_rate=0.1, augment=False
)
SKIPPING = ResidualTrainingConfig(
    epochs=2, batch_size=24, learning_rate=0.05, augment=False, skip_rate=0.9
)


class Plain(nn.Module):
    """A block that means nothing without what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


def module() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
    layers = [stem, Plain(), Plain(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def trainer(data: Split, config: ResidualTrainingConfig = TRAINING) -> WrappedTrainer:
    network = WrappedNetwork(module(), WrapConfig(layers=("1", "2")), data.inputs)
    return WrappedTrainer(network, data, config)


@pytest.fixture
def data() -> Split:
    return striped_split()


def accuracy(network: WrappedNetwork, data: Split, skipped: list[bool]) -> float:
    network.eval()
    with torch.no_grad():
        logits = network(data.inputs, torch.tensor([skipped] * len(data)))
    return float((logits.argmax(1) == data.labels).double().mean())


def test_without_skipping_the_loss_is_that_of_the_module(data: Split) -> None:
    one, rows = trainer(data), torch.arange(24)
    one.network.train()
    images, labels = data.inputs[rows], data.labels[rows]
    expected = F.cross_entropy(module()(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(one.loss(images, labels, rows), expected)


def test_it_learns_also_with_blocks_left_out(data: Split) -> None:
    one = trainer(data)
    for _ in range(4):
        one.train_epoch(lambda step, loss: None)
    assert accuracy(one.network, data, [False, False]) > 0.95
    before = accuracy(one.network, data, [True, True])
    two = WrappedTrainer(one.network, data, replace(SKIPPING, epochs=20))
    for _ in range(20):
        two.train_epoch(lambda step, loss: None)
    assert accuracy(two.network, data, [True, True]) > before + 0.1


def test_blocks_are_left_out_as_drawn(
    data: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, rows = trainer(data, SKIPPING), torch.arange(24)
    one.network.eval()
    first = torch.rand(24) < 0.5
    drawn = iter([first, ~first])
    monkeypatch.setattr(one, "_draw_kept", lambda num, rate: next(drawn))
    images, labels = data.inputs[rows], data.labels[rows]
    loss = one.loss(images, labels, rows)
    logits = one.network(images, torch.stack([~first, first], 1))
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_a_block_that_is_only_run_always_runs(data: Split) -> None:
    config = WrapConfig(layers=("1", "2"), modes=("run", "iterate"))
    network = WrappedNetwork(module(), config, data.inputs)
    one = WrappedTrainer(network, data, SKIPPING)
    one.network.eval()
    images, labels, rows = data.inputs[:24], data.labels[:24], torch.arange(24)
    expected = F.cross_entropy(network(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(one.loss(images, labels, rows), expected)


def test_it_resumes_to_the_bit(data: Split, tmp_path: Path) -> None:
    whole, half = trainer(data, SKIPPING), trainer(data, SKIPPING)
    for one in (whole, half):
        one.train_epoch(lambda step, loss: None)
    half.save(tmp_path / "half")
    again = trainer(data, SKIPPING)
    again.load(tmp_path / "half")
    for one in (whole, again):
        one.train_epoch(lambda step, loss: None)
    mine, theirs = (one.network.state_dict() for one in (whole, again))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
