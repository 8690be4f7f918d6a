"""The exact table of single words: from a token's key to a number.

Lines of 64 bytes hold four pairs of uint64: a key, and the number + 1 that it stands for (low half) beside the place of
its text (high half). A full line continues in the next one. Where the key is a hash, the bytes are compared
with the text that the table keeps, so two tokens never share a number.
"""

from typing import Any

import numpy as np

from paper_repro.data.ngrams.machine import (
    address,
    get_int64,
    get_uint64,
    inlined,
    kernel,
    lines,
    lowest,
    match8,
    part,
    put_uint64,
)
from paper_repro.data.ngrams.tokens import HASHED, same_bytes, token_key

_KEYS = np.uint64(0b01010101)  # which of a line's eight slots are keys
_ALL = np.uint64(2**64 - 1)
_LOW = np.uint64(2**32 - 1)
_PRIME = np.uint64(0xD6E8FEB86659FD93)


def word_table(count: int) -> np.ndarray:
    """An empty table (uint64) with room for ``count`` words: a power of two of lines, at most half full."""
    return lines(max(2, 1 << max(0, (count - 1).bit_length() - 1)))


@inlined
def home(table: int, line_bits: int, key: Any) -> Any:
    """Address of the line where the search for ``key`` begins."""
    return table + (np.int64(((key ^ (key >> np.uint64(32))) * _PRIME) >> np.uint64(64 - line_bits)) << 6)


@inlined
def look_up(table: int, line_bits: int, key: Any, token: int, size: int, offsets: int, words: int, pool: int) -> Any:
    """The number of a word, or -1; arguments as of ``find``."""
    line = home(table, line_bits, key)
    same = match8(line, _ALL, key) & _KEYS
    if (key & HASHED) == HASHED or (same == 0) & (get_uint64(line, 6) != 0):
        return find(table, line_bits, key, token, size, offsets, words, pool)
    found = get_uint64(line, 1 + (lowest(same) & 7)) & _LOW
    return np.int64(found & (np.uint64(0) - np.uint64(same != 0))) - 1


@part
def find(table: int, line_bits: int, key: Any, token: int, size: int, offsets: int, words: int, pool: int) -> Any:
    """The number of the word of ``size`` bytes at the address ``token``, or -1 when it is not there or ``key`` is 0.

    The table's word with place p < ``words`` is pool[offsets[p] : offsets[p + 1]]. A table from a damaged file may give
    a wrong answer, but nothing outside of what belongs to it is read.
    """
    line = home(table, line_bits, key)
    for _ in range(1 << line_bits):
        same = match8(line, _ALL, key) & _KEYS
        while same:
            found = get_uint64(line, lowest(same) + 1)
            place = np.int64(found >> np.uint64(32))
            if (key & HASHED) != HASHED or (place < words and is_word(offsets, place, pool, token, size)):
                return np.int64(found & _LOW) - 1
            same &= same - np.uint64(1)
        if get_uint64(line, 6) == 0:
            return -1
        line = after(table, line_bits, line)
    return -1


@inlined
def after(table: int, line_bits: int, line: int) -> int:
    """Address of the next line; the first follows the last."""
    return table + ((line - table + 64) & ((64 << line_bits) - 1))


@inlined
def is_word(offsets: int, place: int, pool: int, token: int, size: int) -> bool:
    """Whether the word of that place is the token."""
    start = get_int64(offsets, place)
    return get_int64(offsets, place + 1) - start == size and same_bytes(pool + start, token, size)


@inlined
def enter(table: int, line_bits: int, key: Any, number: int, place: int) -> None:
    """Enter a word that is not there yet; the table has room."""
    line = home(table, line_bits, key)
    while get_uint64(line, 6) != 0:
        line = after(table, line_bits, line)
    slot = 0
    while get_uint64(line, slot) != 0:
        slot += 2
    put_uint64(line, slot, key)
    put_uint64(line, slot + 1, np.uint64(number + 1) | np.uint64(place) << np.uint64(32))


@kernel
def enter_all(table: np.ndarray, numbers: np.ndarray, offsets: np.ndarray, pool: np.ndarray) -> None:
    """Enter word i, pool[offsets[i] : offsets[i + 1]], as numbers[i]; all differ, and 8 bytes follow the last."""
    line_bits = lowest(np.uint64(len(table) // 8))
    for place in range(len(numbers)):
        size = offsets[place + 1] - offsets[place]
        enter(address(table), line_bits, token_key(address(pool) + offsets[place], size, 1), numbers[place], place)
