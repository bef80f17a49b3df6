"""Arithmetic in vector registers, whose roundings are fixed by what is written here.

The products of a sum are added one after the other by fused multiply-adds, so a sum's
bits do not depend on what is computed beside it.
"""

from functools import reduce
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

_INTEGER = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
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
    x_places: Any,
    w: Any,
    w_places: Any,
    out: Any,
    out_places: Any,
    width: Any,
    on_top: Any,
    norm: Any,
) -> Any:
    """Compute n pixels of one panel of columns, in registers.

    For pixel p and column c < `width`, with sums over r < rows and i < run:
    ``out[at + p * step + c] = sum of
    x[at + p * step + r * row + i] * w[at + (r * run + i) * step + c]``,
    added to what `out` holds if `on_top`; then, unless `norm` is negative, times
    ``w[norm + c]`` plus ``w[norm + out's step + c]``. Places are (at, step); those of x
    are (at, step, row, rows, run).
    """
    integer, pair = types.int64, types.UniTuple(types.int64, 2)
    five, flag = types.UniTuple(types.int64, 5), types.boolean
    signature = types.void(integer, x, five, w, pair, out, pair, integer, flag, integer)
    return signature, _generate_multiply


def _generate_multiply(context: Any, to: Any, signature: Any, args: Any) -> Any:
    n, x, x_places, w, w_places, out, out_places, width, on_top, norm = args
    x, w, out = _data(context, to, [signature.args[i] for i in (1, 3, 5)], [x, w, out])
    x_at, x_step, *x_rows = cgutils.unpack_tuple(to, x_places)
    (w_at, w_step), (out_at, out_step) = (
        cgutils.unpack_tuple(to, places) for places in (w_places, out_places)
    )
    x, out, scale = to.gep(x, [x_at]), to.gep(out, [out_at]), to.gep(w, [norm])
    norms = to.icmp_signed(">=", norm, _INTEGER(0)), scale, to.gep(scale, [out_step])
    common = *x_rows, to.gep(w, [w_at]), w_step, on_top, *norms
    done = cgutils.alloca_once_value(to, _INTEGER(0))
    for vectors in (2, 1):
        with to.if_then(to.icmp_signed("==", width, _INTEGER(vectors * LANES))):
            for pixels in (8, 4, 2, 1):
                left = to.sub(n, to.load(done))
                with cgutils.for_range(to, to.sdiv(left, _INTEGER(pixels))):
                    first = to.load(done)
                    block = [to.add(first, _INTEGER(p)) for p in range(pixels)]
                    xs = [to.gep(x, [to.mul(x_step, p)]) for p in block]
                    outs = [to.gep(out, [to.mul(out_step, p)]) for p in block]
                    _generate_block(to, xs, outs, vectors, common)
                    to.store(to.add(first, _INTEGER(pixels)), done)
    return context.get_dummy_value()


def _generate_block(to: Any, xs: Any, outs: Any, vectors: int, common: Any) -> None:
    """Generate what computes the pixels at xs into those at outs."""
    x_row, rows, run, weights, w_step, on_top, has_norm, scale, shift = common
    cells = [(p, v) for p in range(len(xs)) for v in range(vectors)]
    sums = {cell: cgutils.alloca_once_value(to, _ZERO) for cell in cells}
    with to.if_then(on_top):
        for p, v in cells:
            to.store(_load(to, outs[p], v), sums[p, v])
    next_weights = cgutils.alloca_once_value(to, weights)
    with cgutils.for_range(to, rows) as outer:
        row = [to.gep(x, [to.mul(outer.index, x_row)]) for x in xs]
        with cgutils.for_range(to, run) as inner:
            weights = to.load(next_weights)
            columns = [_load(to, weights, v) for v in range(vectors)]
            for p, x in enumerate(row):
                value = _spread(to, to.load(to.gep(x, [inner.index])))
                for v in range(vectors):
                    _add_product(to, value, columns[v], sums[p, v])
            to.store(to.gep(weights, [w_step]), next_weights)
    with to.if_then(has_norm):
        for p, v in cells:
            scaled = to.fmul(to.load(sums[p, v]), _load(to, scale, v))
            to.store(to.fadd(scaled, _load(to, shift, v)), sums[p, v])
    for p, v in cells:
        _store(to, to.load(sums[p, v]), outs[p], v)


@intrinsic
def relax(context: Any, n: Any, new: Any, x: Any, old: Any) -> Any:
    """``new <- relu(new + x)``, n numbers, whole vectors; NaN stays.

    Returns the squared norms of new and of its difference from old.
    """
    pair = types.UniTuple(types.float32, 2)
    return pair(types.int64, new, x, old), _generate_relax


def _generate_relax(context: Any, to: Any, signature: Any, args: Any) -> Any:
    n, *arrays = args
    new, x, old = _data(context, to, signature.args[1:], arrays)
    norm, change = (cgutils.alloca_once_value(to, _ZERO) for _ in range(2))
    with cgutils.for_range(to, to.sdiv(n, _INTEGER(LANES))) as loop:
        value = to.fadd(_load(to, new, loop.index), _load(to, x, loop.index))
        is_negative = to.fcmp_ordered("<", value, _ZERO)
        value = to.select(is_negative, _ZERO, value)
        step = to.fsub(value, _load(to, old, loop.index))
        _store(to, value, new, loop.index)
        _add_product(to, value, value, norm)
        _add_product(to, step, step, change)
    sums = [_sum_lanes(to, to.load(total)) for total in (norm, change)]
    return context.make_tuple(to, signature.return_type, sums)


def _data(context: Any, to: Any, kinds: Any, arrays: Any) -> list[Any]:
    """Return pointers to what arrays hold."""
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


def _add_product(to: Any, x: Any, y: Any, total: Any) -> None:
    """Add ``x * y`` to a vector in memory, rounding once."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    name = f"llvm.fma.v{LANES}f32"
    fma = cgutils.get_or_insert_function(to.module, kind, name)
    to.store(to.call(fma, [x, y, to.load(total)]), total)


def _spread(to: Any, number: Any) -> Any:
    vector = ir.Constant(_VECTOR, ir.Undefined)
    for lane in range(LANES):
        vector = to.insert_element(vector, number, ir.IntType(32)(lane))
    return vector


def _sum_lanes(to: Any, vector: Any) -> Any:
    lanes = [to.extract_element(vector, ir.IntType(32)(i)) for i in range(LANES)]
    return reduce(to.fadd, lanes)
