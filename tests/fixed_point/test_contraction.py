"""Certified bounds against the explicit matrices of the operators."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.contraction import (
    contract,
    conv_symbol,
    depthwise_bound,
    gram_bound,
)
from dynalay_gym.fixed_point.layers import (
    ConvFixedPointLayer,
    DenseFixedPointLayer,
    FixedPointLayer,
)
from dynalay_gym.fixed_point.solve import SolverConfig

SIZES = [(1, 1), (1, 3), (2, 2), (4, 4), (5, 3), (8, 8)]


def conv_matrix(kernel: Tensor, height: int, width: int) -> Tensor:
    """Matrix [C_out H W, C_in H W] of the zero-padded convolution, float64."""
    size = kernel.shape[1] * height * width
    basis = torch.eye(size, dtype=torch.float64)
    basis = basis.view(size, kernel.shape[1], height, width)
    padding = kernel.shape[-1] // 2
    return F.conv2d(basis, kernel.double(), padding=padding).flatten(1).T


def torus_norm(kernel: Tensor, height: int, width: int) -> float:
    """Norm of the circular convolution that certifies the zero-padded one."""
    symbol = conv_symbol(kernel.double(), height, width)
    return float(torch.linalg.matrix_norm(symbol, 2).max())


def true_norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.double(), 2))


def random_kernel(channels: int, side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, channels, side, side, generator=generator)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side", [1, 3, 5])
def test_bound_of_a_convolution_is_one_and_is_tight(
    height: int, width: int, side: int
) -> None:
    for seed in range(12):
        channels = 1 + seed % 4
        kernel = random_kernel(channels, side, seed)
        if seed % 3 == 0:  # all of one sign: the norm sits at frequency zero
            kernel = kernel.abs()
        bound = float(gram_bound(conv_symbol(kernel, height, width)))
        assert bound >= true_norm(conv_matrix(kernel, height, width))
        torus = torus_norm(kernel, height, width)
        excess = channels ** (1 / 2**7) * (1 + 2e-4)
        assert torus <= bound <= torus * excess


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_channel_of_a_depthwise_convolution_has_its_bound(
    height: int, width: int
) -> None:
    kernel = random_kernel(4, 3, 0)[:, :1] * torch.tensor([0.1, 1, 1, 9]).view(
        4, 1, 1, 1
    )
    bounds = depthwise_bound(kernel, height, width)
    assert bounds.shape == (4, 1, 1, 1)
    for one, bound in zip(kernel[:, None], bounds.flatten(), strict=True):
        assert bound >= true_norm(conv_matrix(one, height, width))
        assert float(bound) == pytest.approx(torus_norm(one, height, width), rel=2e-4)
    kept = contract(kernel, bounds, 0.9)
    assert torch.equal(kept[bounds.flatten() < 0.9], kernel[bounds.flatten() < 0.9])


def test_a_depthwise_layer_starts_at_zero_and_knows_no_other_channels() -> None:
    solver = SolverConfig(rtol=1e-12, max_steps=500)
    layer = ConvFixedPointLayer(5, 6, 6, solver=solver, depthwise=True).double()
    x = torch.randn(3, 5, 6, 6, dtype=torch.float64)
    assert torch.equal(layer(x), torch.relu(x))
    assert layer.macs_per_iteration == 5 * 9 * 36
    with torch.no_grad():
        layer.free_weight.normal_()
        z, other = layer(x), x.clone()
        other[:, 2] = 7.0
        changed = (layer(other) - z).abs().amax((0, 2, 3))
    assert changed[2] > 1
    changed[2] = 0
    assert changed.max() < 1e-9  # when a row stops depends on all of them


def test_bound_closes_on_the_true_norm_as_the_map_grows() -> None:
    kernel = random_kernel(2, 3, 5)
    ratios = [
        float(gram_bound(conv_symbol(kernel, side, side)))
        / true_norm(conv_matrix(kernel, side, side))
        for side in (2, 4, 8, 12)
    ]
    assert all(ratio >= 1 for ratio in ratios)
    assert ratios[-1] < 1.06 and ratios[-1] < ratios[0]


def test_the_norm_of_the_kernel_matrix_is_no_bound() -> None:
    kernel = random_kernel(4, 3, 0)
    kernel = kernel / torch.linalg.matrix_norm(kernel.flatten(1), 2)
    assert true_norm(kernel.flatten(1)) == pytest.approx(1.0)
    assert true_norm(conv_matrix(kernel, 8, 8)) > 1.2


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (7, 2), (2, 7), (40, 40)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_bound_of_a_matrix(shape: tuple[int, int], scale: float) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        matrix = scale * torch.randn(*shape, generator=generator)
        norm = true_norm(matrix)
        excess = min(shape) ** (1 / 2**7) * (1 + 2e-4)
        assert norm <= float(gram_bound(matrix[None])) <= norm * excess


def test_bound_takes_the_largest_of_a_stack() -> None:
    stack = torch.stack([torch.eye(3), 5 * torch.eye(3), torch.zeros(3, 3)])
    assert float(gram_bound(stack)) == pytest.approx(5.0, rel=0.01)


def test_bound_of_nothing_is_nothing_and_divides_no_zero() -> None:
    zero = torch.zeros(3, 3, 3, 3, requires_grad=True)
    bound = gram_bound(conv_symbol(zero, 4, 4))
    assert 0 <= bound.item() < 1e-15
    contract(zero, bound, 0.9).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_bound_is_differentiable() -> None:
    kernel = random_kernel(2, 3, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda k: gram_bound(conv_symbol(k, 4, 3)), kernel)


def test_weights_below_kappa_are_left_alone() -> None:
    weight = 0.1 * torch.eye(3)
    assert torch.equal(contract(weight, gram_bound(weight[None]), 0.9), weight)


def effective_norm(layer: FixedPointLayer) -> float:
    weight = layer.weight().detach()
    if isinstance(layer, ConvFixedPointLayer) and layer.depthwise:
        weight = weight * torch.eye(len(weight))[:, :, None, None]
    if isinstance(layer, ConvFixedPointLayer):
        return true_norm(conv_matrix(weight, layer.height, layer.width))
    return true_norm(weight)


@pytest.mark.parametrize("kappa", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "make",
    [
        lambda kappa: ConvFixedPointLayer(3, 4, 5, kappa=kappa),
        lambda kappa: ConvFixedPointLayer(4, 1, 1, kappa=kappa),
        lambda kappa: ConvFixedPointLayer(2, 6, 6, kernel_size=5, kappa=kappa),
        lambda kappa: ConvFixedPointLayer(3, 4, 5, kappa=kappa, depthwise=True),
        lambda kappa: DenseFixedPointLayer(9, kappa=kappa),
    ],
)
def test_layers_stay_contractions_while_they_learn(make, kappa: float) -> None:
    torch.manual_seed(3)
    layer = make(kappa)
    with torch.no_grad():
        layer.free_weight.mul_(20.0)
    optimiser = torch.optim.SGD(layer.parameters(), lr=5.0)
    size = (layer.height, layer.width) if hasattr(layer, "height") else ()
    x = torch.randn(4, len(layer.free_weight), *size)
    for _ in range(8):
        assert effective_norm(layer) <= kappa
        optimiser.zero_grad()
        (-layer(x).square().mean()).backward()
        optimiser.step()
    assert 0.5 * kappa < effective_norm(layer) <= kappa


def test_a_smaller_map_than_certified_is_a_contraction_too() -> None:
    torch.manual_seed(0)
    layer = ConvFixedPointLayer(3, 8, 8, kappa=0.9)
    for size in ((1, 1), (3, 8), (8, 2), (5, 5)):
        assert true_norm(conv_matrix(layer.weight().detach(), *size)) <= 0.9


def test_a_frozen_weight_is_the_same_and_training_forgets_it() -> None:
    torch.manual_seed(0)
    layer = ConvFixedPointLayer(3, 4, 4, kappa=0.9)
    free = layer.weight().detach()
    layer.eval().freeze()
    assert torch.equal(layer.weight(), free)
    assert layer.weight() is layer.weight()
    layer.train()
    with torch.no_grad():
        layer.free_weight.mul_(-1)
    assert torch.allclose(layer.weight(), -free)


@pytest.mark.parametrize("kappa", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_kappa_outside_its_range_is_refused(kappa: float) -> None:
    with pytest.raises(ConfigError, match="kappa"):
        DenseFixedPointLayer(3, kappa=kappa)
