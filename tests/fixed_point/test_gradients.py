"""Gradients through a solve: exact, one-step, unrolled; each against another way."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynalay_gym.fixed_point.layers import (
    ConvFixedPointLayer,
    DenseFixedPointLayer,
    FixedPointLayer,
)
from dynalay_gym.fixed_point.solve import (
    GradientRule,
    SolverConfig,
    SolverMethod,
    solve,
)

EXACT = SolverConfig(
    rtol=1e-13, max_steps=2000, adjoint_rtol=1e-13, adjoint_max_steps=2000
)


def conv_layer(kappa: float = 0.8) -> tuple[FixedPointLayer, Tensor]:
    torch.manual_seed(0)
    layer = ConvFixedPointLayer(2, 4, 3, kappa=kappa).double()
    return layer, torch.randn(4, 2, 4, 3, dtype=torch.float64)


def depthwise_layer(kappa: float = 0.8) -> tuple[FixedPointLayer, Tensor]:
    torch.manual_seed(0)
    layer = ConvFixedPointLayer(2, 4, 3, kappa=kappa, depthwise=True).double()
    torch.nn.init.normal_(layer.free_weight)
    return layer, torch.randn(4, 2, 4, 3, dtype=torch.float64)


def dense_layer(kappa: float = 0.8) -> tuple[FixedPointLayer, Tensor]:
    torch.manual_seed(1)
    layer = DenseFixedPointLayer(10, kappa=kappa).double()
    return layer, torch.randn(4, 10, dtype=torch.float64)


Maker = Callable[..., tuple[FixedPointLayer, Tensor]]
layers = pytest.mark.parametrize("make", [conv_layer, depthwise_layer, dense_layer])


def gradients(
    layer: FixedPointLayer, x: Tensor, config: SolverConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, and gradients of a fixed nonlinear loss for input and free weight."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    value = layer.solve(x, solver=config).value
    scale = torch.linspace(-1.0, 2.0, value.numel(), dtype=value.dtype)
    (scale.view_as(value) * value.sin()).sum().backward()
    assert x.grad is not None and layer.free_weight.grad is not None
    return value.detach(), x.grad, layer.free_weight.grad.clone()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@layers
@pytest.mark.parametrize("kappa", [0.5, 0.9])
def test_implicit_equals_unrolled(make: Maker, kappa: float) -> None:
    layer, x = make(kappa)
    value, dx, dw = gradients(layer, x, EXACT)
    unroll = replace(EXACT, rule=GradientRule.UNROLL)
    value_u, dx_u, dw_u = gradients(layer, x, unroll)
    assert relative(value, value_u) < 1e-12
    assert relative(dx, dx_u) < 1e-6
    assert relative(dw, dw_u) < 1e-6
    assert value.count_nonzero() not in (0, value.numel()), "the relu should matter"


@layers
def test_implicit_gradient_passes_gradcheck(make: Maker) -> None:
    layer, x = make(0.5)

    def of_input(x: Tensor) -> Tensor:
        return layer.solve(x, solver=EXACT).value

    x = x[:2]
    check = partial(torch.autograd.gradcheck, check_undefined_grad=False)
    assert check(of_input, (x.clone().requires_grad_(),))

    def of_weight(free: Tensor) -> Tensor:
        solved = torch.func.functional_call(layer, {"free_weight": free}, (x,))
        assert isinstance(solved, Tensor)
        return solved

    layer.solver = EXACT
    free = layer.free_weight.detach().clone().requires_grad_()
    assert check(of_weight, (free,))


@layers
def test_adjoint_error_falls_like_kappa_to_the_power_of_its_steps(make: Maker) -> None:
    kappa = 0.8
    layer, x = make(kappa)
    _, exact, _ = gradients(layer, x, EXACT)
    norms = []
    for steps in (0, 2, 4, 8, 16):
        config = replace(EXACT, adjoint_max_steps=steps)
        _, dx, _ = gradients(layer, x, config)
        norms.append((steps, float((dx - exact).norm())))
    # The missing terms of the Neumann series sum to at most
    # kappa^(K+1) / (1 - kappa) * ||gradient of the loss||.
    with torch.no_grad():
        value = layer.solve(x, solver=EXACT).value
    scale = torch.linspace(-1.0, 2.0, value.numel(), dtype=value.dtype)
    loss_gradient = float((scale.view_as(value) * value.cos()).norm())
    for steps, error in norms:
        assert error <= kappa ** (steps + 1) / (1 - kappa) * loss_gradient + 1e-12
    assert norms[-1][1] < 0.05 * norms[0][1]


@layers
def test_adjoint_tolerance_is_kept(make: Maker) -> None:
    layer, x = make(0.9)
    _, exact, _ = gradients(layer, x, EXACT)
    for rtol in (1e-1, 1e-2, 1e-3):
        _, dx, _ = gradients(layer, x, replace(EXACT, adjoint_rtol=rtol))
        assert relative(dx, exact) <= rtol * 0.9 / (1 - 0.9)


@layers
def test_one_step_is_the_gradient_of_the_last_application(make: Maker) -> None:
    layer, x = make()
    rule = replace(EXACT, rule=GradientRule.ONE_STEP)
    value, dx, dw = gradients(layer, x, rule)

    x = x.clone().requires_grad_()
    layer.zero_grad()
    last = torch.relu(x + layer.recur(value, layer.weight()))
    scale = torch.linspace(-1.0, 2.0, last.numel(), dtype=last.dtype)
    (scale.view_as(last) * last.sin()).sum().backward()
    assert x.grad is not None and layer.free_weight.grad is not None
    assert relative(dx, x.grad) < 1e-10
    assert relative(dw, layer.free_weight.grad) < 1e-10
    _, no_adjoint, _ = gradients(layer, x.detach(), replace(EXACT, adjoint_max_steps=0))
    assert torch.equal(no_adjoint, dx)


@layers
@pytest.mark.parametrize("rtol", [0.5, 1e-3])
@pytest.mark.parametrize("max_steps", [0, 1, 3, 100])
def test_the_rule_does_not_change_the_solve(
    make: Maker, rtol: float, max_steps: int
) -> None:
    layer, x = make()
    config = SolverConfig(rtol=rtol, max_steps=max_steps)
    with torch.no_grad():
        plain = layer.solve(x, solver=config)
    for rule in GradientRule:
        result = layer.solve(x, solver=replace(config, rule=rule))
        assert result.value.requires_grad == (max_steps > 0)
        assert torch.equal(result.value, plain.value)
        assert torch.equal(result.num_steps, plain.num_steps)
        assert torch.equal(result.status, plain.status)
        assert torch.equal(result.residual, plain.residual)


def test_no_steps_give_the_gradient_of_the_start() -> None:
    layer, x = dense_layer()
    x.requires_grad_()
    layer.solve(x, solver=SolverConfig(max_steps=0)).value.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x > 0).double())


def test_a_solve_can_be_differentiated_twice_over_when_the_graph_is_kept() -> None:
    layer, x = dense_layer()
    x.requires_grad_()
    loss = layer.solve(x, solver=EXACT).value.square().sum()
    loss.backward(retain_graph=True)
    assert x.grad is not None
    first = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * first)


def test_gradient_of_a_scalar_map_by_hand() -> None:
    # z* = x / (1 - w): dz/dx = 1 / (1 - w), dz/dw = x / (1 - w)^2
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    result = solve(lambda z, x: w * z + x, torch.zeros_like(x), x, EXACT)
    result.value.sum().backward()
    assert x.grad is not None and w.grad is not None
    assert x.grad.item() == pytest.approx(2.0)
    assert w.grad.item() == pytest.approx(12.0)


ACCURATE = replace(EXACT, rtol=1e-10)


@layers
@pytest.mark.parametrize("method", list(SolverMethod))
def test_accelerated_gradients_equal_the_unrolled_ones(
    make: Maker, method: SolverMethod
) -> None:
    layer, x = make(0.9)
    unroll = replace(EXACT, rule=GradientRule.UNROLL)
    _, dx_u, dw_u = gradients(layer, x, unroll)
    config = replace(EXACT, rtol=1e-12, method=method, adjoint_method=method)
    _, dx, dw = gradients(layer, x, config)
    assert relative(dx, dx_u) < 1e-6
    assert relative(dw, dw_u) < 1e-6


@layers
@pytest.mark.parametrize("rtol", [1e-1, 1e-2])
def test_training_tolerance_keeps_the_direction(make: Maker, rtol: float) -> None:
    layer, x = make(0.9)
    _, dx_e, dw_e = gradients(layer, x, EXACT)
    for method in SolverMethod:
        loose = replace(EXACT, adjoint_rtol=rtol, adjoint_method=method)
        _, dx, dw = gradients(layer, x, loose)
        for one, exact in ((dx, dx_e), (dw, dw_e)):
            cosine = torch.cosine_similarity(one.flatten(), exact.flatten(), 0)
            assert cosine > (0.999 if rtol == 1e-2 else 0.99)


@layers
def test_neumann_series_by_hand(make: Maker) -> None:
    layer, x = make(0.9)
    weight = layer.weight().detach()
    with torch.no_grad():
        z = layer.solve(x, solver=EXACT).value
    scale = torch.linspace(-1.0, 2.0, z.numel(), dtype=z.dtype).view_as(z)
    v, mask = scale * z.cos(), (z > 0).to(z.dtype)
    for steps in range(4):
        config = replace(
            ACCURATE, adjoint_max_steps=steps, adjoint_method=SolverMethod.PLAIN
        )
        _, dx, _ = gradients(layer, x, config)
        y = mask * v
        for _ in range(steps):
            y = mask * (v + layer.recur_transposed(y, weight))
        assert relative(dx, y) < 1e-8


@layers
def test_transpose_and_weight_gradient_equal_autograd(make: Maker) -> None:
    layer, z = make()
    weight, a = layer.weight().detach(), torch.randn_like(z)
    own = layer.recur_transposed(a, weight), layer.weight_gradient(z, a, weight)
    base = layer._vector_jacobian(a, weight, z)
    for one, other in zip(own, base, strict=True):
        assert relative(one, other) < 1e-12
    # <a, W z> = <W^T a, z>
    left, right = (a * layer.recur(z, weight)).sum(), (own[0] * z).sum()
    assert float(left) == pytest.approx(float(right))


class Diagonal(FixedPointLayer):
    """A layer of somebody else's: only what is abstract is given."""

    def norm_bound(self) -> Tensor:
        return self.free_weight.abs().amax()

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        return z * weight

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (len(self.free_weight),)


def test_a_layer_needs_nothing_but_its_map() -> None:
    weight = torch.tensor([0.5, -0.25, 0.5], dtype=torch.float64)
    layer = Diagonal(weight, 0.9, EXACT)
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    value = layer(x)
    value.sum().backward()
    assert value[0].tolist() == pytest.approx([2.0, 1.6, 0.0])
    assert x.grad is not None and layer.free_weight.grad is not None
    assert x.grad[0].tolist() == pytest.approx([2.0, 0.8, 0.0])
    assert layer.free_weight.grad.tolist() == pytest.approx([4.0, 1.28, 0.0])


def saved_numbers(layer: FixedPointLayer, x: Tensor, config: SolverConfig) -> int:
    """Elements that a solve saves for its backward pass, each storage once."""
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    layer.freeze()  # the norm's bound has a graph of its own
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = layer.solve(x.clone().requires_grad_(), solver=config).value
    layer.train()
    assert value.requires_grad
    return sum(sizes.values())


@layers
def test_memory_is_the_solution_and_the_weight(make: Maker) -> None:
    layer, x = make(0.9)
    expected = x.numel() + layer.free_weight.numel()
    for steps in (1, 5, 200):
        config = replace(EXACT, max_steps=steps)
        assert saved_numbers(layer, x, config) == expected
    unroll = replace(EXACT, rule=GradientRule.UNROLL, max_steps=20)
    assert saved_numbers(layer, x, unroll) > 10 * x.numel()


def test_a_second_derivative_is_refused() -> None:
    layer, x = dense_layer()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(
        layer.solve(x, solver=EXACT).value.square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("rule", list(GradientRule))
def test_second_derivatives_are_right_or_refused(rule: GradientRule) -> None:
    # z = tanh(0.6 z + x): with s = 1 - z^2, z' = s / (1 - 0.6 s) and
    # z'' = -2 z s (0.6 z' + 1)^2 / (1 - 0.6 s)
    x = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    config = replace(EXACT, rule=rule)
    z = solve(lambda z, x: torch.tanh(0.6 * z + x), torch.zeros_like(x), x, config)
    (first,) = torch.autograd.grad(z.value.sum(), x, create_graph=True)
    value = z.value.item()
    s = 1 - value**2
    once = s / (1 - 0.6 * s)
    if rule is not GradientRule.ONE_STEP:
        assert first.item() == pytest.approx(once)
    if rule is not GradientRule.UNROLL:
        with pytest.raises(RuntimeError, match="unroll"):
            torch.autograd.grad(first.square().sum(), x)
        return
    (second,) = torch.autograd.grad(first.square().sum(), x)
    twice = -2 * value * s * (0.6 * once + 1) ** 2 / (1 - 0.6 * s)
    assert second.item() == pytest.approx(2 * once * twice)
    assert second.item() == pytest.approx(-4.302, abs=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own
@pytest.mark.parametrize("rule", [GradientRule.IMPLICIT, GradientRule.UNROLL])
def test_a_tangent_that_is_carried_forward_is_the_derivative(
    rule: GradientRule,
) -> None:
    x = torch.tensor([[0.4]], dtype=torch.float64)
    config = replace(EXACT, rule=rule)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        value = solve(
            lambda z, x: torch.tanh(0.6 * z + x), torch.zeros_like(x), dual, config
        ).value
        z, tangent = forward_ad.unpack_dual(value)
    s = 1 - z.item() ** 2
    assert tangent is not None
    assert tangent.item() == pytest.approx(s / (1 - 0.6 * s))


def test_second_derivatives_for_parameters_alone_are_refused() -> None:
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[3.0]], dtype=torch.float64)
    value = solve(lambda z, x: w * z + x, torch.zeros_like(x), x, EXACT).value
    (first,) = torch.autograd.grad(value.sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        first.backward()


@pytest.mark.parametrize("make", [ConvFixedPointLayer, DenseFixedPointLayer])
def test_gradients_under_autocast(make: type[FixedPointLayer]) -> None:
    torch.manual_seed(0)
    layer = make(6, 5, 5) if make is ConvFixedPointLayer else make(30)
    x = torch.randn(8, *layer.state_shape)
    config = SolverConfig(rtol=1e-2, max_steps=50, adjoint_rtol=1e-2)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            given = x.clone().requires_grad_()
            layer.zero_grad()
            value = layer.solve(given, solver=config).value
        value.float().square().sum().backward()
        assert given.grad is not None and layer.free_weight.grad is not None
        found.append((given.grad, layer.free_weight.grad.clone()))
    for exact, rough in zip(*found, strict=True):
        assert rough.dtype == exact.dtype
        assert relative(rough, exact) < 0.05


def test_nothing_flows_without_a_reason() -> None:
    layer, x = dense_layer()
    layer.freeze()
    assert not layer.solve(x).value.requires_grad
    layer.train()
    given = x.clone().requires_grad_()
    layer.requires_grad_(False)
    layer.solve(given, solver=EXACT).value.sum().backward()
    assert given.grad is not None and layer.free_weight.grad is None
