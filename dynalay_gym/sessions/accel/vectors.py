"""Sums of products in vector registers: what convolutions and matrix products are.

The products of a sum are added one after the other by fused multiply-adds, so a sum's
bits do not depend on what is computed beside it.

Matrices [K, N] are packed in panels of ``PANEL`` columns (``LANES`` if N is no multiple
of it), each [K, width]; N is a multiple of ``LANES``.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from dynalay_gym.sessions.accel.compiler import compiled

Numbers = NDArray[np.float32]
Integers = NDArray[np.int64]

LANES = 16  # numbers of a vector; it is split where registers are shorter
PANEL = 2 * LANES

# Whether a sum begins at zero or at what is there; and that nothing scales it. (Plain
# constants would have code of their own compiled for them.)
FROM_ZERO: Any = np.int64(0)
ON_TOP: Any = np.int64(1)
NO_NORM: Any = np.int64(-1)


def pack_matrix(matrix: Numbers) -> Numbers:
    """Pack a matrix [K, N], made wider by zeros if need be: flat."""
    matrix = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % LANES)))
    depth, columns = matrix.shape
    width = PANEL if columns % PANEL == 0 else LANES  # as ``panel_width``
    panels = matrix.reshape(depth, columns // width, width).transpose(1, 0, 2)
    packed: Numbers = np.ascontiguousarray(panels, dtype=np.float32).ravel()
    return packed


def _stand_alone(context: Any) -> Any:
    """Keep the function that calls this from being copied into its callers.

    Copies would take minutes to compile, and are slower: in a large function compilers
    no longer see that two arrays do not overlap.
    """

    def generate(context: Any, to: Any, signature: Any, args: Any) -> Any:
        to.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


noinline: Any = intrinsic(_stand_alone)


def _block(pixels: int, vectors: int) -> Any:
    """Instruction that computes some pixels of a panel of columns, in registers.

    ``out[p] = sum over rows r and i < run of x[p * x_step + r * x_row + i] * w[r, i]``,
    begun ``ON_TOP`` of what out holds or ``FROM_ZERO`` (``resumes``); then, unless norm
    is ``NO_NORM``, scaled and shifted by the columns' numbers that begin at ``w[norm]``
    and ``w[norm + out_step]``.
    """

    @intrinsic
    def multiply(
        context: Any,
        x: Any,
        x_at: Any,
        x_step: Any,
        x_row: Any,
        rows: Any,
        run: Any,
        w: Any,
        w_at: Any,
        out: Any,
        out_at: Any,
        out_step: Any,
        resumes: Any,
        norm: Any,
    ) -> Any:
        signature = types.void(
            x, *[types.int64] * 5, w, types.int64, out, *[types.int64] * 4
        )

        def generate(context: Any, to: Any, signature: Any, args: Any) -> Any:
            return _generate(context, to, signature.args, args, pixels, vectors)

        return signature, generate

    return multiply


def _generate(
    context: Any, to: Any, kinds: Any, args: Any, pixels: int, vectors: int
) -> Any:
    x, x_at, x_step, x_row, rows, run, w, w_at, out, out_at, out_step, *rest = args
    resumes, norm = rest
    number, integer = ir.FloatType(), ir.IntType(64)
    vector = ir.VectorType(number, LANES)
    fma = cgutils.get_or_insert_function(
        to.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
    )
    x_data, w_data, out_data = (
        context.make_array(kind)(context, to, array).data
        for kind, array in ((kinds[0], x), (kinds[6], w), (kinds[8], out))
    )

    def as_vector(pointer: Any, at: int) -> Any:
        place = to.gep(pointer, [ir.Constant(integer, at * LANES)])
        return to.bitcast(place, vector.as_pointer())

    def spread(value: Any) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        first = to.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        return to.shuffle_vector(first, undefined, mask)

    sums = [
        [cgutils.alloca_once(to, vector) for _ in range(vectors)] for _ in range(pixels)
    ]
    results = [
        to.gep(
            out_data, [to.add(out_at, to.mul(out_step, ir.Constant(integer, pixel)))]
        )
        for pixel in range(pixels)
    ]
    every = [(pixel, v) for pixel in range(pixels) for v in range(vectors)]
    for pixel, v in every:
        to.store(ir.Constant(vector, None), sums[pixel][v])
    with to.if_then(to.icmp_signed("!=", resumes, ir.Constant(integer, 0))):
        for pixel, v in every:
            to.store(to.load(as_vector(results[pixel], v), align=4), sums[pixel][v])
    weights = cgutils.alloca_once_value(to, to.gep(w_data, [w_at]))
    starts = [
        to.gep(x_data, [to.add(x_at, to.mul(x_step, ir.Constant(integer, pixel)))])
        for pixel in range(pixels)
    ]
    with cgutils.for_range(to, rows) as outer:
        row = [to.gep(start, [to.mul(outer.index, x_row)]) for start in starts]
        with cgutils.for_range(to, run) as inner:
            here = to.load(weights)
            columns = [to.load(as_vector(here, v), align=4) for v in range(vectors)]
            for pixel in range(pixels):
                value = spread(to.load(to.gep(row[pixel], [inner.index])))
                for v in range(vectors):
                    total = to.call(fma, [value, columns[v], to.load(sums[pixel][v])])
                    to.store(total, sums[pixel][v])
            to.store(to.gep(here, [ir.Constant(integer, vectors * LANES)]), weights)
    with to.if_then(to.icmp_signed(">=", norm, ir.Constant(integer, 0))):
        first = to.gep(w_data, [norm])
        second = to.gep(first, [out_step])
        for v in range(vectors):
            scale, shift = (
                to.load(as_vector(each, v), align=4) for each in (first, second)
            )
            for pixel in range(pixels):
                scaled = to.fmul(to.load(sums[pixel][v]), scale)
                to.store(to.fadd(scaled, shift), sums[pixel][v])
    for pixel, v in every:
        to.store(to.load(sums[pixel][v]), as_vector(results[pixel], v), align=4)
    return context.get_dummy_value()


_8x2, _4x2, _2x2, _1x2 = (_block(pixels, 2) for pixels in (8, 4, 2, 1))
_8x1, _4x1, _2x1, _1x1 = (_block(pixels, 1) for pixels in (8, 4, 2, 1))


@compiled
def multiply(
    n: int,
    x: Numbers,
    x_at: int,
    x_step: int,
    x_row: int,
    rows: int,
    run: int,
    w: Numbers,
    w_at: int,
    out: Numbers,
    out_at: int,
    columns: int,
    width: int,
    resumes: int,
    norm: int,
) -> None:
    """N pixels of one panel, in blocks; the arguments are explained at ``_block``."""
    noinline()
    first, more = 0, (resumes, norm)
    while first < n:
        left = n - first
        size = 8 if left >= 8 else 4 if left >= 4 else 2 if left >= 2 else 1
        i, o = x_at + first * x_step, out_at + first * columns
        if width == PANEL:
            if size == 8:
                _8x2(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
            elif size == 4:
                _4x2(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
            elif size == 2:
                _2x2(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
            else:
                _1x2(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
        elif size == 8:
            _8x1(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
        elif size == 4:
            _4x1(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
        elif size == 2:
            _2x1(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
        else:
            _1x1(x, i, x_step, x_row, rows, run, w, w_at, out, o, columns, *more)
        first += size


@compiled
def panel_width(columns: int) -> int:
    """Columns of each panel of a packed matrix."""
    return PANEL if columns % PANEL == 0 else LANES
