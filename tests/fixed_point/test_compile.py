"""``torch.compile`` around layers and networks; its backends here need no compiler."""

from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.networks import random_images, random_model, tiny_config
from torch import Tensor, nn

from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer, DenseFixedPointLayer
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig

# PyTorch's own tracing warns of the gradients it looks for, and of `functools.cache`.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:::torch")

Call = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def value_and_gradients(call: Call, module: nn.Module, x: Tensor) -> list[Tensor]:
    """Value, gradients for x and all weights, and the value without gradients."""
    value = call(x)
    wanted = [x, *module.parameters()] if x.requires_grad else [*module.parameters()]
    parts = torch.autograd.grad(value.square().sum(), wanted, materialize_grads=True)
    with torch.no_grad():
        return [value.detach(), *parts, call(x)]


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("implicit", 3),
        pytest.param("one-step", 1, marks=pytest.mark.slow),
        pytest.param("unroll", 1, marks=pytest.mark.slow),
        pytest.param("unroll", 3, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_layer_is_the_layer(rule: str, rows: int) -> None:
    layer = ConvFixedPointLayer(4, 6, 6, solver=SolverConfig(rule=GradientRule(rule)))
    x = torch.randn(rows, 4, 6, 6, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager")
    expected = value_and_gradients(layer, layer, x)
    for mine, theirs in zip(
        value_and_gradients(compiled, layer, x), expected, strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(DenseFixedPointLayer(5), (5,)), (BellmanLayer(2, 5, 5), (4, 5, 5))],
)
def test_the_other_layers_too(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(3, *shape, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager")
    expected = value_and_gradients(layer, layer, x)
    for mine, theirs in zip(
        value_and_gradients(compiled, layer, x), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.slow  # traces every layer
@pytest.mark.parametrize("rows", [1, 5])
def test_a_compiled_network_is_the_network(rows: int) -> None:
    model, images = random_model(tiny_config()), random_images(tiny_config(), rows)
    compiled = torch.compile(model.forward_path, backend="aot_eager")
    for state in (0, 5, 7):
        found, expected = (
            value_and_gradients(lambda x, f=f, s=state: f(x, s), model, images)
            for f in (compiled, model.forward_path)
        )
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)
