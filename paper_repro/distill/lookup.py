"""Kernels of the deployed student: add up table rows, and a dense layer, both with the same result for any batch.

What bounds the look-up is memory, not arithmetic: rows are taken eight at a time, which makes eight independent
streams, and each line of one group announces the same line of the next group to the second cache. That is 1.4 (fp32)
to 1.8 times (int8) as fast as no announcement, and 1.2 to 1.4 times as fast as announcing to the first cache, which
holds little more than a group (1M rows of 1,000, IMDB, a busy AMD Genoa). int8 and bf16 are widened in registers; no
row is copied. Two things did not pay there: looking up each distinct n-gram of a text once (finding them costs what it
saves), and asking for huge pages (the file system's large folios already give them).

The vectors are plain LLVM code, so this runs on whatever the machine has. Each number is added up in an order that only
its own text decides.
"""

from collections.abc import Callable
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

LANES = 16  # floats of a vector; here and not in ``rows``, as numba recompiles only when this file changes
SCALE = 4  # bytes of the scale that ends an int8 row
GROUP = 8  # rows added at once
SPAN = 512  # rows after which a sum is put aside, so that a long text's sum stays as exact as a short one's
TILE = 8  # rows that the dense layer takes at once
PANEL = 2 * LANES  # columns that it takes at once
_LINE = 64

intrinsic: Any = numba.extending.intrinsic
_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


def kernel(function: Callable[..., Any]) -> Any:
    """``function`` compiled, without the GIL; kept on disk where numba finds a folder that it may write to."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def _int(value: int) -> Any:
    return ir.Constant(_I64, value)


def _start(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return builder.bitcast(context.make_array(kind)(context, builder, array).data, _I8.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


def _multiply_add(builder: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")


def _widened(builder: Any, place: Any, stored: Any) -> Any:
    """The ``LANES`` columns at ``place``, stored as numba's type ``stored``, as floats."""
    element = {types.float32: _F32, types.uint16: ir.IntType(16), types.int8: _I8}[stored]
    vector = builder.load(builder.bitcast(place, ir.VectorType(element, LANES).as_pointer()), align=1)
    if stored == types.float32:
        return vector
    if stored == types.int8:
        return builder.sitofp(builder.sext(vector, _INTS), _FLOATS)
    return builder.bitcast(builder.shl(builder.zext(vector, _INTS), ir.Constant(_INTS, [16] * LANES)), _FLOATS)


def _group_of_rows(largest: bool) -> Any:
    @intrinsic
    def combine(typing: Any, table: Any, rows: Any, shares: Any, at: Any, result: Any) -> Any:
        """result += sum over i < GROUP of shares[at + i] * table[rows[at + i]], or the largest of these and itself.

        The same lines of the next group are announced, so ``rows`` goes on for another GROUP. ``result`` has as many
        columns as the table.
        """

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            stored = signature.args[0].dtype
            size = stored.bitwidth // 8
            columns, stride = (
                cgutils.unpack_tuple(builder, getattr(context.make_array(signature.args[0])(
                    context, builder, arguments[0]), name))[at] for name, at in (("shape", 1), ("strides", 0))
            )  # fmt: skip
            table, rows, shares, result = (
                _start(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 4)
            )
            at = arguments[3]

            def element(base: Any, index: Any, kind: Any, width: int) -> Any:
                return builder.load(
                    builder.bitcast(builder.gep(base, [builder.mul(index, _int(width))]), kind.as_pointer()), align=1
                )

            here, following, factors = [], [], []
            for i in range(GROUP):
                index = builder.add(at, _int(i))
                row = element(rows, index, _I64, 8)
                here.append(builder.gep(table, [builder.mul(row, stride)]))
                row = element(rows, builder.add(index, _int(GROUP)), _I64, 8)
                following.append(builder.gep(table, [builder.mul(row, stride)]))
                factor = element(shares, index, _F32, 4)
                if stored == types.int8:
                    scale = builder.gep(here[i], [builder.sub(stride, _int(SCALE))])
                    factor = builder.fmul(factor, builder.load(builder.bitcast(scale, _F32.as_pointer()), align=1))
                factors.append(_spread(builder, factor))
            fetch_kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], fetch_kind)
            multiply_add = _multiply_add(builder)

            def block(column: Any, vectors: int) -> None:
                offset = builder.mul(column, _int(size))
                places = [
                    builder.bitcast(
                        builder.gep(result, [builder.mul(builder.add(column, _int(v * LANES)), _int(4))]),
                        _FLOATS.as_pointer(),
                    )
                    for v in range(vectors)
                ]
                sums = [builder.load(place, align=4) for place in places]
                for i in range(GROUP):
                    builder.call(
                        fetch,
                        [builder.gep(following[i], [offset]), *(ir.Constant(_I32, x) for x in (0, 2, 1))],
                    )
                    line = builder.gep(here[i], [offset])
                    for v in range(vectors):
                        values = _widened(builder, builder.gep(line, [_int(v * LANES * size)]), stored)
                        if largest:
                            values = builder.fmul(values, factors[i])
                            more = builder.fcmp_ordered(">", values, sums[v])
                            sums[v] = builder.select(more, values, sums[v])
                        else:
                            sums[v] = builder.call(multiply_add, [values, factors[i], sums[v]])
                for place, total in zip(places, sums, strict=True):
                    builder.store(total, place, align=4)

            vectors = max(1, _LINE // (LANES * size))
            step = _int(vectors * LANES)
            whole = builder.mul(builder.udiv(columns, step), step)
            with cgutils.for_range_slice(builder, _int(0), whole, step, intp=_I64) as (column, _):
                block(column, vectors)
            if vectors > 1:
                with cgutils.for_range_slice(builder, whole, columns, _int(LANES), intp=_I64) as (column, _):
                    block(column, 1)
            return context.get_dummy_value()

        return types.void(table, rows, shares, types.int64, result), code

    return combine


_add_rows, _largest_of_rows = _group_of_rows(False), _group_of_rows(True)


@kernel
def pool(
    table: np.ndarray, ids: np.ndarray, offsets: np.ndarray, shares: np.ndarray, mean: bool, largest: bool
) -> np.ndarray:
    """Pooled rows, float32 [N, columns of the table]; what lies in padding columns means nothing.

    ``table``: as ``rows.encode`` stores it. ``ids`` (each a row of the table) and ``offsets``: N bags. ``shares``
    (float32 [total]): factor of each id, or empty for 1. ``largest``: the largest of the rows and not their sum.
    ``mean``: the sum is divided by the number of ids. An empty bag gives zeros.
    """
    texts, columns = len(offsets) - 1, table.shape[1]
    rows = np.empty(len(ids) + GROUP * (texts + 1), dtype=np.int64)
    factors = np.empty(len(rows), dtype=np.float32)
    bounds = np.empty(texts + 1, dtype=np.int64)
    at = 0
    for text in range(texts):
        bounds[text] = at
        for i in range(offsets[text], offsets[text + 1]):
            rows[at] = ids[i]
            factors[at] = shares[i] if len(shares) else np.float32(1)
            at += 1
        while at % GROUP:  # fill the last group with its last row again, which weighs nothing
            rows[at] = rows[at - 1]
            factors[at] = factors[at - 1] if largest else np.float32(0)
            at += 1
    bounds[texts] = at
    rows[at : at + GROUP] = 0
    pooled = np.zeros((texts, columns), dtype=np.float32)
    aside = np.empty(columns, dtype=np.float32)
    for text in range(texts):
        begin, end = bounds[text], bounds[text + 1]
        result = pooled[text]
        if largest:
            if end > begin:
                result[:] = -np.inf
            for at in range(begin, end, GROUP):
                _largest_of_rows(table, rows, factors, at, result)
            continue
        if end - begin <= SPAN:
            for at in range(begin, end, GROUP):
                _add_rows(table, rows, factors, at, result)
        else:
            aside[:] = 0
            for first in range(begin, end, SPAN):
                result[:] = 0
                for at in range(first, min(first + SPAN, end), GROUP):
                    _add_rows(table, rows, factors, at, result)
                aside += result
            result[:] = aside
        if mean and end > begin:
            result /= np.float32(offsets[text + 1] - offsets[text])
    return pooled


@kernel
def attention(scores: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Softmax of ``scores[ids]`` within each bag, float32 [total]; ``scores``: float32 [rows of the table]."""
    shares = np.empty(len(ids), dtype=np.float32)
    for text in range(len(offsets) - 1):
        begin, end = offsets[text], offsets[text + 1]
        highest = np.float32(-np.inf)
        for i in range(begin, end):
            highest = max(highest, scores[ids[i]])
        total = 0.0
        for i in range(begin, end):
            shares[i] = np.exp(scores[ids[i]] - highest)
            total += shares[i]
        for i in range(begin, end):
            shares[i] = shares[i] / total
    return shares


def pack_weight(weight: np.ndarray) -> np.ndarray:
    """A dense layer's ``weight`` (float32 [out, in]) as ``dense`` reads it: panels of columns, [panels, in, PANEL]."""
    out, width = weight.shape
    panels = -(-out // PANEL)
    padded = np.zeros((panels * PANEL, width), dtype=np.float32)
    padded[:out] = weight
    return np.ascontiguousarray(padded.reshape(panels, PANEL, width).transpose(0, 2, 1))


@intrinsic
def _tile(typing: Any, x: Any, first: Any, last: Any, weight: Any, panel: Any, tile: Any) -> Any:
    """tile[r] = sum over k of x[min(first + r, last), k] * weight[panel, k], for r < TILE."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stride = cgutils.unpack_tuple(
            builder, context.make_array(signature.args[0])(context, builder, arguments[0]).strides
        )[0]
        width = cgutils.unpack_tuple(
            builder, context.make_array(signature.args[3])(context, builder, arguments[3]).shape
        )[1]
        x, weight, tile = (_start(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 5))
        first, last, panel = arguments[1], arguments[2], arguments[4]
        rows = []
        for r in range(TILE):
            row = builder.add(first, _int(r))
            row = builder.select(builder.icmp_signed("<", row, last), row, last)
            rows.append(builder.gep(x, [builder.mul(row, stride)]))
        weight = builder.gep(weight, [builder.mul(panel, builder.mul(width, _int(4 * PANEL)))])
        multiply_add, vectors = _multiply_add(builder), PANEL // LANES
        sums = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(vectors)] for _ in range(TILE)]
        for place in (place for row in sums for place in row):
            builder.store(ir.Constant(_FLOATS, [0.0] * LANES), place)
        with cgutils.for_range(builder, width, intp=_I64) as loop:
            line = builder.gep(weight, [builder.mul(loop.index, _int(4 * PANEL))])
            factors = [
                builder.load(builder.bitcast(builder.gep(line, [_int(4 * LANES * v)]), _FLOATS.as_pointer()), align=4)
                for v in range(vectors)
            ]
            for row, places in zip(rows, sums, strict=True):
                place = builder.gep(row, [builder.mul(loop.index, _int(4))])
                value = _spread(builder, builder.load(builder.bitcast(place, _F32.as_pointer()), align=4))
                for factor, total in zip(factors, places, strict=True):
                    builder.store(builder.call(multiply_add, [factor, value, builder.load(total)]), total)
        for r, places in enumerate(sums):
            for v, total in enumerate(places):
                place = builder.gep(tile, [_int(4 * (r * PANEL + v * LANES))])
                builder.store(builder.load(total), builder.bitcast(place, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, weight, types.int64, tile), code


@kernel
def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """``x @ W.T + bias``, float32 [N, out], for ``weight = pack_weight(W)``.

    Of ``x`` [N, >= in] only the first columns count. BLAS is no faster (1,000 x 1,000), its
    sums depend on the batch, and its threads wait for each other.
    """
    count, width = len(x), len(bias)
    out = np.empty((count, width), dtype=np.float32)
    tile = np.empty((TILE, PANEL), dtype=np.float32)
    for panel in range(len(weight)):
        start = panel * PANEL
        for first in range(0, count, TILE):
            _tile(x, first, count - 1, weight, panel, tile)
            for row in range(first, min(first + TILE, count)):
                for column in range(start, min(start + PANEL, width)):
                    out[row, column] = tile[row - first, column - start] + bias[column]
    return out
