"""Training of gates: reaches its target, resumes bit for bit; its losses by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.striped import striped_split

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.diagnostics import record_gates
from dynalay_gym.networks.lcnet.gates import Gate
from dynalay_gym.networks.lcnet.losses import lasso, miss_target
from dynalay_gym.networks.lcnet.network import GatedNetwork, GatedOutput
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from tests.helpers.residual import random_residual

TRAINING = GateTrainingConfig(
    epochs=8, batch_size=24, augment=False, target=0.7, gate_learning_rate=0.012
)


@pytest.fixture
def data() -> Split:
    return striped_split()


def trainer(data: Split, config: GateTrainingConfig, gates: GateConfig) -> GateTrainer:
    return GateTrainer(GatedNetwork(random_residual(), gates), data, config)


def run(one: GateTrainer, epochs: int) -> list[float]:
    losses: list[float] = []
    for _ in range(epochs):
        one.train_epoch(lambda step, loss: losses.append(loss))
    return losses


def weights(one: GateTrainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in one.network.state_dict().values()])


@pytest.mark.parametrize("kind", ["scale", "binary"])
@pytest.mark.parametrize("channels", [False, True])
def test_it_comes_near_its_target(data: Split, kind, channels) -> None:
    one = trainer(data, TRAINING, GateConfig(channels=channels, kind=kind))
    run(one, 8)
    record = record_gates(one.network.eval(), data)
    assert 0.5 < record.shares.mean() < 0.85


def test_blocks_go_on_being_iterated(data: Split) -> None:
    """Otherwise gates would change what feeds a fixed point that stays as it was."""
    network = GatedNetwork(random_residual(iterated=(2,)), GateConfig())
    block = network.blocks[1]
    assert block.recurrence is not None
    before = block.recurrence.free_weight.detach().clone()
    seen = block.norm_iterated.running_mean.clone()
    one = GateTrainer(network, data, replace(TRAINING, weight_decay=0.0))
    run(one, 1)
    assert not torch.equal(block.recurrence.free_weight, before)
    assert not torch.equal(block.norm_iterated.running_mean, seen)


def test_gates_that_are_the_same_for_all(data: Split) -> None:
    one = trainer(data, TRAINING, GateConfig(channels=False, per_input=False))
    run(one, 8)
    record = record_gates(one.network.eval(), data)
    assert (record.shares == record.shares[0]).all()
    assert 0.5 < record.shares[0] < 0.9
    assert one.network.gate_macs(0) == 0


@pytest.mark.parametrize(
    ("kind", "gradient"),
    [
        ("scale", "straight-through"),
        ("binary", "straight-through"),
        ("binary", "policy-gradient"),
    ],
)
def test_resume_continues_to_the_bit(
    data: Split, tmp_path: Path, kind, gradient
) -> None:
    config = replace(TRAINING, epochs=3, augment=True, gate_gradient=gradient)
    gates = GateConfig(kind=kind)
    whole, first, second = (trainer(data, config, gates) for _ in range(3))
    losses = run(whole, 3)
    run(first, 1)
    first.save(tmp_path)
    second.load(tmp_path)
    assert run(second, 2) == losses[len(losses) // 3 :]
    assert torch.equal(weights(second), weights(whole))
    other = trainer(data, replace(config, target=0.9), gates)
    with pytest.raises(CheckpointError, match="other options"):
        other.load(tmp_path)


def test_noise_is_the_trainers_own(data: Split) -> None:
    one, other = (trainer(data, TRAINING, GateConfig(kind="binary")) for _ in range(2))
    losses = run(one, 1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert run(other, 1) == losses
    assert torch.equal(before, torch.get_rng_state())


def test_target_and_noise_are_annealed(data: Split) -> None:
    one = trainer(data, replace(TRAINING, epochs=5), GateConfig(kind="binary"))
    assert one.target == 1
    run(one, 1)
    assert one.target == pytest.approx(1 - 0.3 * 0.2 / 0.4)
    run(one, 4)
    assert one.target == pytest.approx(0.7)
    assert one.network.gating.noise == 0


def test_the_target_is_of_the_batch() -> None:
    macs = torch.tensor([100.0, 20.0])
    assert miss_target(macs, 100, 0.6) == 0  # though one row is above it
    for target in (0.5, 0.7):
        missed = miss_target(macs, 100, target).item()
        assert missed == pytest.approx(0.01, rel=1e-5)


def test_who_is_easy_is_pressed_more() -> None:
    macs = torch.tensor([100.0, 20.0], requires_grad=True)
    missed = miss_target(macs, 100, 0.5, ease=torch.tensor([0.2, 0.6]))
    assert missed.item() == pytest.approx(0.01, rel=1e-5)
    (grad,) = torch.autograd.grad(missed, macs)
    assert grad.tolist() == pytest.approx([0.0005, 0.0015], rel=1e-5)


@pytest.mark.parametrize("gradient", ["straight-through", "policy-gradient"])
def test_nobody_needs_to_be_easy(data: Split, gradient) -> None:
    """The open network is so sure of another class that float32 has no chance left."""
    backbone = random_residual()
    with torch.no_grad():
        backbone.head.bias.copy_(torch.tensor([0.0, 0.0, 200.0]))
    config = replace(TRAINING, gate_gradient=gradient)
    one = GateTrainer(GatedNetwork(backbone, GateConfig(kind="binary")), data, config)
    rows = (data.labels < 2).nonzero()[:8, 0]
    loss = one.loss(data.inputs[rows], data.labels[rows], rows)
    grads = torch.autograd.grad(loss, list(one.network.layer_scores.parameters()))
    assert all(grad.isfinite().all() for grad in (loss, *grads))


def test_lasso_by_hand() -> None:
    gates = (
        Gate(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])),
        Gate(torch.tensor([1.0, 1.0]), torch.ones(2, 4)),
    )
    output = GatedOutput(torch.zeros(2, 2), gates, torch.zeros(2))
    assert lasso(output, 1.0, 0.0) == 0.75
    assert lasso(output, 0.0, 1.0) == 0.75
