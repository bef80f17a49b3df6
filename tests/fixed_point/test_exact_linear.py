"""A row's output is the same to the bit in every batch, and as good as float32's."""

import pytest
import torch
from torch import Tensor

from dynalay_gym.fixed_point.exact_linear import ExactLinear


def make(scale: float, width: int, bound: float = 1.0) -> tuple[ExactLinear, Tensor]:
    generator = torch.Generator().manual_seed(width)
    weight = scale * torch.randn(7, width, generator=generator)
    bias = scale * torch.randn(7, generator=generator)
    inputs = bound * (2 * torch.rand(301, width, generator=generator) - 1)
    return ExactLinear(weight, bias, bound), inputs


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("width", [1, 5, 48, 700])
def test_no_bit_depends_on_the_batch(scale: float, width: int) -> None:
    layer, inputs = make(scale, width)
    with torch.no_grad():
        whole = layer(inputs)
        for size in (1, 2, 3, 16, 33, 100):
            parts = torch.cat([layer(part) for part in inputs.split(size)])
            assert torch.equal(parts, whole)
        order = torch.randperm(301, generator=torch.Generator().manual_seed(0))
        assert torch.equal(layer(inputs[order]), whole[order])


@pytest.mark.parametrize("bound", [1e-3, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("width", [5, 700])
def test_nothing_is_rounded_on_the_way(bound: float, width: int) -> None:
    """Sums in whole numbers, without a limit, give the same."""
    layer, inputs = make(0.3, width, bound)
    seen = (inputs[:5].double() * layer._scale).round()
    bias = [int(b * 2.0**200) for b in layer.bias.tolist()]
    for row in seen.long().tolist():
        expected = [
            sum(int(w * 2.0**200) * x for w, x in zip(weights, row, strict=True)) + b
            for weights, b in zip(layer.weight.tolist(), bias, strict=True)
        ]
        got = torch.nn.functional.linear(
            torch.tensor([row], dtype=torch.float64), layer.weight, layer.bias
        )
        assert [int(value * 2.0**200) for value in got[0].tolist()] == expected


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_as_close_as_float32(scale: float) -> None:
    layer, inputs = make(scale, 48)
    generator = torch.Generator().manual_seed(48)
    weight = scale * torch.randn(7, 48, generator=generator)
    bias = scale * torch.randn(7, generator=generator)
    expected = inputs.double() @ weight.double().T + bias.double()
    with torch.no_grad():
        error = (layer(inputs).double() - expected).abs().max()
    assert error < 3e-6 * scale
    assert layer.reach >= expected.abs().max()


def test_weights_of_zero_give_zero() -> None:
    layer = ExactLinear(torch.zeros(2, 3), torch.zeros(2), bound=0.0)
    assert torch.equal(layer(torch.zeros(4, 3)), torch.zeros(4, 2))
