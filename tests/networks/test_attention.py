"""Attention as a fixed-point layer: its map, tokens that leave, bounds, gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, SolverMethod
from dynalay_gym.networks.layers.attention import AttentionFixedPointLayer
from dynalay_gym.networks.layers.attention_map import normalise

TIGHT = SolverConfig(rtol=1e-13, max_steps=300, adjoint_rtol=1e-12)


def layer_and_input(
    n: int = 5, length: int = 9, width: int = 12, **options: Any
) -> tuple[AttentionFixedPointLayer, Tensor]:
    """Layer of 3 heads whose tokens need several steps, in double precision."""
    torch.manual_seed(0)
    layer = AttentionFixedPointLayer(width, **{"heads": 3, "hidden": 20} | options)
    x = torch.randn(n, length, width, dtype=torch.double)
    return layer.double(), x


# --- the map --------------------------------------------------------------------------


@torch.no_grad()
def test_the_map_is_a_pre_norm_encoder_layer() -> None:
    layer, x = layer_and_input()
    z = torch.randn_like(x)
    u = z / (1 + z.square().mean(2, keepdim=True)).sqrt()
    q, k, v = ((u @ part.T).unflatten(2, (3, 4)) for part in layer.qkv.chunk(3))
    read = F.scaled_dot_product_attention(*(p.transpose(1, 2) for p in (q, k, v)))
    h = x + read.transpose(1, 2).flatten(2) @ layer.out.T
    u = h / (1 + h.square().mean(2, keepdim=True)).sqrt()
    inner = F.relu(u @ layer.expand.T + layer.expand_bias)
    expected = h + inner @ layer.reduce.T + layer.reduce_bias
    torch.testing.assert_close(layer.apply_once(z, x), expected)


@torch.no_grad()
def test_a_lone_token_reads_itself() -> None:
    layer, x = layer_and_input(length=1)
    layer.reduce.zero_()  # f = x + W_O V norm(z)
    value = layer.qkv[24:]
    expected = x + normalise(x) @ value.T @ layer.out.T
    torch.testing.assert_close(layer.apply_once(x, x), expected)


# --- tokens that leave ----------------------------------------------------------------


@torch.no_grad()
def test_where_no_token_settles_a_solve_is_the_map_applied_again_and_again() -> None:
    layer, x = layer_and_input()
    result = layer.solve(x, solver=SolverConfig(rtol=1e-30, max_steps=4))
    z = x
    for _ in range(4):
        z = layer.apply_once(z, x)
    torch.testing.assert_close(result.value, z)
    assert (result.token_steps == 4).all() and result.saved is not None
    assert not result.settled.any() and not result.saved.any()
    assert (result.status == SolverStatus.MAX_STEPS).all()


@torch.no_grad()
def test_tokens_that_read_nothing_settle_in_the_second_step() -> None:
    layer, x = layer_and_input()
    layer.out.zero_()
    result = layer.solve(x, solver=TIGHT)
    assert torch.equal(result.value, layer.apply_once(x, x))
    assert (result.token_steps == 2).all() and result.settled.all()
    assert (result.status == SolverStatus.CONVERGED).all()
    assert not result.residual.any()


@torch.no_grad()
def test_settled_tokens_stay_and_the_others_read_them() -> None:
    layer, x = layer_and_input()
    z0, settled = torch.randn_like(x), torch.rand(x.shape[:2]) < 0.4
    result = layer.solve(x, z0, SolverConfig(rtol=1e-30, max_steps=3), settled=settled)
    z = z0
    for _ in range(3):
        z = torch.where(settled[..., None], z0, layer.apply_once(z, x))
    torch.testing.assert_close(result.value, z)
    assert torch.equal(result.value[settled], z0[settled])
    assert torch.equal(result.token_steps, 3 * (~settled).long())


@torch.no_grad()
def test_a_token_settles_at_the_iterate_that_was_tested() -> None:
    layer, x = layer_and_input(30)
    solver = SolverConfig(rtol=0.02, max_steps=50)
    result = layer.solve(x, solver=solver)
    assert (result.status == SolverStatus.CONVERGED).all() and result.settled.all()
    assert torch.equal(result.num_steps, result.token_steps.amax(1))
    assert len(result.token_steps.unique()) > 2
    assert (result.residual < 0.02).all()
    # What the last tokens did moved the first ones by a little more than a step.
    assert float(layer.check(x, result.value, solver).residual.max()) < 0.06


def test_leaving_tokens_and_an_unrolled_solve_agree() -> None:
    layer, x = layer_and_input(30)
    found = []
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        solver = SolverConfig(rtol=0.02, max_steps=50, rule=rule)
        found.append(layer.solve(x, solver=solver))
    torch.testing.assert_close(found[0].value, found[1].value)
    assert torch.equal(found[0].token_steps, found[1].token_steps)
    torch.testing.assert_close(found[0].residual, found[1].residual)


@torch.no_grad()
def test_portions_end_where_one_solve_ends() -> None:
    layer, x = layer_and_input(30)
    layer, x = layer.float(), x.float()
    whole = layer.solve(x, solver=SolverConfig(rtol=0.02, max_steps=6))
    z, settled = x, None
    steps = torch.zeros(30, 9, dtype=torch.int64)
    for most in (1, 3, 2):
        solver = SolverConfig(rtol=0.02, max_steps=most)
        before = torch.zeros(30, 9, dtype=torch.bool) if settled is None else settled
        part = layer.solve(x, z, solver, settled=settled)
        z, settled = part.value, part.settled
        steps += part.token_steps
        # Keys and values of the tokens that do not move are made again.
        cost = part.token_steps.sum(1) * layer.macs_per_token(9)
        cost += before.sum(1) * layer.macs_to_resume() * (part.num_steps > 0)
        took = part.num_steps * 9 * layer.macs_per_token(9) - part.saved
        assert torch.equal(took, cost)
    assert torch.equal(z, whole.value) and torch.equal(steps, whole.token_steps)
    assert torch.equal(settled, whole.settled)


@torch.no_grad()
def test_padding_is_not_read() -> None:
    layer, x = layer_and_input()
    padded = torch.cat([x, torch.full_like(x, torch.nan)], 1)
    is_token = torch.arange(18).expand(5, 18) < 9
    solver = SolverConfig(rtol=1e-3, max_steps=30)
    short = layer.solve(x, solver=solver)
    long = layer.solve(padded, solver=solver, is_token=is_token)
    torch.testing.assert_close(long.value[:, :9], short.value)
    assert torch.equal(long.token_steps[:, :9], short.token_steps)
    assert not long.token_steps[:, 9:].any() and long.settled[:, 9:].all()
    once = layer.apply_once(padded, padded, is_token)
    torch.testing.assert_close(once[:, :9], layer.apply_once(x, x))
    assert not once[:, 9:].any()


@pytest.mark.parametrize(("length", "heads"), [(7, 1), (7, 3), (64, 4), (1, 1)])
@torch.no_grad()
def test_a_row_does_not_depend_on_those_beside_it(length: int, heads: int) -> None:
    layer, x = layer_and_input(130, length, 12, heads=heads)
    layer, x = layer.float(), x.float()
    is_token = torch.arange(length) < torch.randint(1, length + 1, (130, 1))
    solver = SolverConfig(rtol=0.02, max_steps=6)
    full = layer.solve(x, solver=solver, is_token=is_token)
    once = layer.apply_once(x, x, is_token)
    for rows in (torch.arange(17), torch.tensor([3]), torch.tensor([5, 100])):
        part = layer.solve(x[rows], solver=solver, is_token=is_token[rows])
        for name in ("value", "residual", "token_steps", "status", "saved"):
            assert torch.equal(getattr(part, name), getattr(full, name)[rows])
        own = layer.apply_once(x[rows], x[rows], is_token[rows])
        assert torch.equal(own, once[rows])


@torch.no_grad()
def test_a_sample_that_breaks_keeps_its_last_finite_iterate() -> None:
    layer, x = layer_and_input()
    good = layer.solve(x, solver=TIGHT)
    z0 = x.clone()
    x = x.clone()
    x[2, 4, 0] = torch.inf
    result = layer.solve(x, z0, TIGHT)
    assert result.status.tolist() == [0, 0, SolverStatus.NONFINITE, 0, 0]
    assert bool(result.residual[2].isnan()) and int(result.num_steps[2]) == 1
    assert torch.equal(result.value[2], z0[2]) and not result.settled[2].any()
    torch.testing.assert_close(result.value[3:], good.value[3:])


@torch.no_grad()
def test_a_residual_curve_is_that_of_the_solve() -> None:
    layer, x = layer_and_input(1)
    solver = SolverConfig(rtol=0.02, max_steps=50)
    curve, result = layer.residual_curve(x, solver), layer.solve(x, solver=solver)
    assert len(curve) == int(result.num_steps)
    assert curve[-1] == pytest.approx(float(result.residual)) and curve[-1] < 0.02


def test_nothing_but_padding_has_no_curve() -> None:
    layer, x = layer_and_input(1)
    no_token = torch.zeros(1, 9, dtype=torch.bool)
    assert layer.residual_curve(x, TIGHT, is_token=no_token) == []


# --- bounds ---------------------------------------------------------------------------


@torch.no_grad()
def test_the_normalisation_is_one_lipschitz_into_a_ball() -> None:
    torch.manual_seed(0)
    a = torch.randn(500, 8, dtype=torch.double) * torch.logspace(-2, 2, 500)[:, None]
    b = a + torch.randn_like(a) * 0.1
    moved = (normalise(a) - normalise(b)).norm(dim=1)
    assert bool((moved <= (a - b).norm(dim=1)).all())
    assert float(normalise(1e6 * a).norm(dim=1).max()) <= 8**0.5 * (1 + 1e-12)


@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_the_bound_by_hand(heads: int) -> None:
    layer, _ = layer_and_input(width=4, heads=heads, hidden=4)
    eye = torch.eye(4, dtype=torch.double)
    layer.qkv.copy_(torch.cat([0.5 * eye, 0.25 * eye, 3 * eye]))
    for weight, size in ((layer.out, 2.0), (layer.expand, 0.5), (layer.reduce, 0.2)):
        weight.copy_(size * eye)
    scores = 2 * 4 / (4 / heads) ** 0.5 * 0.5 * 0.25
    expected = 2.0 * 3 * heads**0.5 * (1 + scores) * (1 + 0.5 * 0.2)
    # Gram iteration is above a norm of equal singular values by rank^(1/2^7) each.
    assert expected <= float(layer.modulus_bound()) <= expected * 4 ** (6 / 2**7) * 1.01


@torch.no_grad()
def test_a_certified_layer_contracts_whatever_its_weights() -> None:
    layer, x = layer_and_input(40, kappa=0.9)
    for size in (1.0, 10.0):
        for weight in layer.parameters():
            weight.mul_(size)
        z, gap = torch.randn_like(x), 1e-3 * torch.randn_like(x)
        far = layer.apply_once(z, x) - layer.apply_once(z + gap, x)
        ratio = far.norm(dim=2).amax(1) / gap.norm(dim=2).amax(1)
        assert float(ratio.max()) <= 0.9
        result = layer.solve(x, solver=SolverConfig(rtol=1e-10, max_steps=300))
        assert (result.status == SolverStatus.CONVERGED).all()


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_what_is_used_is_scaled_to_the_certificate_and_no_further(frozen: bool) -> None:
    layer, _ = layer_and_input(kappa=0.9)
    layer.out.mul_(20)
    if frozen:
        layer.freeze()
    scaled, _ = layer_and_input()
    scaled.out.copy_(layer.output_weight())
    assert 0.99 * 0.9 < float(scaled.modulus_bound()) <= 0.9 * (1 + 1e-12)


def test_autocast_does_not_widen_the_certificate() -> None:
    layer, _ = layer_and_input(kappa=0.9)
    layer = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.output_weight()
    assert torch.equal(weight, layer.output_weight())


@pytest.mark.parametrize("rule", GradientRule)
def test_autocast_solves_and_trains(rule: GradientRule) -> None:
    layer, x = layer_and_input()
    layer, x = layer.float(), x.float().requires_grad_()
    solver = SolverConfig(rtol=1e-2, max_steps=30, rule=rule)
    with torch.autocast("cpu", torch.bfloat16):
        value = layer.solve(x, solver=solver).value
    torch.testing.assert_close(
        value.float(), layer.solve(x, solver=solver).value, rtol=0.1, atol=0.1
    )
    value.float().square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.solve(x, solver=solver)


@torch.no_grad()
def test_the_bound_holds_for_a_head_that_switches() -> None:
    """Two keys with opposite values, and a query between them: the steepest place."""
    layer, _ = layer_and_input(width=4, heads=1, hidden=4)
    layer.reduce.zero_()
    eye = torch.eye(4, dtype=torch.double)
    layer.qkv.copy_(torch.cat([5 * eye, 5 * eye, eye]))
    layer.out.copy_(eye)
    z = torch.zeros(1, 3, 4, dtype=torch.double)
    z[0, 1, 0], z[0, 2, 0] = 3, -3
    jacobian = torch.func.jacrev(lambda z: layer.apply_once(z, z.detach()))(z)
    steepest = float(jacobian[0, 0, :, 0, 0].norm())
    assert 5 < steepest < float(layer.modulus_bound())


# --- gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [None, 0.9])
def test_the_implicit_gradient_is_the_unrolled_one(kappa: float | None) -> None:
    layer, x = layer_and_input(kappa=kappa)
    weight, is_token = torch.randn_like(x), torch.arange(9).expand(5, 9) < 7
    found = []
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        solver = SolverConfig(rtol=1e-13, max_steps=300, adjoint_rtol=1e-12, rule=rule)
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        value = layer.solve(inputs[0], solver=solver, is_token=is_token).value
        grads = torch.autograd.grad((value * weight).sum(), inputs)
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert float(torch.cosine_similarity(*found, dim=0)) >= 0.999
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-9)


def test_an_unrolled_solve_has_the_gradient_of_its_formula() -> None:
    layer, x = layer_and_input(2, 3, 6)
    solver = SolverConfig(rtol=1e-12, max_steps=3, rule=GradientRule.UNROLL)
    solved = torch.autograd.gradcheck(
        lambda x: layer.solve(x, solver=solver).value, x.requires_grad_()
    )
    assert solved


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "width, heads and hidden"),
        ({"hidden": 0}, "width, heads and hidden"),
        ({"kappa": 1.0}, "kappa must lie"),
        ({"kappa": 0.0}, "kappa must lie"),
        ({"length": 0}, "length must be 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttentionFixedPointLayer(12, **{"heads": 3, "hidden": 8} | wrong)


def test_biases_are_of_their_own_length() -> None:
    _, x = layer_and_input(length=9)
    biased = AttentionFixedPointLayer(12, heads=3, hidden=8, length=7).double()
    for use in (biased.solve, lambda x: biased.apply_once(x, x)):
        with pytest.raises(ConfigError, match=r"7 positions, .* make it with length=9"):
            use(x)


def test_another_method_is_refused() -> None:
    layer, x = layer_and_input()
    with pytest.raises(ConfigError, match="iterated plainly"):
        layer.solve(x, solver=SolverConfig(method=SolverMethod.ANDERSON))
