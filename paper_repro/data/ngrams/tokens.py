"""From bytes to tokens: 64 bytes at a time, then a 64-bit key for each token.

A token of up to eight bytes is its own key (its bytes, zeros above): equal keys mean equal tokens. The key of any other
is a hash over a lowest byte of 255, which begins no UTF-8 character; who compares such keys compares the bytes too. Any
other is a longer one, or (between blanks) one that ends in a zero byte, which would not show.
"""

from typing import Any

import numpy as np

from paper_repro.data.ngrams.machine import (
    BLOCK,
    classify,
    get_int32,
    get_int64,
    get_uint8,
    get_uint64,
    inlined,
    lowest,
    part,
    put_int32,
    put_int64,
    put_uint64,
)

HASHED = np.uint64(255)  # the lowest byte of a key that is a hash
STRETCH = 4096  # bytes that are read before their tokens are cut
MARKS = 4 * (STRETCH + 8)  # bytes that ``cut`` needs for itself
_ZERO, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@part
def runs(
    data: int, begin: int, end: int, state: Any, whitespace: int, characters: int, lower: int, marks: int, found: int
) -> Any:
    """Append to ``marks`` (int32) where runs of word characters start and end (exclusive), in turn.

    Reads data[begin:end] in blocks of 64 bytes (and up to 63 bytes beyond), whose lower case goes to ``lower``.
    ``characters`` is only read where a byte is not ASCII. ``state`` is what to hand on to the next stretch: whether the
    last byte was in a run, and the bytes that the last character has beyond ``end``. Returns (found, state).
    """
    inside, spill = state
    for at in range(begin, end, BLOCK):
        word, blank, other = classify(data + at, lower + at)
        if whitespace:
            word = ~(blank | other)
        if other | spill:
            word |= spill
            spill = _ZERO
            while other:
                bit = lowest(other)
                other &= other - _ONE
                first = get_uint8(data, at + bit)
                if first >= 0xC0:
                    size = character_bytes(first)
                    code = decode(data + at + bit, first, size)
                    if get_uint8(characters, code >> 3) >> (code & 7) & 1:
                        character = (_ONE << np.uint64(size)) - _ONE
                        word |= character << np.uint64(bit)
                        if bit + size > BLOCK:
                            spill = character >> np.uint64(BLOCK - bit)
        if end - at < BLOCK:
            word &= (_ONE << np.uint64(end - at)) - _ONE
        turns = word ^ ((word << _ONE) | inside)
        inside = word >> np.uint64(63)
        while turns:
            put_int32(marks, found, at + lowest(turns))
            found += 1
            turns &= turns - _ONE
    return found, (inside, spill)


@inlined
def character_bytes(first: int) -> int:
    """Length of the UTF-8 character that begins with the byte ``first``."""
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)


@inlined
def decode(character: int, first: int, size: int) -> int:
    """Code point of the UTF-8 character of ``size`` >= 2 bytes, of which ``first`` is the first, at an address."""
    code = first & (0x7F >> size)
    for more in range(1, size):
        code = code << 6 | (get_uint8(character, more) & 0x3F)
    return code


@part
def cut(
    data: int,
    ends: int,
    first: int,
    last: int,
    whitespace: int,
    characters: int,
    lower: int,
    marks: int,
    keys: int,
    starts: int,
    sizes: int,
    bounds: int,
) -> int:
    """The tokens of texts first..last - 1 of ``data`` (see ``packing``); returns how many entries ``keys`` has.

    The tokens of text first + i are entries bounds[i] to bounds[i + 1] - 2 of ``keys`` (uint64); then comes a key of 0,
    which is no token, so that no n-gram reaches into the next text. ``starts`` and ``sizes`` (int32) say where in
    ``lower`` they are, ``bounds`` are int64.
    """
    origin = get_int64(ends, first - 1) + 1 if first else 0
    data += origin
    end = get_int64(ends, last - 1) - origin
    tokens = text = found = 0
    put_int64(bounds, 0, 0)
    limit = get_int64(ends, first) - origin
    state = (_ZERO, _ZERO)
    for begin in range(0, end, STRETCH):
        stop = min(begin + STRETCH, end)
        found, state = runs(data, begin, stop, state, whitespace, characters, lower, marks, found)
        if stop == end and found & 1:
            put_int32(marks, found, end)
            found += 1
        for mark in range(0, found - 1, 2):
            start = get_int32(marks, mark)
            size = get_int32(marks, mark + 1) - start
            while start >= limit:
                put_uint64(keys, tokens, _ZERO)
                tokens += 1
                text += 1
                put_int64(bounds, text, tokens)
                limit = get_int64(ends, first + text) - origin
            put_uint64(keys, tokens, token_key(lower + start, size, whitespace))
            put_int32(starts, tokens, start)
            put_int32(sizes, tokens, size)
            # scikit-learn's pattern wants two characters, however many bytes they have
            tokens += whitespace | (size != character_bytes(get_uint8(lower, start)))
        if found & 1:
            put_int32(marks, 0, get_int32(marks, found - 1))
        found &= 1
    while first + text < last:
        put_uint64(keys, tokens, _ZERO)
        tokens += 1
        text += 1
        put_int64(bounds, text, tokens)
    return tokens


@inlined
def token_key(token: int, size: int, whitespace: int) -> Any:
    """The key of the ``size`` bytes at an address; reads up to seven bytes beyond a short one.

    ``whitespace`` of 0 promises that there are no zero bytes.
    """
    if size <= 8 and (whitespace == 0 or get_uint8(token, size - 1) != 0):
        return short(token, size)
    return hashed_key(token, size)


@inlined
def short(token: int, size: int) -> Any:
    """The one to eight bytes at an address, zeros above."""
    return get_uint64(token, 0) & (_ALL >> np.uint64(64 - 8 * size))


@part
def hashed_key(token: int, size: int) -> Any:
    """The key of a token that is not its own."""
    value = np.uint64(size)
    for at in range(0, size - 8, 8):
        value = (value ^ get_uint64(token + at, 0)) * _PRIME
        value ^= value >> np.uint64(32)
    value = (value ^ (get_uint64(token + size - 8, 0) if size > 8 else short(token, size))) * _PRIME
    return (value ^ value >> np.uint64(32)) << np.uint64(8) | HASHED


@inlined
def same_bytes(a: int, b: int, size: int) -> bool:
    """Whether the ``size`` bytes at two addresses are equal; reads up to seven bytes beyond less than eight."""
    if size <= 8:
        return short(a, size) == short(b, size)
    for at in range(0, size - 8, 8):
        if get_uint64(a + at, 0) != get_uint64(b + at, 0):
            return False
    return get_uint64(a + size - 8, 0) == get_uint64(b + size - 8, 0)
