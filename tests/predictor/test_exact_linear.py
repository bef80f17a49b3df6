"""A row's output is the same to the bit in every batch, and as good as float32's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dynalay_gym.predictor.exact_linear import ExactLinear

Numbers = NDArray[np.float64]


def make(
    scale: float, width: int, bound: float = 1.0, outputs: int = 7
) -> tuple[ExactLinear, Numbers, Numbers, Numbers]:
    rng = np.random.default_rng(width)
    weight = scale * rng.standard_normal((outputs, width))
    bias = scale * rng.standard_normal(outputs)
    inputs = bound * rng.uniform(-1, 1, (301, width)).astype(np.float32)
    return ExactLinear(weight, bias, bound), inputs, weight, bias


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e6])
@pytest.mark.parametrize(("width", "outputs"), [(1, 7), (5, 1), (48, 64), (700, 90)])
def test_no_bit_depends_on_the_batch(scale: float, width: int, outputs: int) -> None:
    layer, inputs, *_ = make(scale, width, outputs=outputs)
    whole = layer(inputs)
    for size in (1, 2, 3, 16, 33, 100):
        for start in range(0, 301, size):
            rows = slice(start, start + size)
            assert np.array_equal(layer(inputs[rows]), whole[rows])
    order = np.random.default_rng(0).permutation(301)
    assert np.array_equal(layer(inputs[order]), whole[order])
    turned = np.asfortranarray(inputs)
    assert np.array_equal(layer(turned), whole)


@pytest.mark.parametrize("bound", [1e-3, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("width", [5, 700])
def test_nothing_is_rounded_on_the_way(bound: float, width: int) -> None:
    """Sums of whole numbers, which have no limit in Python, are the same."""
    layer, inputs, *_ = make(0.3, width, bound)
    factor = 2.0**200  # makes everything whole
    whole = np.rint(inputs[:5].astype(np.float64) * layer.scale).astype(int).tolist()
    columns = [[int(w * factor) for w in column] for column in layer.weight.T.tolist()]
    for row, got in zip(whole, layer(inputs[:5]).tolist(), strict=True):
        for column, bias, value in zip(columns, layer.bias.tolist(), got, strict=True):
            products = (w * x for w, x in zip(column, row, strict=True))
            assert int(value * factor) == sum(products) + int(bias * factor)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_as_close_as_float32(scale: float) -> None:
    layer, inputs, weight, bias = make(scale, 48)
    expected = inputs @ weight.T + bias
    assert np.abs(layer(inputs) - expected).max() < 3e-6 * scale
    assert layer.reach >= np.abs(expected).max()


def test_weights_of_zero_give_zero() -> None:
    layer = ExactLinear(np.zeros((2, 3)), np.zeros(2), bound=0.0)
    assert np.array_equal(layer(np.zeros((4, 3))), np.zeros((4, 2)))
