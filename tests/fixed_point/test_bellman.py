"""The value-iteration layer: certificate, closed forms, gradients, rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.solve import SolverConfig

EXACT = SolverConfig(rtol=1e-12, max_steps=2000)


def random_layer(
    channels: int = 2, side: int = 7, *, num_actions: int = 3, seed: int = 0
) -> BellmanLayer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BellmanLayer(channels, side, side, num_actions=num_actions, gamma=0.9)


def random_input(layer: BellmanLayer, num: int, seed: int = 0) -> Tensor:
    """Rewards and passabilities [num, 2C, H, W] in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    channels, *sides = layer.state_shape
    return torch.rand(num, 2 * channels, *sides, generator=generator)


def apply_once(layer: BellmanLayer, x: Tensor, v: Tensor) -> Tensor:
    return layer.check(x, v, SolverConfig()).value


def pick(layer: BellmanLayer, offsets: list[int]) -> BellmanLayer:
    """Give each kernel all its weight on one pixel, 0..8 row by row."""
    with torch.no_grad():
        layer.free_weight.fill_(-1e4)
        layer.free_weight[range(len(offsets)), offsets] = 1e4
    return layer


# --- the certificate ------------------------------------------------------------------


def test_kernels_are_convex_combinations() -> None:
    weight = random_layer().weight().detach()
    assert weight.shape == (6, 2, 3, 3)
    assert float(weight.min()) >= 0
    torch.testing.assert_close(weight.sum((1, 2, 3)), torch.ones(6))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([0.01, 1.0, 100.0]))
def test_no_pair_expands_by_more_than_the_certificate(seed: int, scale: float) -> None:
    layer = random_layer(seed=seed).double()
    x = random_input(layer, 8, seed).double()
    generator = torch.Generator().manual_seed(seed)
    shape = 8, *layer.state_shape
    v, w = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    before = (v - w).flatten(1).abs().amax(1)
    after = apply_once(layer, x, v) - apply_once(layer, x, w)
    bound = layer.modulus(x)
    assert (after.flatten(1).abs().amax(1) <= bound * before * (1 + 1e-12)).all()
    assert (bound <= layer.gamma).all()


def test_the_certificate_is_attained() -> None:
    layer = random_layer().double()
    x = random_input(layer, 1).double()
    x[:, :2], x[:, 2:] = 0.0, 0.5
    w = torch.ones(1, *layer.state_shape, dtype=torch.float64)
    change = apply_once(layer, x, w + 1) - apply_once(layer, x, w)
    assert float(layer.modulus(x)) == 0.45
    # Where no kernel reaches over the edge its mean of a constant is that constant.
    inside = change[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.45))


def test_values_stay_in_the_unit_interval() -> None:
    layer = random_layer()
    v = layer.solve(random_input(layer, 4), solver=EXACT).value.detach()
    assert float(v.min()) >= 0
    assert float(v.max()) <= 1


# --- closed forms ---------------------------------------------------------------------


def test_in_a_corridor_the_value_is_the_discounted_distance() -> None:
    # Kernel 0 looks left, kernel 1 right: v = 0.9^distance after as many iterations.
    layer = pick(BellmanLayer(1, 1, 9, num_actions=2, gamma=0.9), [3, 5])
    x = torch.ones(1, 2, 1, 9)
    x[:, 0] = 0
    x[0, 0, 0, 2] = 1
    distance = (torch.arange(9) - 2).abs()
    expected = (0.9**distance)[None, None, None]
    solved = layer.solve(x, solver=EXACT)
    torch.testing.assert_close(solved.value, expected)
    assert solved.num_steps.tolist() == [7]  # 6 to reach the end, 1 to notice it
    some = layer.solve(x, solver=SolverConfig(rtol=1e-12, max_steps=3)).value
    torch.testing.assert_close(some, expected * (distance <= 3))


def test_a_wall_stops_the_wave() -> None:
    layer = pick(BellmanLayer(1, 1, 5, num_actions=2, gamma=0.9), [3, 5])
    x = torch.ones(1, 2, 1, 5)
    x[0, 0, 0] = torch.tensor([1.0, 0, 0, 0, 0])
    x[0, 1, 0, 2] = 0
    value = layer.solve(x, solver=EXACT).value
    torch.testing.assert_close(value[0, 0, 0], torch.tensor([1.0, 0.9, 0, 0, 0]))


def test_the_solution_is_a_fixed_point_whatever_the_start() -> None:
    layer = random_layer()
    x = random_input(layer, 5)
    solved = layer.solve(x, solver=EXACT).value
    torch.testing.assert_close(apply_once(layer, x, solved), solved)
    high = layer.solve(x, torch.full_like(solved, 9.0), EXACT).value
    torch.testing.assert_close(high, solved)
    torch.testing.assert_close(layer(x), solved)


def test_portions_give_the_uninterrupted_solve_to_the_bit() -> None:
    layer = random_layer()
    x = random_input(layer, 5)
    whole = layer.solve(x, solver=SolverConfig(rtol=1e-30, max_steps=8)).value
    part = SolverConfig(rtol=1e-30, max_steps=4)
    half = layer.solve(x, solver=part).value
    assert torch.equal(layer.solve(x, half, part).value, whole)


# --- gradients ------------------------------------------------------------------------


def gradients(rule: str) -> list[Tensor]:
    layer = random_layer().double()
    x = random_input(layer, 3).double().requires_grad_()
    solver = SolverConfig(
        rtol=1e-14,
        max_steps=500,
        rule=rule,  # type: ignore[arg-type]  # its name will do
        adjoint_rtol=1e-14,
        adjoint_max_steps=500,
    )
    value = layer.solve(x, solver=solver).value
    weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64)
    loss = (weights * value.flatten()).sum()
    return list(torch.autograd.grad(loss, [x, layer.free_weight]))


def test_implicit_gradients_equal_unrolled_ones_at_convergence() -> None:
    implicit, unrolled = gradients("implicit"), gradients("unroll")
    assert all(float(part.abs().max()) > 1e-3 for part in unrolled)
    for one, other in zip(implicit, unrolled, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_equal_finite_differences() -> None:
    layer = random_layer(1, 4, num_actions=2).double()
    x = random_input(layer, 2).double().requires_grad_()
    solver = SolverConfig(
        rtol=1e-14, max_steps=500, adjoint_rtol=1e-14, adjoint_max_steps=500
    )

    def solved(x: Tensor) -> Tensor:
        return layer.solve(x, solver=solver).value

    assert torch.autograd.gradcheck(solved, x, check_undefined_grad=False)


# --- rows, cost, state ----------------------------------------------------------------


@pytest.mark.parametrize("is_last", [False, True])
def test_rows_do_not_depend_on_the_batch(is_last: bool) -> None:
    layer = random_layer(2, 19, num_actions=4).freeze()
    x = random_input(layer, 40)
    x[:, :2] **= 30  # few rewards, so that solves differ in length
    if is_last:
        x = x.contiguous(memory_format=torch.channels_last)
    solver = SolverConfig(rtol=1e-3, max_steps=50)
    with torch.no_grad():
        together = layer.solve(x, solver=solver)
        assert len(set(together.num_steps.tolist())) > 1
        for row in range(0, 40, 7):
            alone = layer.solve(x[row : row + 1], solver=solver)
            assert torch.equal(alone.value[0], together.value[row])
            assert alone.num_steps[0] == together.num_steps[row]
            some = layer.solve(x[row : row + 3], solver=solver)
            assert torch.equal(some.value, together.value[row : row + 3])


def test_freezing_keeps_the_values_and_training_undoes_it() -> None:
    layer = random_layer()
    x = random_input(layer, 2)
    before = layer(x)
    layer.eval().freeze()
    assert layer.weight() is layer.weight()
    assert torch.equal(layer(x), before)
    with torch.no_grad():
        layer.free_weight.mul_(2)
    layer.train()
    assert not torch.equal(layer(x), before)


def test_residual_curve_is_that_of_the_solve() -> None:
    layer = random_layer()
    x = random_input(layer, 1)
    solver = SolverConfig(rtol=1e-4, max_steps=100)
    with torch.no_grad():
        solved, curve = layer.solve(x, solver=solver), layer.residual_curve(x, solver)
    assert len(curve) == int(solved.num_steps)
    assert curve[-1] == float(solved.residual) < 1e-4


def test_size_and_cost() -> None:
    layer = BellmanLayer(2, 5, 7, num_actions=4)
    assert layer.state_shape == (2, 5, 7)
    assert layer.macs_per_iteration == 8 * 2 * 9 * 5 * 7


@pytest.mark.parametrize(
    ("options", "words"),
    [({"gamma": 1.0}, "gamma"), ({"num_actions": 0}, "start at 1")],
)
def test_impossible_layers_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BellmanLayer(2, 5, 5, **options)
