"""The policy gradient of gates against all that can be drawn, one by one."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.striped import striped_split
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.diagnostics import record_gates
from dynalay_gym.networks.lcnet.gates import (
    BinaryGate,
    FixedScores,
    Gate,
    GateScores,
    find_gate,
)
from dynalay_gym.networks.lcnet.network import GatedNetwork, GatedOutput
from dynalay_gym.networks.lcnet.optimizer import ScaledSGD
from dynalay_gym.networks.lcnet.reinforce import find_advantages, reinforce
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from tests.helpers.residual import random_residual, with_varied_gates

TRAINING = GateTrainingConfig(
    epochs=10,
    batch_size=24,
    augment=False,
    target=0.4,
    gate_gradient="policy-gradient",
)
BINARY = GateConfig(kind="binary")


@pytest.fixture
def data() -> Split:
    return striped_split()


class GivenGate(BinaryGate):
    """Gates that the test chooses: one pattern [n, G] after the other."""

    patterns: Iterator[Tensor]

    def forward(self, scores: Tensor) -> Tensor:
        return next(self.patterns)


def tiny_trainer(data: Split, gates: GateConfig, **backbone: Any) -> GateTrainer:
    """Half of the noise is left, and of running statistics nothing changes."""
    network = with_varied_gates(GatedNetwork(random_residual(**backbone), gates).eval())
    network.gating = GivenGate()
    one = GateTrainer(network, data, TRAINING)
    one.steps = 4 * one.steps_per_epoch
    network.training = network.gating.training = True
    return one


def in_parts(bits: Tensor, config: GateConfig, num_channels: int) -> list[Tensor]:
    """Gates [n, all] as the parts that a network asks for one after the other."""
    of_block = [1] * config.layers + [num_channels] * config.channels
    num_blocks = bits.shape[1] // sum(of_block)
    return list(bits.split(of_block * num_blocks, 1))


def outcome(
    network: GatedNetwork, images: Tensor, parts: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Chances of gates [n] with their gradient; answers and shares of compute."""
    asked, x = iter(parts), network.stem(images)
    chance, macs = torch.ones(len(x)), torch.zeros(len(x))
    for level in range(len(network.blocks)):
        layer, channels = torch.ones(len(x), 1), None
        for scores in network.gate_parts(level)[:2]:
            if scores is None:
                continue
            gates, score = next(asked), scores(x.detach())
            opens = torch.sigmoid(score / 0.5)
            chance = chance * torch.where(gates > 0, opens, 1 - opens).prod(1)
            if scores in network.layer_scores:
                layer = gates
            else:
                channels = gates
        x, taken = network.run_block(level, x, Gate(layer[:, 0], channels))
        macs = macs + taken + network.gate_macs(level)
    macs = macs + network.stem_macs + network.head_macs
    return chance, network.answer(x).detach(), macs / network.open_macs


def expected_gradient(one: GateTrainer, rows: Tensor, num: int) -> list[Tensor]:
    """Gradient of what each row's loss and price are on average, in closed form."""
    network, images, labels = one.network, one.data.inputs[rows], one.data.labels[rows]
    open_logits = network.backbone(images).detach()
    loss, share = torch.zeros(len(rows)), torch.zeros(len(rows))
    for bits in itertools.product([0.0, 1.0], repeat=num):
        pattern = torch.tensor(bits).expand(len(rows), -1)
        parts = in_parts(pattern, network.gate_config, 2)
        chance, logits, taken = outcome(network, images, parts)
        right = F.cross_entropy(logits, labels, reduction="none")
        of_class = open_logits.log_softmax(1) - logits.log_softmax(1)
        alike = (open_logits.softmax(1) * of_class).sum(1)
        loss = loss + chance * 0.5 * (right + alike)
        share = share + chance * taken
    ease = open_logits.softmax(1)[torch.arange(len(rows)), labels] ** 4
    others = (share.sum() - share) / (len(rows) - 1)
    price = 2 * 50 * (others - 0.4).detach() * ease / ease.mean()
    return list(torch.autograd.grad((loss + price * share).mean(), scores_of(network)))


def scores_of(network: GatedNetwork) -> list[Tensor]:
    parts = (network.layer_scores, network.channel_scores)
    return [weight for part in parts for weight in part.parameters()]


@pytest.mark.parametrize(
    ("gates", "backbone", "num"),
    [
        (replace(BINARY, channels=False), {"widths": (2,), "depths": (2,)}, 2),
        (BINARY, {"widths": (2,), "depths": (1,)}, 3),
        (replace(BINARY, layers=False), {"widths": (2,), "depths": (1,)}, 2),
    ],
)
def test_its_mean_is_the_gradient_of_the_mean(data, gates, backbone, num) -> None:
    one, rows = tiny_trainer(data, gates, **backbone), torch.tensor([0, 4])
    network = one.network
    images, labels = data.inputs[rows], data.labels[rows]
    found = [torch.zeros_like(weight) for weight in scores_of(network)]
    total = 0.0
    for bits in itertools.product([0.0, 1.0], repeat=len(rows) * num):
        pattern = torch.tensor(bits).view(len(rows), num)
        parts = in_parts(pattern, network.gate_config, 2)
        chance = outcome(network, images, parts)[0].prod().item()
        network.gating.patterns = iter(parts)
        loss = one.loss(images, labels, rows)
        grads = torch.autograd.grad(loss, scores_of(network))
        found = [mean + chance * g for mean, g in zip(found, grads, strict=True)]
        total += chance
    assert total == pytest.approx(1, abs=1e-5)
    expected = expected_gradient(one, rows, num)
    assert all(grad.abs().max() > 1e-3 for grad in expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_log_probabilities_by_hand() -> None:
    gating, scores = BinaryGate(), torch.tensor([[0.0, 1.0, -2.0]])
    gates = torch.tensor([[1.0, 0.0, 1.0]])
    gating.noise = 0.5
    expected = torch.sigmoid(torch.tensor([[0.0, -2.0, -4.0]])).log()
    torch.testing.assert_close(gating.log_prob(gates, scores), expected)
    gating.noise = 0.0
    assert torch.equal(gating.log_prob(gates, scores), torch.zeros(1, 3))


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_gates_are_drawn_as_often_as_they_say(noise: float) -> None:
    torch.manual_seed(0)
    gating, scores = BinaryGate(), torch.tensor([-1.0, 0.0, 0.8]).repeat(20_000, 1)
    gating.noise, gating.has_gradient = noise, False
    drawn = gating(scores.requires_grad_())
    assert not drawn.requires_grad
    says = gating.log_prob(torch.ones(3), scores[0]).exp()
    torch.testing.assert_close(drawn.mean(0), says, atol=0.015, rtol=0)


def test_gates_and_network_learn_apart(data: Split) -> None:
    network = GatedNetwork(random_residual(), BINARY).train()
    network.gating.has_gradient = False
    output = network(data.inputs[:8])
    log_prob = sum(gate.log_prob for gate in output.gates)
    weights = list(network.backbone.parameters())
    gates = scores_of(network)
    for loss, others in ((output.logits.sum(), gates), (log_prob.sum(), weights)):
        grads = torch.autograd.grad(loss, others, allow_unused=True, retain_graph=True)
        assert all(grad is None for grad in grads)
    assert not output.macs.requires_grad


def test_channels_of_a_branch_that_is_skipped_do_not_matter() -> None:
    network = GatedNetwork(random_residual(), BINARY).train()
    network.gating = GivenGate()
    network.gating.has_gradient = False
    channels = torch.tensor([[1.0, 0.0, 0.0, 1.0]]).repeat(2, 1)
    network.gating.patterns = iter([torch.tensor([[0.0], [1.0]]), channels])
    gate = network.gate(0, torch.randn(2, 4, 8, 8))
    opens, shuts = F.logsigmoid(torch.tensor([2.0, -2.0])).tolist()
    expected = torch.tensor([shuts, opens + 2 * opens + 2 * shuts])
    torch.testing.assert_close(gate.log_prob, expected)


def test_advantages_by_hand() -> None:
    losses, shares = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.5, 0.0])
    found = find_advantages(losses, shares, 0.25, 2.0)
    # Others' losses 4, 3.5, 1.5; others' shares .25, .5, .75: prices 0, 1, 2.
    assert found.tolist() == pytest.approx([3.0, 1.5, -3.0])
    ease = torch.tensor([0.1, 0.2, 0.6])
    found = find_advantages(losses, shares, 0.25, 2.0, ease)
    assert found.tolist() == pytest.approx([3.0, 1.5, -4.5 + 4 * 0.75])


def test_a_branch_that_brings_nothing_is_shut(data: Split) -> None:
    backbone = random_residual(widths=(2,), depths=(1,))
    norm = backbone.blocks[0].norm2.requires_grad_(False)
    norm.weight.zero_()
    norm.bias.zero_()
    gates = replace(BINARY, channels=False, per_input=False)
    config = replace(TRAINING, target=0.0, gate_learning_rate=0.03)
    one = GateTrainer(GatedNetwork(backbone, gates), data, config)
    for _ in range(config.epochs):
        one.train_epoch(lambda step, loss: None)
    assert not record_gates(one.network.eval(), data).layers.any()


@pytest.mark.parametrize("make_scores", [FixedScores, GateScores])
def test_it_finds_what_needs_a_branch(make_scores) -> None:
    """Whose mean is above 0 needs the first of two branches; nobody needs the other."""
    torch.manual_seed(0)
    gating, both = BinaryGate(), [make_scores(1, 1, 2.0) for _ in range(2)]
    gating.has_gradient = False
    weights = [weight for scores in both for weight in scores.parameters()]
    optimizer = ScaledSGD([{"params": weights, "square_decay": 0.99}], lr=0.05)
    for _ in range(300):
        x = torch.randn(64, 1, 1, 1)
        first, second = (find_gate(x, gating, scores, None) for scores in both)
        needs = (x > 0)[:, 0, 0, 0].float()
        losses, shares = needs * (1 - first.layer), (first.layer + second.layer) / 2
        advantages = find_advantages(losses, shares, target=0.25, pressure=1.0)
        output = GatedOutput(x, (first, second), shares)
        optimizer.zero_grad()
        reinforce(output, advantages).backward()
        optimizer.step()
    for part in (gating, *both):
        part.eval()
    x = torch.tensor([-1.0, -0.5, 0.5, 1.0])[:, None, None, None]
    first, second = (find_gate(x, gating, scores, None) for scores in both)
    assert not second.layer.any()
    assert first.layer.tolist() == ([0, 0, 1, 1] if both[0].macs else [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("gates", "options", "remedy"),
    [
        ({"kind": "scale"}, {}, "--gate-kind binary"),
        ({"kind": "binary", "slices": True}, {}, "without slices"),
        ({"kind": "binary"}, {"channel_lasso": 0.1}, "set target and pressure"),
    ],
)
def test_what_it_cannot_train_is_refused(data, gates, options, remedy) -> None:
    network = GatedNetwork(random_residual(), GateConfig(**gates))
    with pytest.raises(ConfigError, match=remedy):
        GateTrainer(network, data, replace(TRAINING, **options))
