# ruff: noqa: E402 - nothing is imported without Numba
"""Compiled arithmetic against the same sums in double precision, and by hand."""

import errno
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

numba = pytest.importorskip("numba")

from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.sessions.accel.compiler import compiled
from dynalay_gym.sessions.accel.iteration import (
    CONVERGED,
    MAX_STEPS,
    NONFINITE,
    iterate,
)
from dynalay_gym.sessions.accel.maps import (
    CONV,
    FROM_ZERO,
    NO_NORM,
    ON_TOP,
    average,
    convolve,
    pad,
    pad_pooled,
)
from dynalay_gym.sessions.accel.vectors import (
    LANES,
    PANEL,
    multiply,
    pack_matrix,
    relax,
)

Array = NDArray[np.float32]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@numba.njit
def call_multiply(
    n: int, x: Any, depth: int, w: Any, out: Any, place: Any, on_top: bool, norm: int
) -> None:
    first, columns, width = place
    places = (first * depth, width), (first, columns)
    multiply(
        n, x, (0, depth, 0, 1, depth), w, places[0], out, places[1], width, on_top, norm
    )


@numba.njit
def call_relax(n: int, new: Any, x: Any, old: Any) -> Any:
    return relax(n, new, x, old)


def whole_vectors(columns: int) -> int:
    return columns + -columns % LANES


def product(x: Array, matrix: Array, norm: Array | None = None, out: Any = None) -> Any:
    """``x @ matrix`` by the compiled instruction; norm: scale and shift [2, N]."""
    (rows, depth), columns = x.shape, whole_vectors(matrix.shape[1])
    w, at = pack_matrix(matrix), depth * columns
    if norm is not None:
        w = np.concatenate([w, norm.ravel()])
    on_top = out is not None
    out = out.copy() if on_top else np.full((rows, columns), np.nan, np.float32)
    for first in range(0, columns, PANEL):
        place = first, columns, min(PANEL, columns - first)
        here = NO_NORM if norm is None else at + first
        call_multiply(rows, x.ravel(), depth, w, out.ravel(), place, on_top, here)
    return out


def sum_in_order(x: Array, matrix: Array, start: Any = 0) -> Array:
    expected = np.zeros((len(x), matrix.shape[1]), dtype=np.float32) + start
    for k in range(x.shape[1]):  # a fused multiply-add rounds once
        exact = x[:, k, None].astype(np.float64) * matrix[k] + expected
        expected = exact.astype(np.float32)
    return expected


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 16, 19])
@pytest.mark.parametrize("columns", [1, 16, 20, 32, 48, 64])
def test_products_are_sums_in_order(rows: int, columns: int) -> None:
    x, matrix = draw(rows, 37), draw(37, columns, seed=1)
    found = product(x, matrix)
    assert np.array_equal(found[:, :columns], sum_in_order(x, matrix))
    assert not found[:, columns:].any()


@pytest.mark.parametrize("columns", [16, 32, 48])
def test_a_product_may_be_added_and_normalised(columns: int) -> None:
    x, matrix = draw(9, 20), draw(20, columns, seed=1)
    start, norm = draw(9, columns, seed=2), draw(2, columns, seed=3)
    total = sum_in_order(x, matrix, start)
    assert np.array_equal(product(x, matrix, out=start), total)
    expected = total * norm[0] + norm[1]
    assert np.array_equal(product(x, matrix, norm, start), expected)


def test_a_row_of_a_product_does_not_depend_on_the_others() -> None:
    x, matrix = draw(30, 100), draw(100, 40, seed=1)
    whole = product(x, matrix)
    for rows in ([3], [29, 0], [5, 6, 7], list(range(1, 30, 2))):
        assert np.array_equal(product(x[rows], matrix), whole[rows])


@pytest.mark.parametrize("size", [16, 48, 1600])
def test_a_relaxation_has_its_norms(size: int) -> None:
    new, x, old = (draw(size, seed=seed) for seed in range(3))
    expected = np.maximum(new + x, 0)
    norm, change = call_relax(size, new, x, old)
    assert np.array_equal(new, expected)
    assert norm == pytest.approx(np.sum(expected.astype(np.float64) ** 2), rel=1e-5)
    step = expected.astype(np.float64) - old
    assert change == pytest.approx(np.sum(step**2), rel=1e-5)


def test_a_relaxation_keeps_what_is_no_number() -> None:
    new, zero = np.full(16, -1, np.float32), np.zeros(16, np.float32)
    new[3] = math.nan
    norm, change = call_relax(16, new, zero, zero)
    assert math.isnan(new[3]) and not np.delete(new, 3).any()
    assert math.isnan(norm) and math.isnan(change)


# --- maps -----------------------------------------------------------------------------


def conv(channels: tuple[int, int], kernel: int, stride: int, side: int) -> Any:
    """Facts of a convolution whose weight stands alone, of maps in whole vectors."""
    values = {
        "in_channels": channels[0],
        "out_channels": channels[1],
        "in_side": side,
        "out_side": -(-side // stride),
        "kernel": kernel,
        "stride": stride,
        "padding": kernel // 2,
        "columns": whole_vectors(channels[1]),
        "source": 1,
        "source_columns": whole_vectors(channels[0]),
    }
    facts = np.zeros(1, dtype=CONV)
    for name, value in values.items():
        facts[name] = value
    return facts[0]


def pack_kernel(weight: torch.Tensor) -> Array:
    return pack_matrix(weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).numpy())


def pixels(maps: torch.Tensor, columns: int = 0) -> Array:
    """One map [1, C, H, W] flat, a pixel's channels side by side, zeros behind them."""
    last = maps[0].permute(1, 2, 0)
    filled = F.pad(last, (0, max(0, columns - last.shape[2])))
    flat: Array = filled.flatten().numpy().copy()
    return flat


def empty(*sizes: int) -> Array:
    return np.full(math.prod(sizes), np.nan, np.float32)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (3, 3), (1, 1)])
@pytest.mark.parametrize("channels", [(1, 3), (5, 16), (16, 48), (7, 32)])
def test_convolutions_are_those_of_pytorch(
    side: int, kernel: int, stride: int, channels: tuple[int, int]
) -> None:
    x = torch.from_numpy(draw(1, channels[0], side, side)).relu()
    weight = torch.from_numpy(draw(channels[1], channels[0], kernel, kernel, seed=1))
    facts = conv(channels, kernel, stride, side)
    padded = empty(side, side + 2, channels[0])
    pad(facts, pixels(x, facts["source_columns"]), padded)
    out = empty(facts["out_side"] ** 2, facts["columns"])
    convolve(facts, pack_kernel(weight), padded, out, FROM_ZERO, NO_NORM)
    expected = F.conv2d(x.double(), weight.double(), None, stride, kernel // 2)
    found = torch.from_numpy(out.reshape(*expected.shape[2:], -1)).permute(2, 0, 1)
    torch.testing.assert_close(
        found[: channels[1]].double(), expected[0], rtol=1e-5, atol=1e-5
    )
    assert not found[channels[1] :].any()
    once = out.copy()
    convolve(facts, pack_kernel(weight), padded, out, ON_TOP, NO_NORM)
    np.testing.assert_allclose(out, 2 * once, rtol=1e-4, atol=1e-5)


def test_each_pattern_has_its_own_normalisation() -> None:
    facts = conv((1, 1), 1, 1, 2)
    norms = np.zeros((2, 2, LANES), dtype=np.float32)
    norms[:, :, 0] = [[1, 0], [10, 5]]
    numbers = np.concatenate(
        [pack_kernel(torch.full((1, 1, 1, 1), 2.0)), norms.ravel()]
    )
    facts["norm"] = LANES
    x, out = np.array([1, 2, 3, 4], dtype=np.float32), empty(4, LANES)
    for pattern, expected in ((0, [2, 4, 6, 8]), (1, [25, 45, 65, 85])):
        convolve(facts, numbers, x, out, FROM_ZERO, pattern)
        assert out[::LANES].tolist() == expected


@pytest.mark.parametrize("columns", [1, 16])
def test_a_padded_map_has_zeros_beside_it(columns: int) -> None:
    x = torch.tensor([[1, -2], [math.nan, 4]]).view(1, 1, 2, 2)
    facts, padded = conv((1, 1), 3, 1, 2), empty(8)
    facts["source_columns"] = columns
    pad(facts, pixels(x, columns), padded)
    assert np.array_equal(padded, [0, 1, 0, 0, 0, math.nan, 4, 0], equal_nan=True)
    facts["source"] = 0  # an image may be negative
    pad(facts, pixels(x, columns), padded)
    assert padded[2] == -2


@pytest.mark.parametrize(("side", "ratio"), [(4, 2), (5, 2), (7, 3), (3, 1)])
def test_pooling_is_that_of_pytorch(side: int, ratio: int) -> None:
    x = torch.from_numpy(draw(1, 3, side, side))
    small = -(-side // ratio)
    facts, padded = conv((3, 1), 3, 1, small), empty(small, small + 2, 3)
    pad_pooled(facts, pixels(x, LANES), side, ratio, padded)
    expected = F.pad(F.avg_pool2d(torch.relu(x), ratio, ceil_mode=True), (1, 1))
    np.testing.assert_allclose(padded, pixels(expected), rtol=1e-6)


@pytest.mark.parametrize("channels", [3, 16, 48])
def test_averages_are_those_of_pytorch(channels: int) -> None:
    x, columns = torch.from_numpy(draw(1, channels, 5, 5)), whole_vectors(channels)
    ones, out = np.ones(25, np.float32), empty(channels)
    average(pixels(x, columns), columns, ones, empty(26, columns), out)
    np.testing.assert_allclose(out, x.relu().mean((2, 3))[0], rtol=1e-5)


# --- iteration ------------------------------------------------------------------------


def solve(x: float, weight: float, rtol: float = 1e-3, max_steps: int = 50) -> Any:
    """Iterate ``z <- relu(x + weight z)`` for one number, from ``relu(x)``."""
    facts = conv((1, 1), 1, 1, 1)
    kernel = pack_kernel(torch.full((1, 1, 1, 1), weight))
    injected = np.zeros(LANES, dtype=np.float32)
    injected[0] = x
    z, scratch = np.maximum(injected, 0), np.empty((2, LANES), dtype=np.float32)
    tolerance = np.float32(rtol)
    with np.errstate(all="ignore"):
        found = iterate(
            facts, kernel, injected, z, tolerance, max_steps, scratch[0], scratch[1]
        )
    assert not z[1:].any()
    return float(z[0]), *found


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


@pytest.mark.parametrize("scale", [1e-30, 1e-40, 1e15, 1e30])
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


# --- kept machine code ----------------------------------------------------------------


def double(x: int) -> int:
    return 2 * x


def run_double() -> Any:
    """Compile or load `double` as a new process would, and run it."""
    function: Any = compiled(double)
    assert function(21) == 42
    return function.stats


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_code_is_kept_in_a_private_folder_of_its_version(cache_folder: Path) -> None:
    assert not run_double().cache_hits
    (folder,) = cache_folder.iterdir()
    assert folder.name.startswith("kernels-")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir()] == [".nbc"]
    assert run_double().cache_hits


def test_code_is_kept_where_new_files_belong_to_a_group(cache_folder: Path) -> None:
    """As on Ubuntu and Fedora, where every user has a group of one's own."""
    before = os.umask(0o002)
    try:
        run_double()
        assert run_double().cache_hits
    finally:
        os.umask(before)


def damages(size: int) -> Iterator[Callable[[bytes], bytes]]:
    """Yield 87 ways to damage a file: flipped bytes, cuts, and other content."""
    for place in np.linspace(0, size - 1, 57).astype(int):
        yield lambda b, k=place: b[:k] + bytes([b[k] ^ 1]) + b[k + 1 :]
    for place in np.linspace(0, size - 1, 27).astype(int):
        yield lambda b, k=place: b[:k]
    yield from (lambda b: b + b"\0", lambda b: b"no pickle", lambda b: bytes(len(b)))


def test_a_damaged_file_is_compiled_again(cache_folder: Path) -> None:
    run_double()
    (path,) = cache_folder.rglob("*.nbc")
    whole = path.read_bytes()
    for damage in damages(len(whole)):
        path.write_bytes(damage(whole))
        assert not run_double().cache_hits
        assert run_double().cache_hits


def test_nothing_is_unpickled_that_others_could_have_written(
    cache_folder: Path,
) -> None:
    run_double()
    (path,) = cache_folder.rglob("*.nbc")
    path.chmod(0o620)
    assert not run_double().cache_hits  # and replaced by a file of one's own
    assert run_double().cache_hits
    path.parent.chmod(0o770)
    with pytest.warns(UserWarning, match="others can write"):
        assert not run_double().cache_hits


def test_edited_code_is_compiled_again(tmp_path: Path, cache_folder: Path) -> None:
    results = []
    for factor in (2, 3):  # a constant is no part of a function's byte code
        source = tmp_path / "edited.py"
        source.write_text(f"def scale(x):\n    return {factor} * x\n")
        namespace: dict[str, Any] = {"__name__": "edited"}
        exec(compile(source.read_text(), str(source), "exec"), namespace)
        results.append(compiled(namespace["scale"])(21))
    assert results == [42, 63]


def test_without_a_folder_to_write_to_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_double()
    beside = (Path(__file__).parent / "__pycache__").glob("*.nb?")
    assert not list(beside)


def test_a_folder_that_cannot_be_written_later_ends_no_run(
    cache_folder: Path,
) -> None:
    function: Any = compiled(double)
    (folder,) = cache_folder.iterdir()
    folder.rmdir()
    folder.touch()
    assert function(21) == 42


def test_a_full_disk_ends_no_run(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dynalay_gym.sessions.accel.compiler.write_file", write)
    assert not run_double().cache_hits
    assert not run_double().cache_hits
