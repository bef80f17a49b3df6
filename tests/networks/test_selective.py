"""The selective step: gradients of a batch, of one sample, and of what nobody chose."""

import pytest
import torch
from helpers.networks import NUM_CLASSES, random_images, random_model, tiny_config
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.selective import (
    SelectiveNetwork,
    hold_unused,
)

# So tight that the solves' own errors vanish: a batch's adjoint stops all at once.
TIGHT = SolverConfig(
    rtol=1e-12, max_steps=500, adjoint_rtol=1e-13, adjoint_max_steps=500
)
STATES = torch.arange(16) % 8
LABELS = torch.arange(16) % NUM_CLASSES


@pytest.fixture(params=["wide", "state"])
def model(request: pytest.FixtureRequest) -> MainNetwork:
    return random_model(tiny_config(request.param)).double()


def images(model: MainNetwork) -> Tensor:
    return random_images(model.config, 16).double()


def backward(model: MainNetwork, rows: Tensor, **options: bool) -> None:
    logits = SelectiveNetwork(model).logits(
        images(model)[rows], STATES[rows], TIGHT, **options
    )
    F.cross_entropy(logits, LABELS[rows], reduction="sum").backward()


def gradients(model: MainNetwork) -> dict[str, Tensor]:
    found = {
        name: one.grad.clone()
        for name, one in model.named_parameters()
        if one.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-8, atol=1e-10)
    assert any(bool(value.any()) for value in one.values())


def test_a_batch_teaches_what_its_samples_teach_one_at_a_time(
    model: MainNetwork,
) -> None:
    backward(model, torch.arange(16))
    together = gradients(model)
    for row in range(16):
        backward(model, torch.tensor([row]))
    assert_equal(together, gradients(model))


def test_answers_are_those_of_the_ordinary_forward(model: MainNetwork) -> None:
    found = SelectiveNetwork(model).logits(images(model), STATES, TIGHT)
    for row, state in enumerate(STATES.tolist()):
        alone = model.forward_path(images(model)[row : row + 1], state, TIGHT)[0]
        torch.testing.assert_close(found[row], alone)


def test_the_whole_way_learns_what_autograd_says(model: MainNetwork) -> None:
    """With chosen_only=False: plain autograd of the same loss, state by state."""
    backward(model, torch.arange(16), chosen_only=False)
    selective = gradients(model)
    for state in range(8):
        rows = (STATES == state).nonzero().flatten()
        logits = model.forward_path(images(model)[rows], state, TIGHT)
        F.cross_entropy(logits, LABELS[rows], reduction="sum").backward()
    assert_equal(selective, gradients(model))


@pytest.mark.parametrize("state", range(8))
def test_equation_4_is_autograd_with_the_other_layers_detached(
    model: MainNetwork, state: int
) -> None:
    rows = (STATES == state).nonzero().flatten()
    backward(model, rows)
    selective = gradients(model)
    learning = [f"layers.{i}." for i in range(3) if state >> i & 1] + ["head"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(learning)))
    logits = model.forward_path(images(model)[rows], state, TIGHT)
    F.cross_entropy(logits, LABELS[rows], reduction="sum").backward()
    assert_equal(selective, gradients(model))


def test_layers_that_nobody_chose_have_no_gradient(model: MainNetwork) -> None:
    rows = ((STATES & 0b010) == 0).nonzero().flatten()  # 1, 3, both or none
    backward(model, rows)
    names = set(gradients(model))
    assert {name.split(".")[1] for name in names if name.startswith("layers")} == {
        "0",
        "2",
    }


def test_a_stop_at_once_teaches_the_head_alone(model: MainNetwork) -> None:
    backward(model, (STATES == 0).nonzero().flatten())
    assert {name.split(".")[0].split("_")[0] for name in gradients(model)} == {"head"}


def test_patterns_that_nobody_met_stay_in_spite_of_momentum(model: MainNetwork) -> None:
    rows = (STATES == 1).nonzero().flatten()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for state in (3, 1):  # the first step gives pattern 3 of the head momentum
        rows = (STATES == state).nonzero().flatten()
        before = model.head_norm.weight.detach().clone()
        optimizer.zero_grad(set_to_none=True)
        backward(model, rows)
        with hold_unused(model):
            optimizer.step()
        moved = (model.head_norm.weight != before).any(1)
        assert moved.nonzero().flatten().tolist() == [state]


def test_running_statistics_stay_and_the_twin_shares_the_weights(
    model: MainNetwork,
) -> None:
    selective = SelectiveNetwork(model)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    first = selective.logits(images(model), STATES, TIGHT).detach()
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name])
    with torch.no_grad():  # as an optimiser does: in place
        for parameter in model.parameters():
            parameter.mul_(1.1)
    second = selective.logits(images(model), STATES, TIGHT)
    fresh = SelectiveNetwork(model).logits(images(model), STATES, TIGHT)
    assert torch.equal(second, fresh)
    assert not torch.equal(first, second)


def test_weights_frozen_before_are_not_used(model: MainNetwork) -> None:
    model.freeze().requires_grad_(True)
    with torch.no_grad():
        for layer in model.main_layers:
            layer.recurrence.free_weight.mul_(0.01)  # type: ignore[attr-defined]
    thawed = SelectiveNetwork(model).logits(images(model), STATES, TIGHT)
    fresh = random_model(model.config).double()
    fresh.load_state_dict(model.state_dict())
    expected = SelectiveNetwork(fresh).logits(images(model), STATES, TIGHT)
    torch.testing.assert_close(thawed, expected)  # memory formats differ, so last bits
