"""What numba has no word for: raw memory, 64 bytes at a time, look-ups announced to the memory.

The kernels get arrays and hand addresses on: arrays inside a loop would be counted as references at every turn, and
indices checked for their sign. So nothing here checks bounds; the callers do. The vector code is plain LLVM, so it runs
on whatever the machine has (AVX-512, AVX2, SSE, NEON); bytes are taken as little-endian.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

# as numba declares them they could not be used
njit: Any = numba.njit
intrinsic: Any = numba.extending.intrinsic

BLOCK = 64  # bytes that ``classify`` takes at once; texts are padded by as many

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def kernel(function: Callable[..., Any]) -> Any:
    """``function`` compiled, to be called from Python without the GIL; kept on disk where numba finds a folder for it.

    Numba wants ``NUMBA_CACHE_DIR``, a writable ``__pycache__`` or a user cache folder; an installation that has none of
    them (or a numba that keeps its cache in another way) still works and compiles in every process.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled = njit(cache=True, **options)(function)
    except (RuntimeError, OSError):
        return njit(**options)(function)
    cache: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if not hasattr(cache, "_source_stamp"):
        return njit(**options)(function)
    # Numba looks for changes in the function's own file only, but what it calls in others is compiled into it.
    cache._source_stamp = _SOURCES
    return compiled


def part(function: Callable[..., Any]) -> Any:
    """``function`` compiled as a part of the kernels that call it."""
    return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """``function`` copied into the kernels that call it."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def _at(builder: Any, base: Any, index: Any, size: int, kind: Any) -> Any:
    """The address base + size * index as a pointer to ``kind``."""
    address = builder.add(base, builder.mul(index, ir.Constant(_I64, size)))
    return builder.inttoptr(address, kind.as_pointer())


def _reader(bits: int, result: Any) -> Any:
    kind = ir.IntType(bits)

    @intrinsic
    def get(typing: Any, base: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, index = arguments
            value = builder.load(_at(builder, base, index, bits // 8, kind), align=1)
            return builder.zext(value, _I64) if bits == 8 else builder.sext(value, _I64) if bits < 64 else value

        return result(types.int64, types.int64), code

    return get


def _writer(bits: int, given: Any) -> Any:
    kind = ir.IntType(bits)

    @intrinsic
    def put(typing: Any, base: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, index, value = arguments
            value = builder.trunc(value, kind) if bits < 64 else value
            builder.store(value, _at(builder, base, index, bits // 8, kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, given), code

    return put


# get_x(base, i) is the i-th number of its size from the address ``base``, as an int64 (uint64: as such)
get_uint8, get_int32, get_int64 = (_reader(bits, types.int64) for bits in (8, 32, 64))
get_uint64 = _reader(64, types.uint64)
put_uint8, put_int32, put_int64 = (_writer(bits, types.int64) for bits in (8, 32, 64))
put_uint64 = _writer(64, types.uint64)


def lines(count: int) -> np.ndarray:
    """Zeros (uint64), eight to a cache line, beginning with a whole one."""
    raw = np.zeros(8 * count + 7, dtype=np.uint64)
    skip = -raw.ctypes.data % 64 // 8
    return raw[skip : skip + 8 * count]


@intrinsic
def address(typing: Any, array: Any) -> Any:
    """Where the first element of a C-contiguous array is. The array must outlive what is done with it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, _I64)

    return types.int64(array), code


@intrinsic
def classify(typing: Any, source: Any, target: Any) -> Any:
    """(word, blank, other): bit i says that byte i of the 64 at ``source`` is an ASCII letter, digit or underscore,
    resp. ASCII whitespace, resp. not ASCII. The bytes are written to ``target`` with A-Z in lower case.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(_I8, BLOCK)

        def same(value: int) -> Any:
            return ir.Constant(vector, [value] * BLOCK)

        def within(low: str, high: str, data: Any) -> Any:
            return builder.icmp_unsigned("<=", builder.sub(data, same(ord(low))), same(ord(high) - ord(low)))

        def bits(flags: Any) -> Any:
            return builder.bitcast(flags, _I64)

        source, target = arguments
        data = builder.load(builder.inttoptr(source, vector.as_pointer()), align=1)
        lower = builder.or_(data, builder.select(within("A", "Z", data), same(32), same(0)))
        builder.store(lower, builder.inttoptr(target, vector.as_pointer()), align=1)
        word = builder.or_(within("a", "z", lower), within("0", "9", lower))
        word = builder.or_(word, within("_", "_", lower))
        blank = builder.or_(within("\t", "\r", data), builder.or_(within("\x1c", "\x1f", data), within(" ", " ", data)))
        other = builder.icmp_signed("<", data, same(0))
        return context.make_tuple(builder, signature.return_type, [bits(word), bits(blank), bits(other)])

    return types.UniTuple(types.uint64, 3)(types.int64, types.int64), code


@intrinsic
def match8(typing: Any, line: Any, mask: Any, wanted: Any) -> Any:
    """Bit i says that number i of the eight uint64 at ``line``, and-ed with ``mask``, is ``wanted``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, mask, wanted = arguments
        vector = ir.VectorType(_I64, 8)

        def spread(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, 8), [0] * 8))

        slots = builder.load(builder.inttoptr(line, vector.as_pointer()), align=8)
        equal = builder.icmp_unsigned("==", builder.and_(slots, spread(mask)), spread(wanted))
        return builder.zext(builder.bitcast(equal, _I8), _I64)

    return types.uint64(types.int64, types.uint64, types.uint64), code


@intrinsic
def lowest(typing: Any, bits: Any) -> Any:
    """The place of the lowest set bit of a uint64; 64 for 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), code


@intrinsic
def announce(typing: Any, place: Any) -> Any:
    """Start to fetch the cache line at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(fetch, [pointer, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(types.int64), code
