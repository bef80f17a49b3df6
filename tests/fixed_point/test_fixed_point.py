"""The solver against contractions whose fixed point is known in closed form."""

from functools import partial

import pytest
import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.progress import SolverStatus, relative_residual
from dynalay_gym.fixed_point.solve import (
    GradientRule,
    SolverConfig,
    fixed_point_iteration,
    solve,
)


def matrix(norm: float, size: int, seed: int = 0) -> Tensor:
    """Random matrix [size, size] of a given spectral norm, float64."""
    generator = torch.Generator().manual_seed(seed)
    free = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return free * (norm / torch.linalg.matrix_norm(free, 2))


def linear(weight: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return z @ weight.T + x


def inputs(num: int, size: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.3, 0.6, 0.9])
def test_linear_contraction_reaches_its_closed_form(kappa: float) -> None:
    weight, x = matrix(kappa, 12), inputs(7, 12)
    f = partial(linear, weight)
    result = fixed_point_iteration(f, torch.zeros_like(x), x, rtol=1e-10, max_steps=500)
    expected = torch.linalg.solve(torch.eye(12, dtype=x.dtype) - weight, x.T).T
    assert result.status.tolist() == [SolverStatus.CONVERGED] * 7
    # ||z - z*|| <= kappa / (1 - kappa) * ||last step||
    bound = 1e-10 * kappa / (1 - kappa) * result.value.norm(dim=1) + 1e-14
    assert ((result.value - expected).norm(dim=1) <= bound).all()
    # The error falls at least by kappa per step, so the count has an upper bound too.
    assert (
        result.num_steps.max() <= torch.tensor(2e-11).log() / torch.tensor(kappa).log()
    )


def contraction_of_each_row(z: Tensor, x: Tensor) -> Tensor:
    """Row i contracts by x[i, 0]; fixed point x[i, 1] / (1 - x[i, 0])."""
    return x[:, :1] * z + x[:, 1:]


def test_rows_stop_after_as_many_steps_as_they_take_alone() -> None:
    factors = torch.linspace(0.0, 0.95, 24, dtype=torch.float64)
    x = torch.stack([factors, torch.ones_like(factors)], 1)
    z0 = torch.zeros(24, 1, dtype=torch.float64)
    run = partial(
        fixed_point_iteration, contraction_of_each_row, rtol=1e-6, max_steps=400
    )
    together = run(z0, x)
    assert len(together.num_steps.unique()) > 15, "the rows should differ"
    for i in range(24):
        alone = run(z0[i : i + 1], x[i : i + 1])
        assert alone.num_steps.item() == together.num_steps[i]
        assert torch.equal(alone.value[0], together.value[i])
        assert torch.equal(alone.residual[0], together.residual[i])
        assert alone.status.item() == together.status[i]


def test_steps_and_residual_equal_a_count_by_hand() -> None:
    # z: 0 -> 1 -> 1.5 -> 1.75; relative residuals 1, 1/3, 1/7
    x = torch.tensor([[0.5, 1.0]])
    result = fixed_point_iteration(
        contraction_of_each_row, torch.zeros(1, 1), x, rtol=0.2, max_steps=10
    )
    assert result.num_steps.tolist() == [3]
    assert result.value.tolist() == [[1.75]]
    assert result.residual.tolist() == pytest.approx([1 / 7])


def test_a_spent_budget_is_a_status_and_keeps_the_last_iterate() -> None:
    x = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    result = fixed_point_iteration(
        contraction_of_each_row, torch.zeros(2, 1), x, rtol=1e-6, max_steps=3
    )
    assert result.status.tolist() == [SolverStatus.MAX_STEPS, SolverStatus.CONVERGED]
    assert result.num_steps.tolist() == [3, 2]
    assert result.value.flatten().tolist() == [1.75, 1.0]


def test_no_steps_at_all() -> None:
    x = torch.tensor([[0.5, 1.0]])
    z0 = torch.full((1, 1), 7.0)
    result = fixed_point_iteration(
        contraction_of_each_row, z0, x, rtol=0.1, max_steps=0
    )
    assert result.value.tolist() == [[7.0]]
    assert result.value.data_ptr() != z0.data_ptr()
    assert result.num_steps.tolist() == [0]
    assert result.residual.tolist() == [1.0]
    assert result.status.tolist() == [SolverStatus.MAX_STEPS]


def test_no_rows_at_all() -> None:
    result = fixed_point_iteration(
        contraction_of_each_row,
        torch.zeros(0, 1),
        torch.zeros(0, 2),
        rtol=0.1,
        max_steps=5,
    )
    assert result.value.shape == (0, 1)
    assert result.num_steps.shape == (0,)


def test_residual_of_a_dead_state_is_zero() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert relative_residual(zero, zero).tolist() == [0.0]
    assert relative_residual(one, zero).tolist() == [1.0]
    assert relative_residual(one, one).tolist() == [0.0]


def test_a_dead_layer_has_converged_after_one_step() -> None:
    x = torch.full((2, 4), -1.0)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return torch.relu(x + 0.5 * z)

    result = fixed_point_iteration(f, torch.zeros(2, 4), x, rtol=0.1, max_steps=9)
    assert result.status.tolist() == [SolverStatus.CONVERGED] * 2
    assert result.num_steps.tolist() == [1, 1]
    assert result.residual.tolist() == [0.0, 0.0]


def test_a_state_that_dies_on_the_way_converges_to_zero() -> None:
    x = torch.full((1, 4), -1.0)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return torch.relu(x + 0.5 * z)

    result = fixed_point_iteration(f, torch.ones(1, 4), x, rtol=0.1, max_steps=9)
    assert result.value.tolist() == [[0.0] * 4]
    assert result.num_steps.tolist() == [2]
    assert result.status.tolist() == [SolverStatus.CONVERGED]


def expanding(z: Tensor, x: Tensor) -> Tensor:
    """Row i grows by the factor x[i, 0]."""
    return x[:, :1] * z + 1.0


def broken(z: Tensor, x: Tensor) -> Tensor:
    """Rows with a negative input become NaN at once."""
    return torch.where(x[:, :1] < 0, torch.nan, 0.5 * z + x[:, :1] + 0.5)


@pytest.mark.parametrize("rule", list(GradientRule))
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("f", [expanding, broken])
def test_divergence_is_flagged_and_never_a_nan_value(f, grad, rule) -> None:
    x = torch.tensor([[1e9], [0.5], [-1e9]], requires_grad=grad)
    config = SolverConfig(rtol=1e-3, max_steps=60, rule=rule)
    with torch.set_grad_enabled(grad):
        result = solve(f, torch.zeros(3, 1), x, config)
    assert result.value.isfinite().all()
    assert result.status[1] == SolverStatus.CONVERGED
    assert result.value[1].item() == pytest.approx(2.0, rel=2e-3)
    bad = [0, 2] if f is expanding else [2]
    for row in bad:
        assert result.status[row] == SolverStatus.NONFINITE
        assert not result.residual[row] < 1e-3
        assert result.num_steps[row] < 60
    if grad and rule is not GradientRule.UNROLL:
        result.value[1].sum().backward()
        assert x.grad is not None and x.grad[1].isfinite()


def test_a_slowly_expanding_map_never_counts_as_converged() -> None:
    x = torch.tensor([[1.5], [-1.5], [-1.0]])
    result = fixed_point_iteration(
        expanding, torch.zeros(3, 1), x, rtol=1e-3, max_steps=50
    )
    assert result.value.isfinite().all()
    assert SolverStatus.CONVERGED not in result.status.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"rtol": 0.0},
        {"rtol": -1.0},
        {"rtol": float("nan")},
        {"adjoint_rtol": 0.0},
        {"max_steps": -1},
        {"adjoint_max_steps": -1},
    ],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SolverConfig(**options)  # type: ignore[arg-type]
