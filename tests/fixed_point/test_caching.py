"""What a frozen module has computed from its weights follows them."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.networks import random_images, random_model, tiny_config
from torch import Tensor

from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer, DenseFixedPointLayer
from dynalay_gym.networks.layers.norm import PatternNorm


def norm_of_two() -> PatternNorm:
    return PatternNorm(2, 1)


MAKERS = [
    lambda: ConvFixedPointLayer(2, 4, 4),
    lambda: DenseFixedPointLayer(5),
    lambda: BellmanLayer(2, 4, 4),
    norm_of_two,
]


def run(module: Freezable, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(x, 0) if isinstance(module, PatternNorm) else module(x)
    return found


def case(make: Callable[[], Freezable]) -> tuple[Freezable, Freezable, Tensor]:
    """A module and another of its kind, in evaluation, and an input."""
    torch.manual_seed(0)
    one, other = make().eval(), make().eval()
    with torch.no_grad():
        for part in other.parameters():
            part.add_(0.1 * torch.randn_like(part))
    x = torch.rand(3, 5) if isinstance(one, DenseFixedPointLayer) else None
    if x is None:
        x = torch.rand(3, 4 if isinstance(one, BellmanLayer) else 2, 4, 4)
    return one, other, x


@pytest.mark.parametrize("make", MAKERS)
def test_loaded_weights_replace_what_was_frozen(make: Callable[[], Freezable]) -> None:
    one, other, x = case(make)
    before = run(one.freeze(), x)
    one.load_state_dict(other.state_dict())
    assert not torch.equal(run(one, x), before)
    assert torch.equal(run(one, x), run(other.freeze(), x))
    assert one._frozen is not None, "it stays frozen"


@pytest.mark.parametrize("make", MAKERS)
def test_a_frozen_module_is_converted_as_a_whole(
    make: Callable[[], Freezable],
) -> None:
    one, _, x = case(make)
    expected = run(copy.deepcopy(one).double().freeze(), x.double())
    found = run(one.freeze().double(), x.double())
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_a_module_that_is_not_frozen_stays_so() -> None:
    one, other, _ = case(MAKERS[0])
    one.double().float().load_state_dict(other.state_dict())
    assert one._frozen is None
    assert one.freeze().train()._frozen is None


@pytest.mark.parametrize("form", ["state", "wide"])
def test_a_frozen_network_takes_weights_and_types(form: str) -> None:
    config = tiny_config(form)
    one, other = (random_model(config, seed) for seed in range(2))
    images = random_images(config, 4)
    one.freeze().load_state_dict(other.state_dict())
    assert torch.equal(
        one.forward_path(images, 5), other.freeze().forward_path(images, 5)
    )
    double = one.double().forward_path(images.double(), 5)
    assert torch.allclose(double.float(), other.forward_path(images, 5), atol=1e-4)
