"""Products of few rows: the library's bits, or the library itself."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dynalay_gym.models import few_rows, rowwise
from dynalay_gym.models.few_rows import Geometry
from dynalay_gym.models.frozen import Kernel, Vectors, as_rowwise
from dynalay_gym.models.implicit import SolverConfig
from dynalay_gym.models.layers import ConvFixedPointLayer
from dynalay_gym.models.progress import SolverStatus

# Channels in and out, kernel, side, stride: of the presets' and of odd networks.
CONVOLUTIONS = [
    (48, 48, 3, 8, 1),
    (96, 96, 3, 4, 1),
    (3, 16, 3, 32, 2),
    (48, 16, 1, 8, 1),
    (8, 8, 3, 4, 1),
    (1, 3, 3, 8, 1),  # of one channel: the library adds in another order
    (1, 2, 1, 5, 1),
    (5, 7, 3, 9, 2),
]
SIZES = [(355, 64), (160, 10), (22, 3), (1, 2), (900, 5)]  # K and N of vectors


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    numbers = torch.randn(*shape, generator=generator)
    if len(shape) < 4:
        return numbers
    return torch.empty_like(numbers, memory_format=torch.channels_last).copy_(numbers)


def note_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the rows of every product."""
    taken: list[int] = []
    multiply = few_rows.products

    def noted(rows, matrix, geometry):
        taken.append(len(rows))
        return multiply(rows, matrix, geometry)

    monkeypatch.setattr(few_rows, "products", noted)
    return taken


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("c_in", "c_out", "side", "size", "stride"), CONVOLUTIONS)
def test_a_kernel_has_the_librarys_bits_for_any_number_of_rows(
    c_in: int, c_out: int, side: int, size: int, stride: int, has_bias: bool
) -> None:
    weight, bias = draw(c_out, c_in, side, side), draw(c_out) if has_bias else None
    maps, options = draw(70, c_in, size, size), {"stride": stride, "padding": side // 2}
    kernel = Kernel(weight, bias, **options)
    expected = rowwise.conv2d(maps, weight, bias, **options)
    for n in (1, 2, 3, 5, 8, 40, 41, 70):
        found = kernel(maps[:n])
        assert torch.equal(found, expected[:n]), n
        assert found.is_contiguous(memory_format=torch.channels_last)
    turned = kernel(maps[[3, 2, 1]].contiguous())  # in another memory format
    assert torch.equal(turned, expected[[3, 2, 1]])


@pytest.mark.parametrize(("depth", "width"), SIZES)
def test_vectors_have_the_librarys_bits_for_any_number_of_rows(
    depth: int, width: int
) -> None:
    weight, x = draw(width, depth), draw(200, depth)
    vectors, expected = Vectors(weight), rowwise.linear(x, weight)
    for n in (1, 2, 7, 8, 9, 50, 100, 200):
        assert torch.equal(vectors(x[:n]), expected[:n]), n


def test_threads_change_no_bit() -> None:
    weight, maps = draw(48, 48, 3, 3), draw(2, 48, 8, 8)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(rowwise.conv2d(maps, weight, padding=1))
    torch.set_num_threads(before)
    for expected in found:
        assert torch.equal(Kernel(weight, padding=1)(maps), expected)


def test_few_rows_are_products_and_many_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    geometry = Geometry(48, 48, 3, 1, 1, 8, 8)
    assert few_rows.convolution_agrees(geometry), "this library adds in another order"
    taken = note_products(monkeypatch)
    kernel = Kernel(draw(48, 48, 3, 3), padding=1)
    kernel(draw(geometry.max_rows, 48, 8, 8))
    assert taken == [64 * geometry.max_rows]
    kernel(draw(geometry.max_rows + 1, 48, 8, 8))
    assert len(taken) == 1


def test_a_trial_does_not_depend_on_the_settings_of_the_moment() -> None:
    geometry = Geometry(5, 16, 3, 1, 1, 7, 7)
    few_rows.convolution_agrees.cache_clear()
    kernel, maps = Kernel(draw(16, 5, 3, 3), padding=1), draw(2, 5, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        kernel(maps)
    assert few_rows.convolution_agrees.cache_info().currsize == 0
    with torch.device("meta"):
        assert few_rows.convolution_agrees(geometry)
    assert torch.equal(kernel(maps), rowwise.conv2d(maps, kernel.weight, padding=1))


def test_a_linear_layer_takes_other_weights() -> None:
    net = as_rowwise(torch.nn.Sequential(torch.nn.Linear(30, 20)))
    x = draw(300, 30)
    net(x[:2])
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})
    assert torch.equal(net(x[:2]), net(x)[:2])


@pytest.mark.parametrize("kind", ["kernel", "vectors"])
def test_products_of_other_bits_are_not_used(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for trial in ("convolution_agrees", "product_agrees"):
        monkeypatch.setattr(few_rows, trial, lambda geometry: False)
    monkeypatch.setattr(few_rows, "products", None)
    if kind == "kernel":
        weight, x = draw(8, 8, 3, 3), draw(2, 8, 4, 4)
        found, expected = Kernel(weight)(x), rowwise.conv2d(x, weight)
    else:
        weight, x = draw(8, 8), draw(2, 8)
        found, expected = Vectors(weight)(x), rowwise.linear(x, weight)
    assert torch.equal(found, expected)


def test_a_wrong_order_of_adding_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(rows, matrix, geometry):
        return multiply(rows[:, ::-1].copy(), matrix[::-1].copy(), geometry)

    multiply = few_rows.products
    convolution, vectors = Geometry(16, 24, 3, 1, 1, 6, 6), Geometry(30, 20)
    for order in (multiply, backwards):
        monkeypatch.setattr(few_rows, "products", order)
        is_right = order is multiply
        assert few_rows.convolution_agrees.__wrapped__(convolution) == is_right
        assert few_rows.product_agrees.__wrapped__(vectors) == is_right


def test_only_single_precision_without_gradients_is_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel, maps = Kernel(draw(8, 8, 3, 3), padding=1), draw(2, 8, 4, 4)
    expected = kernel(maps)
    monkeypatch.setattr(few_rows, "products", None)
    with torch.enable_grad():
        torch.testing.assert_close(kernel(maps), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(maps).dtype == torch.bfloat16


def test_a_copy_has_the_same_bits() -> None:
    kernel, maps = Kernel(draw(8, 8, 3, 3), draw(8), padding=1), draw(2, 8, 4, 4)
    expected = kernel(maps)
    assert torch.equal(copy.deepcopy(kernel)(maps), expected)


def test_the_block_of_a_product_never_mixes_rows() -> None:
    for c_in, c_out, side, size, stride in CONVOLUTIONS:
        geometry = Geometry(c_in, c_out, side, stride, side // 2, size, size)
        pixels = geometry.size[0] * geometry.size[1]
        assert pixels % geometry.block == 0


def frozen_layer(kind: type[ConvFixedPointLayer] = ConvFixedPointLayer) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(8, 6, 6, kappa=0.95).eval().freeze()


@pytest.mark.parametrize(("rtol", "max_steps"), [(1e-3, 50), (1e-3, 4), (0.3, 50)])
def test_a_solve_of_few_rows_is_that_of_many(
    rtol: float, max_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, solver = frozen_layer(), SolverConfig(rtol=rtol, max_steps=max_steps)
    x = draw(7, 8, 6, 6) * torch.logspace(-2, 2, 7).view(-1, 1, 1, 1)
    few = layer.solve(x, solver=solver)
    alone = [layer.solve(x[i : i + 1], solver=solver) for i in range(7)]
    again = layer.check(x, few.value, solver)
    monkeypatch.setattr(ConvFixedPointLayer, "_iterate_few", lambda *_: None)
    many, checked = layer.solve(x, solver=solver), layer.check(x, few.value, solver)
    for found, expected in ((few, many), (again, checked)):
        for name, value in vars(expected).items():
            assert torch.equal(getattr(found, name), value), name
    assert len(few.num_steps.unique()) > 1 or max_steps == 4, "rows leave one by one"
    for i, one in enumerate(alone):
        assert torch.equal(one.value[0], few.value[i])
        assert int(one.num_steps) == int(few.num_steps[i])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_states_out_of_range_are_solved_with_care(scale: float) -> None:
    layer, solver = frozen_layer(), SolverConfig(rtol=1e-3, max_steps=50)
    x = draw(2, 8, 6, 6)
    x[1] *= scale
    found, alone = layer.solve(x, solver=solver), layer.solve(x[:1], solver=solver)
    overflows = scale > 1e20  # its squares do
    ends = SolverStatus.NONFINITE if overflows else SolverStatus.CONVERGED
    assert found.status.tolist() == [SolverStatus.CONVERGED, ends]
    assert torch.equal(found.value[:1], alone.value)
    assert found.value.isfinite().all()


def test_a_map_of_ones_own_is_iterated() -> None:
    class Halved(ConvFixedPointLayer):
        def recur(self, z: Tensor, weight: Tensor) -> Tensor:
            return super().recur(z, weight) / 2

    x, solver = draw(2, 8, 6, 6), SolverConfig(rtol=1e-6, max_steps=100)
    layer = frozen_layer(Halved)
    z = layer.solve(x, solver=solver).value
    torch.testing.assert_close(z, torch.relu(x + layer.recur(z, layer.weight())))


def test_no_steps_return_the_start() -> None:
    x = draw(2, 8, 6, 6)
    result = frozen_layer().solve(x, solver=SolverConfig(max_steps=0))
    assert torch.equal(result.value, torch.relu(x))
    assert result.num_steps.tolist() == [0, 0]
