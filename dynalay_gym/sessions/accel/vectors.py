"""Arithmetic in vector registers, whose roundings are fixed by what is written here.

The products of a sum are added one after the other by fused multiply-adds, so a sum's
bits do not depend on what is computed beside it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Numbers = NDArray[np.float32]
Integers = NDArray[np.int64]

LANES = 16  # numbers of a vector; it is split where registers are shorter
PANEL = 2 * LANES

_NUMBER, _INTEGER = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_NUMBER, LANES)
_ZERO = ir.Constant(_VECTOR, None)


def pack_matrix(matrix: Numbers) -> Numbers:
    """Pack a matrix [K, N] for `multiply`, flat.

    Columns are filled up with zeros to whole vectors, and stand in panels of `PANEL`
    columns (the last one may have `LANES`), each [K, width].
    """
    matrix = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % LANES)))
    starts = range(0, matrix.shape[1], PANEL)
    return np.concatenate([matrix[:, i : i + PANEL].ravel() for i in starts])


@intrinsic
def multiply(
    context: Any,
    n: Any,
    x: Any,
    x_at: Any,
    x_step: Any,
    x_row: Any,
    rows: Any,
    run: Any,
    w: Any,
    w_at: Any,
    w_step: Any,
    out: Any,
    out_at: Any,
    out_step: Any,
    width: Any,
    on_top: Any,
    norm: Any,
) -> Any:
    """Compute n pixels of one panel of columns, in registers.

    For pixel p and column c < `width`, with sums over r < `rows` and i < `run`:
    ``out[out_at + p * out_step + c] = sum of
    x[x_at + p * x_step + r * x_row + i] * w[w_at + (r * run + i) * w_step + c]``,
    added to what `out` holds if `on_top`; then, unless `norm` is negative, times
    ``w[norm + c]`` plus ``w[norm + out_step + c]``.
    """
    integer = types.int64
    signature = types.void(
        integer, x, *[integer] * 5, w, *[integer] * 2, out, *[integer] * 3,
        types.boolean, integer,
    )
    return signature, _generate_multiply


def _generate_multiply(context: Any, to: Any, signature: Any, args: Any) -> Any:
    n, x, x_at, x_step, x_row, rows, run, *rest = args
    w, w_at, w_step, out, out_at, out_step, width, on_top, norm = rest
    x, w, out = _data(context, to, (signature.args[i] for i in (1, 7, 10)), x, w, out)
    done = cgutils.alloca_once_value(to, _INTEGER(0))
    for vectors in (2, 1):
        with to.if_then(to.icmp_signed("==", width, _INTEGER(vectors * LANES))):
            for pixels in (8, 4, 2, 1):
                left = to.sub(n, to.load(done))
                with cgutils.for_range(to, to.sdiv(left, _INTEGER(pixels))):
                    block = [
                        to.add(to.load(done), _INTEGER(p)) for p in range(pixels)
                    ]
                    _generate_block(
                        to,
                        [to.gep(x, [to.add(x_at, to.mul(x_step, p))]) for p in block],
                        (x_row, rows, run),
                        w,
                        (w_at, w_step, norm),
                        [
                            to.gep(out, [to.add(out_at, to.mul(out_step, p))])
                            for p in block
                        ],
                        out_step,
                        vectors,
                        on_top,
                    )
                    to.store(to.add(block[0], _INTEGER(pixels)), done)
    return context.get_dummy_value()


def _generate_block(
    to: Any,
    x: Any,
    x_shape: Any,
    w: Any,
    w_shape: Any,
    out: Any,
    out_step: Any,
    vectors: int,
    on_top: Any,
) -> None:
    """Generate what computes the pixels at x into those at out."""
    (x_row, rows, run), (w_at, w_step, norm) = x_shape, w_shape
    cells = [(p, v) for p in range(len(x)) for v in range(vectors)]
    sums = {cell: cgutils.alloca_once_value(to, _ZERO) for cell in cells}
    with to.if_then(on_top):
        for p, v in cells:
            to.store(_load(to, out[p], v), sums[p, v])
    weights = cgutils.alloca_once_value(to, to.gep(w, [w_at]))
    with cgutils.for_range(to, rows) as outer:
        row = [to.gep(pixel, [to.mul(outer.index, x_row)]) for pixel in x]
        with cgutils.for_range(to, run) as inner:
            here = to.load(weights)
            columns = [_load(to, here, v) for v in range(vectors)]
            for p, pixel in enumerate(row):
                value = _spread(to, to.load(to.gep(pixel, [inner.index])))
                for v in range(vectors):
                    total = _fma(to, value, columns[v], to.load(sums[p, v]))
                    to.store(total, sums[p, v])
            to.store(to.gep(here, [w_step]), weights)
    with to.if_then(to.icmp_signed(">=", norm, _INTEGER(0))):
        scale = to.gep(w, [norm])
        shift = to.gep(scale, [out_step])
        for p, v in cells:
            scaled = to.fmul(to.load(sums[p, v]), _load(to, scale, v))
            to.store(to.fadd(scaled, _load(to, shift, v)), sums[p, v])
    for p, v in cells:
        _store(to, to.load(sums[p, v]), out[p], v)


@intrinsic
def relax(context: Any, n: Any, new: Any, x: Any, old: Any) -> Any:
    """``new <- relu(new + x)``; NaN stays.

    Args:
        context: Given by Numba.
        n: Numbers of each array, whole vectors.
        new: Changed in place.
        x: Added to it.
        old: Compared with it.

    Returns:
        Squared norms of new, and of its difference from old.
    """
    pair = types.UniTuple(types.float32, 2)
    return pair(types.int64, new, x, old), _generate_relax


def _generate_relax(context: Any, to: Any, signature: Any, args: Any) -> Any:
    n, *arrays = args
    new, x, old = _data(context, to, signature.args[1:], *arrays)
    totals = [cgutils.alloca_once_value(to, _ZERO) for _ in range(2)]
    with cgutils.for_range(to, to.sdiv(n, _INTEGER(LANES))) as loop:
        value = to.fadd(_load(to, new, loop.index), _load(to, x, loop.index))
        is_negative = to.fcmp_ordered("<", value, _ZERO)
        value = to.select(is_negative, _ZERO, value)
        _store(to, value, new, loop.index)
        change = to.fsub(value, _load(to, old, loop.index))
        for total, each in zip(totals, (value, change), strict=True):
            to.store(_fma(to, each, each, to.load(total)), total)
    sums = [_sum_lanes(to, to.load(total)) for total in totals]
    return context.make_tuple(to, signature.return_type, sums)


def _data(context: Any, to: Any, kinds: Any, *arrays: Any) -> list[Any]:
    pairs = zip(kinds, arrays, strict=True)
    return [context.make_array(kind)(context, to, array).data for kind, array in pairs]


def _vector_at(to: Any, pointer: Any, index: Any) -> Any:
    index = _INTEGER(index) if isinstance(index, int) else index
    first = to.gep(pointer, [to.mul(index, _INTEGER(LANES))])
    return to.bitcast(first, _VECTOR.as_pointer())


def _load(to: Any, pointer: Any, index: Any) -> Any:
    return to.load(_vector_at(to, pointer, index), align=4)


def _store(to: Any, vector: Any, pointer: Any, index: Any) -> None:
    to.store(vector, _vector_at(to, pointer, index), align=4)


def _fma(to: Any, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    name = f"llvm.fma.v{LANES}f32"
    return to.call(cgutils.get_or_insert_function(to.module, kind, name), [x, y, z])


def _shuffle(to: Any, vector: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)
    return to.shuffle_vector(vector, ir.Constant(_VECTOR, ir.Undefined), mask)


def _spread(to: Any, number: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = to.insert_element(undefined, number, ir.IntType(32)(0))
    return _shuffle(to, first, [0] * LANES)


def _sum_lanes(to: Any, vector: Any) -> Any:
    half = LANES // 2
    while half > 0:
        lanes = [(lane + half) % LANES for lane in range(LANES)]
        vector = to.fadd(vector, _shuffle(to, vector, lanes))
        half //= 2
    return to.extract_element(vector, ir.IntType(32)(0))
