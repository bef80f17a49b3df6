"""The accelerated solver: same solutions, same evidence, nothing unflagged."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point import rows as tiles
from dynalay_gym.fixed_point.anderson import anderson_iteration
from dynalay_gym.fixed_point.layers import (
    ConvFixedPointLayer,
    DenseFixedPointLayer,
    FixedPointLayer,
)
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.solve import (
    SolverConfig,
    SolverMethod,
    fixed_point_iteration,
    solve,
)

ANDERSON = SolverConfig(rtol=1e-4, max_steps=200, method=SolverMethod.ANDERSON)
CONFIGS = [replace(ANDERSON, method=SolverMethod.PLAIN), ANDERSON]


def slow_matrix(norm: float, size: int = 12) -> Tensor:
    """Symmetric matrix of a given norm with a spread spectrum, float64."""
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(size, size, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(free)[0]
    return norm * (basis * torch.linspace(-0.5, 1.0, size)) @ basis.T


def inputs(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def slow_layer(kappa: float = 0.95) -> ConvFixedPointLayer:
    """Smoothing of 6 channels, near its bound."""
    layer = ConvFixedPointLayer(6, 8, 8, kappa=kappa)
    line = torch.tensor([0.25, 0.5, 0.25])
    mixing = 0.7 * torch.eye(6) + 0.05
    with torch.no_grad():
        layer.free_weight.copy_(mixing[:, :, None, None] * (line[:, None] * line))
    layer.eval()
    layer.freeze()
    return layer


@pytest.mark.parametrize("norm", [0.3, 0.9, 0.97])
def test_linear_contraction_reaches_its_closed_form(norm: float) -> None:
    weight, x = slow_matrix(norm), inputs(7, 12)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return z @ weight.T + x

    start = torch.zeros_like(x)
    result = anderson_iteration(f, start, x, rtol=1e-8, max_steps=500)
    plain = fixed_point_iteration(f, start, x, rtol=1e-8, max_steps=500)
    expected = torch.linalg.solve(torch.eye(12, dtype=x.dtype) - weight, x.T).T
    assert result.status.tolist() == [SolverStatus.CONVERGED] * 7
    bound = 1e-8 / (1 - norm) * result.value.norm(dim=1) + 1e-12
    assert ((result.value - expected).norm(dim=1) <= bound).all()
    assert result.num_steps.sum() <= plain.num_steps.sum()
    if norm > 0.5:
        assert result.num_steps.sum() < 0.8 * plain.num_steps.sum()


def test_one_extrapolation_solves_a_scalar_problem() -> None:
    # On one slow direction the scalar is exact: the fifth step stands on the solution.
    x = torch.tensor([[0.9, 1.0], [0.5, 1.0], [-0.5, 3.0]], dtype=torch.float64)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return x[:, :1] * z + x[:, 1:]

    result = anderson_iteration(
        f, torch.zeros(3, 1, dtype=x.dtype), x, rtol=1e-6, max_steps=100
    )
    assert result.num_steps.tolist() == [6, 6, 6]
    expected = x[:, 1] / (1 - x[:, 0])
    assert torch.allclose(result.value[:, 0], expected, rtol=1e-6)


def test_a_layer_has_the_same_solution_in_fewer_steps() -> None:
    layer, x = slow_layer(), inputs(20, 6, 8, 8).float() + 0.5
    with torch.no_grad():
        plain = layer.solve(x, solver=replace(ANDERSON, rtol=1e-6, method="plain"))
        result = layer.solve(x, solver=ANDERSON)
        again = layer.solve(x, result.value, CONFIGS[0])
    assert (result.status == SolverStatus.CONVERGED).all()
    assert (again.residual <= 1e-4).all(), "its evidence holds for the plain map"
    error = (result.value - plain.value).flatten(1).norm(dim=1)
    assert (error <= 1e-4 * 0.95 / 0.05 * plain.value.flatten(1).norm(dim=1)).all()
    assert result.num_steps.sum() < 0.8 * plain.num_steps.sum()


def equal(a: SolveResult, b: SolveResult, rows: list[int]) -> bool:
    pairs = (
        (a.value, b.value),
        (a.residual, b.residual),
        (a.num_steps, b.num_steps),
        (a.status, b.status),
    )
    return all(torch.equal(one, two[rows]) for one, two in pairs)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [6, 32])
def test_a_row_does_not_depend_on_the_others(
    config: SolverConfig,
    channels_last: bool,
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = ConvFixedPointLayer(channels, 8, 8, kappa=0.95)
    with torch.no_grad():
        layer.free_weight.add_(0.02)
    layer.eval()
    layer.freeze()
    offsets = torch.linspace(-2, 2, 40).view(-1, 1, 1, 1)
    x = inputs(40, channels, 8, 8).float() + offsets
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=form)
    with torch.no_grad():
        together = layer.solve(x, solver=config)
        assert len(together.num_steps.unique()) > 1, "the rows should differ"
        many = [3, 17], list(range(39, 2, -1))
        cases = [*product(([0], [39]), (1, 2), (2**20,))]
        cases += product(many, (1,), (2**14, 2**20))
        for rows, threads, size in cases:
            monkeypatch.setattr(tiles, "_TILE_BYTES", size)
            torch.set_num_threads(threads)
            some = layer.solve(x[rows].contiguous(memory_format=form), solver=config)
            torch.set_num_threads(1)
            assert equal(some, together, rows), (rows, threads, size)


def test_tiles_cut_and_join_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = slow_layer(), inputs(30, 6, 8, 8).float()
    whole = layer.solve(x, solver=ANDERSON)
    monkeypatch.setattr(tiles, "_TILE_BYTES", 1)
    assert [len(part) for (part,) in tiles.in_tiles(x)] == [8, 8, 8, 6]
    assert equal(layer.solve(x, solver=ANDERSON), whole, list(range(30)))


@pytest.mark.parametrize("method", list(SolverMethod))
@pytest.mark.parametrize("size", [12, 20_000])
def test_a_bad_row_does_not_touch_the_others(method: SolverMethod, size: int) -> None:
    x = inputs(6, size).float()
    bad = x.clone()
    bad[1], bad[2], bad[4] = torch.nan, 1e-30, 3e38
    config = replace(ANDERSON, method=method)
    good_rows, threads = [0, 3, 5], torch.get_num_threads()

    def run(x: Tensor) -> SolveResult:
        return solve(
            lambda z, x: 0.9 * z.roll(1, 1) + x, torch.zeros_like(x), x, config
        )

    whole, alone = run(bad), run(x[3:4])
    torch.set_num_threads(2)
    expected = run(x)
    torch.set_num_threads(threads)
    for part in ("value", "residual", "num_steps", "status"):
        one, other = getattr(whole, part), getattr(expected, part)
        assert torch.equal(one[good_rows], other[good_rows]), part
        assert torch.equal(getattr(alone, part)[0], other[3]), part
    assert whole.status[1] == SolverStatus.NONFINITE


# The largest true residual of a map of norm s whose last step was r times its image is
# s * r; a tenth more covers rounding.
def is_honest(weight: Tensor, x: Tensor, result: SolveResult, rtol: float) -> bool:
    """Whether every row called converged is, judged in double precision."""
    z = result.value.double()
    scale = x.double().abs().amax(1, keepdim=True).clamp(min=1e-300)
    image = torch.relu(x.double() + z @ weight.double().T)
    change = ((image - z) / scale).norm(dim=1)
    norm = (z / scale).norm(dim=1)
    limit = 1.1 * rtol * torch.linalg.matrix_norm(weight.double(), 2).clamp(min=1.0)
    # Nine products, each rounded to the spacing of the smallest numbers.
    is_exact = (image - z).abs().amax(1) <= 9 * 1.5e-45
    good = (change <= limit * norm) | (change <= 1e-6) | is_exact
    return bool((good | (result.status != SolverStatus.CONVERGED)).all())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    norm=st.floats(0.5, 3.0),
    exponent=st.integers(-44, 20),
    special=st.sampled_from(["none", "nan", "inf", "zero", "negative", "denormal"]),
    method=st.sampled_from(list(SolverMethod)),
    max_steps=st.integers(1, 60),
)
def test_nothing_goes_wrong_silently(
    seed: int,
    norm: float,
    exponent: int,
    special: str,
    method: SolverMethod,
    max_steps: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(9, 9, generator=generator)
    weight *= norm / torch.linalg.matrix_norm(weight, 2)
    x = torch.randn(5, 9, generator=generator).double().mul(10.0**exponent).float()
    values = {"nan": torch.nan, "inf": torch.inf, "zero": 0.0, "denormal": 1e-42}
    if special == "negative":
        x[2] = -x[2].abs()
    elif special in values:
        x[2] = values[special]
    config = SolverConfig(rtol=1e-3, max_steps=max_steps, method=method)
    start = torch.relu(torch.nan_to_num(x, 0.0, 1.0))
    result = solve(lambda z, x: torch.relu(x + z @ weight.T), start, x, config)
    assert result.value.isfinite().all()
    assert is_honest(weight, torch.nan_to_num(x, 0.0, 1.0), result, 1e-3)
    assert (result.num_steps <= max_steps).all()
    if special in ("nan", "inf"):
        assert result.status[2] == SolverStatus.NONFINITE


def test_tiny_states_are_not_taken_for_converged() -> None:
    # Their squares vanish in single precision; their ratios do not.
    x = torch.full((2, 3), 1e-25)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return 0.9 * z + x

    for run in (fixed_point_iteration, anderson_iteration):
        result = run(f, torch.zeros_like(x), x, rtol=1e-3, max_steps=200)
        assert (result.status == SolverStatus.CONVERGED).all()
        assert torch.allclose(result.value / 1e-25, torch.tensor(10.0), rtol=2e-2)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("make", [ConvFixedPointLayer, DenseFixedPointLayer])
def test_dead_states_and_bad_rows_of_a_layer(
    config: SolverConfig, make: type[FixedPointLayer]
) -> None:
    layer = make(4, 3, 3) if make is ConvFixedPointLayer else make(4)
    x = inputs(4, *layer.state_shape).float()
    x[1], x[2] = -1.0, torch.nan
    with torch.no_grad():
        result = layer.solve(x, solver=config)
    converged, broken = SolverStatus.CONVERGED, SolverStatus.NONFINITE
    assert result.status.tolist() == [converged, converged, broken, converged]
    assert result.value[1].count_nonzero() == 0
    assert result.residual[1] == 0.0
    assert result.value[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("max_steps", [0, 1, 2, 3, 5, 9])
def test_a_spent_budget_is_a_status(max_steps: int) -> None:
    layer, x = slow_layer(), inputs(9, 6, 8, 8).float() + 0.5
    exact = replace(ANDERSON, rtol=1e-12, max_steps=max_steps)
    with torch.no_grad():
        result = layer.solve(x, solver=exact)
    assert result.num_steps.tolist() == [max_steps] * 9
    assert (result.status == SolverStatus.MAX_STEPS).all()
    assert result.value.isfinite().all()


def test_no_rows_at_all() -> None:
    layer = slow_layer()
    for config in CONFIGS:
        result = layer.solve(torch.zeros(0, 6, 8, 8), solver=config)
        assert result.value.shape == (0, 6, 8, 8)
        assert result.num_steps.shape == (0,)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "newton"},
        {"adjoint_method": "newton"},
        {"rule": "none"},
    ],
)
def test_impossible_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SolverConfig(**options)  # type: ignore[arg-type]
