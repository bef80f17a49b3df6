"""Diagnostics of gates, on cases whose answer is known."""

import pytest
import torch

from dynalay_gym.data.splits import Split
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.diagnostics import (
    GateRecord,
    always,
    mutual_information,
    record_gates,
    summarise,
)
from dynalay_gym.networks.lcnet.network import GatedNetwork
from tests.helpers.residual import random_residual


def test_dead_and_pinned_gates() -> None:
    gates = torch.tensor([[True, False, True], [True, False, False]])
    assert always(gates, True) == 1 and always(gates, False) == 1


def test_information_of_a_gate_that_knows_the_class_and_of_noise() -> None:
    labels = torch.arange(4000) % 4
    knows = torch.stack([labels < 2, labels % 2 == 0], 1)
    assert mutual_information(knows[:, :1], labels) == pytest.approx(1, abs=0.01)
    assert mutual_information(knows, labels) == pytest.approx(2, abs=0.01)
    noise = torch.rand(4000, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    assert abs(mutual_information(noise, labels)) < 0.03  # 0.3 with no correction


def test_information_is_counted_where_the_gates_are() -> None:
    labels = torch.arange(400) % 2
    gates = labels[:, None] == 0
    with torch.device("meta"):  # tensors that name no device would be here
        assert mutual_information(gates, labels) == pytest.approx(1, abs=0.01)


def test_a_record_of_open_gates() -> None:
    network = GatedNetwork(random_residual(), GateConfig()).eval()
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=images, labels=torch.zeros(7, dtype=torch.int64))
    record = record_gates(network, split, batch_size=3)
    assert record.layers.shape == (7, 3) and record.layers.all()
    assert record.channels.shape == (7, 4 + 4 + 8) and record.channels.all()
    assert (record.shares > 1).all() and record.shares.std() == 0
    torch.testing.assert_close(record.logits, network.backbone(images))


def test_a_summary_by_hand() -> None:
    record = GateRecord(
        logits=torch.eye(2).repeat(2, 1),
        shares=torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.double),
        layers=torch.tensor([[True, False]]).repeat(4, 1),
        channels=torch.tensor([[True], [False], [True], [False]]),
    )
    labels, losses = torch.tensor([0, 1, 1, 1]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert summarise(record, labels, losses) == pytest.approx(
        {
            "accuracy": 0.75,
            "compute": 0.5,
            "compute_std": 0.2581989,
            "dead_layers": 1,
            "pinned_layers": 1,
            "dead_channels": 0,
            "pinned_channels": 0,
            "class_bits": 0,
            "hard_first": 1,
        }
    )
