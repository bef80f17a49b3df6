"""SGD with scaled gradients: by hand, beside plain SGD, and saved."""

import pytest
import torch
from torch import nn

from dynalay_gym.networks.lcnet.optimizer import ScaledSGD
from dynalay_gym.storage.training_state import load_training_state, training_state


def test_two_steps_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    group = {"params": [weight], "square_decay": 0.75}
    optimizer = ScaledSGD([group], lr=0.1)
    weight.grad = torch.tensor([200.0, -0.002, 0.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 1.1, 1.0])  # whatever their size
    weight.grad = torch.tensor([100.0, -0.002, 0.0])
    optimizer.step()
    mean = 0.75 * 200**2 + 0.25 * 100**2
    assert weight.tolist() == pytest.approx([0.9 - 0.1 * 100 / mean**0.5, 1.2, 1.0])


def test_what_a_closure_finds_is_scaled() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = ScaledSGD([{"params": [weight], "square_decay": 0.75}], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 200 * weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 200
    assert weight.item() == pytest.approx(0.9)


def test_a_score_of_many_inputs_moves_like_a_bias() -> None:
    weight = nn.Parameter(torch.zeros(2, 4))
    optimizer = ScaledSGD([{"params": [weight], "square_decay": 0.9}], lr=0.1)
    weight.grad = torch.tensor([[1.0, 2.0, 3.0, -4.0], [0.5, 0.5, 0.5, 0.5]])
    optimizer.step()
    signs = torch.tensor([[1.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(weight.data, -0.1 * signs / 4)


def test_other_groups_are_trained_as_by_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    optimizers = [ScaledSGD([weights[0]], **options)]
    optimizers.append(torch.optim.SGD([weights[1]], **options))
    for _ in range(3):
        grad = torch.randn(3, generator=generator)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = grad.clone()
            optimizer.step()
    assert torch.equal(*weights)


def test_its_means_are_saved() -> None:
    def fresh() -> tuple[nn.Linear, ScaledSGD]:
        layer = nn.Linear(2, 1)
        group = {"params": layer.parameters(), "square_decay": 0.5}
        return layer, ScaledSGD([group], lr=0.1, momentum=0.9)

    def step(layer: nn.Linear, optimizer: ScaledSGD, size: float) -> None:
        for weight in layer.parameters():
            weight.grad = torch.full_like(weight, size)
        optimizer.step()

    (one, first), (other, second) = fresh(), fresh()
    step(one, first, 3.0)
    load_training_state(training_state(one, first), other, second)
    for each, optimizer in ((one, first), (other, second)):
        step(each, optimizer, 1.0)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
