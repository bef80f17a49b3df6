"""Compiled arithmetic against the same sums in double precision, and by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.sessions.accel.iteration import (
    CONVERGED,
    MAX_STEPS,
    NONFINITE,
    iterate,
)
from dynalay_gym.sessions.accel.maps import (
    CONV,
    ZERO,
    convolve,
    pad,
    pad_pooled,
    pad_shuffled,
)
from dynalay_gym.sessions.accel.pack import pack_kernel
from dynalay_gym.sessions.accel.perceptron import Perceptron, tree_log_probs
from dynalay_gym.sessions.accel.vectors import (
    FROM_ZERO,
    LANES,
    NO_NORM,
    multiply,
    pack_matrix,
    panel_width,
)

ANY_NUMBER = np.float32(-math.inf)


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def product(x: NDArray[np.float32], matrix: NDArray[np.float32]) -> Any:
    """``x @ matrix`` by the compiled instruction."""
    (rows, depth), columns = x.shape, matrix.shape[1] + -matrix.shape[1] % LANES
    packed, out = pack_matrix(matrix), np.full(rows * columns, np.nan, np.float32)
    width = panel_width(columns)
    for first in range(0, columns, width):
        at = first * depth
        sizes = (x.ravel(), 0, depth, 0, 1, depth, packed, at, out, first)
        multiply(rows, *sizes, columns, width, 0, -1)
    return out.reshape(rows, columns)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 16, 19])
@pytest.mark.parametrize("columns", [1, 16, 20, 32, 48, 64])
def test_products_are_sums_in_order(rows: int, columns: int) -> None:
    x, matrix = draw(rows, 37), draw(37, columns, seed=1)
    found = product(x, matrix)
    expected = np.zeros((rows, columns), dtype=np.float32)
    for k in range(37):  # a fused multiply-add rounds once
        exact = x[:, k, None].astype(np.float64) * matrix[k] + expected
        expected = exact.astype(np.float32)
    assert np.array_equal(found[:, :columns], expected)
    assert not found[:, columns:].any()


def test_a_row_of_a_product_does_not_depend_on_the_others() -> None:
    x, matrix = draw(30, 100), draw(100, 40, seed=1)
    whole = product(x, matrix)
    for rows in ([3], [29, 0], [5, 6, 7], list(range(1, 30, 2))):
        assert np.array_equal(product(x[rows], matrix), whole[rows])


def conv(channels: tuple[int, int], kernel: int, stride: int, side: int) -> Any:
    """Facts of a convolution whose weight stands alone."""
    out = -(-side // stride)
    columns = channels[1] + -channels[1] % LANES
    facts = (*channels, columns, kernel, stride, kernel // 2, side, out, 0)
    return np.array([facts], dtype=CONV)[0]


def pixels(maps: torch.Tensor) -> NDArray[np.float32]:
    """One map [1, C, H, W] flat, with the channels of a pixel side by side."""
    flat: NDArray[np.float32] = maps[0].permute(1, 2, 0).flatten().numpy().copy()
    return flat


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (3, 3), (1, 1)])
@pytest.mark.parametrize("channels", [(1, 3), (5, 16), (16, 48), (7, 32)])
def test_convolutions_are_those_of_pytorch(
    side: int, kernel: int, stride: int, channels: tuple[int, int]
) -> None:
    x = torch.from_numpy(draw(1, channels[0], side, side))
    weight = torch.from_numpy(draw(channels[1], channels[0], kernel, kernel, seed=1))
    facts = conv(channels, kernel, stride, side)
    padded = np.full(side * (side + 2) * channels[0], np.nan, np.float32)
    pad(pixels(x), ANY_NUMBER, side, channels[0], kernel // 2, padded)
    out = np.full(facts["out_side"] ** 2 * facts["columns"], np.nan, np.float32)
    convolve(facts, pack_kernel(weight), padded, out, FROM_ZERO, NO_NORM)
    expected = F.conv2d(x.double(), weight.double(), None, stride, kernel // 2)
    found = torch.from_numpy(out.reshape(*expected.shape[2:], -1)).permute(2, 0, 1)
    torch.testing.assert_close(
        found[: channels[1]].double(), expected[0], rtol=1e-5, atol=1e-5
    )
    assert not found[channels[1] :].any()


def test_a_padded_map_has_zeros_beside_it_and_nothing_below_the_least() -> None:
    x = np.array([1, -2, math.nan, 4], dtype=np.float32)  # 2 x 2, one channel
    padded = np.full(8, 9, dtype=np.float32)
    pad(x, ZERO, 2, 1, 1, padded)
    assert np.array_equal(padded, [0, 1, 0, 0, 0, math.nan, 4, 0], equal_nan=True)
    pad(x, ANY_NUMBER, 2, 1, 1, padded)
    assert padded[2] == -2


@pytest.mark.parametrize(("side", "ratio"), [(4, 2), (5, 2), (7, 3), (3, 1)])
def test_pooling_is_that_of_pytorch(side: int, ratio: int) -> None:
    x = torch.from_numpy(draw(1, 3, side, side))
    small = -(-side // ratio)
    padded = np.full(small * (small + 2) * 3, np.nan, np.float32)
    pad_pooled(pixels(x), side, 3, ratio, padded)
    expected = F.pad(F.avg_pool2d(torch.relu(x), ratio, ceil_mode=True), (1, 1))
    np.testing.assert_allclose(padded, pixels(expected), rtol=1e-6)


def test_an_unshuffled_image_has_its_pixels_in_their_order() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    padded = np.full(2 * 4 * 4, np.nan, np.float32)
    pad_shuffled(pixels(x), 2, 1, 2, padded)
    zero = [0.0] * 4
    top = [*zero, 0, 1, 4, 5, 2, 3, 6, 7, *zero]
    assert padded.tolist() == [*top, *zero, 8, 9, 12, 13, 10, 11, 14, 15, *zero]


# --- iteration ------------------------------------------------------------------------


def solve(x: float, weight: float, rtol: float = 1e-3, max_steps: int = 50) -> Any:
    """Iterate ``z <- relu(x + weight z)`` for one number."""
    facts = conv((1, 1), 1, 1, 1)
    kernel = pack_kernel(torch.full((1, 1, 1, 1), weight))
    inside, value = np.full((2, 1), x, dtype=np.float32)
    scratch = np.empty((2, LANES), dtype=np.float32)
    tolerance = np.float32(rtol)
    with np.errstate(all="ignore"):
        found = iterate(
            facts, kernel, inside, inside, value, tolerance, max_steps, *scratch
        )
    return float(value[0]), *found


def test_statuses_are_those_of_a_solver() -> None:
    assert CONVERGED == SolverStatus.CONVERGED
    assert MAX_STEPS == SolverStatus.MAX_STEPS
    assert NONFINITE == SolverStatus.NONFINITE


def test_an_iteration_by_hand() -> None:
    # 1, 1.5, 1.75, 1.875: residuals 1/3, 1/7, 1/15
    value, residual, steps, status = solve(1.0, 0.5, rtol=0.1)
    assert (value, steps, status) == (1.875, 3, CONVERGED)
    assert residual == pytest.approx(1 / 15, rel=1e-6)
    value, residual, steps, status = solve(1.0, 0.5, rtol=0.1, max_steps=2)
    assert (value, steps, status) == (1.75, 2, MAX_STEPS)
    assert solve(1.0, 0.5, max_steps=0) == (1.0, 1.0, 0, MAX_STEPS)


def test_a_dead_state_has_converged() -> None:
    assert solve(-1.0, 0.5) == (0.0, 0.0, 1, CONVERGED)


@pytest.mark.parametrize("scale", [1e-30, 1e-40, 1e15])
def test_states_out_of_range_are_solved_with_care(scale: float) -> None:
    value, residual, steps, status = solve(scale, 0.5, rtol=0.1)
    assert value == pytest.approx(1.875 * scale, rel=1e-4)
    assert residual == pytest.approx(1 / 15, rel=1e-3)
    assert (steps, status) == (3, CONVERGED)


def test_a_solve_that_leaves_all_bounds_keeps_its_last_finite_value() -> None:
    value, residual, steps, status = solve(1e18, 10.0)
    assert status == NONFINITE
    assert math.isnan(residual) and math.isfinite(value)
    assert value == pytest.approx(1e18 * sum(10.0**k for k in range(steps)), rel=1e-5)
    assert solve(math.nan, 0.5)[3] == NONFINITE


# --- perceptrons ----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_perceptron_is_that_of_pytorch(activation: str) -> None:
    torch.manual_seed(0)
    parts = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    net = torch.nn.Sequential(
        torch.nn.Linear(13, 20),
        parts[activation](),
        torch.nn.Linear(20, 32),
        parts[activation](),
        torch.nn.Linear(32, 4),
    ).requires_grad_(False)
    linears = [net[i] for i in (0, 2, 4)]
    layers = [(part.weight.numpy(), part.bias.numpy()) for part in linears]
    x = draw(11, 13)
    found = Perceptron(layers, activation, scale=2.0, shift=-1.0)(x)
    expected = net(torch.from_numpy(2 * x - 1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    alone = Perceptron(layers, activation, scale=2.0, shift=-1.0)(x[6:7])
    assert np.array_equal(alone, found[6:7])
    assert Perceptron(layers, activation)(x[:0]).shape == (0, 4)


def test_a_tree_of_two_levels_by_hand() -> None:
    # Head: 1/2, 1/4 and the token's 1/4; tail: 1/4 and 3/4 of that.
    scores = np.log(np.array([[2, 1, 1, 1, 3]], dtype=np.float32))
    found = np.exp(tree_log_probs(scores, 2))
    np.testing.assert_allclose(found, [[1 / 2, 1 / 4, 1 / 16, 3 / 16]], rtol=1e-6)
