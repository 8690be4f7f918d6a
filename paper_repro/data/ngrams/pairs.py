"""The exact table of n-grams: (the node of its first words, the node of its last word) -> its node.

A node is a number for an n-gram. An n-gram is found step by step, so that an unknown beginning ends the search. With
2^b > nodes, a pair is a number of 2 b bits. It is mixed by a bijection; its top bits name a line of eight slots, its
other bits are kept in the slot. So the whole pair is compared and no two n-grams can be confused. A slot (uint64) has,
from the top: the other bits, how many lines further than its own it is (6 bits), the node + 1 (b bits); 0 is empty.
"""

from typing import Any

import numpy as np

from paper_repro.data.ngrams.machine import (
    address,
    announce,
    get_int32,
    get_uint64,
    inlined,
    kernel,
    lines,
    lowest,
    match8,
    part,
    put_int32,
    put_uint64,
)

AWAY = 6  # bits that say how many lines away from its own a slot is
AHEAD = 32  # look-ups between announcing a line and reading it
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_ODD, _ODDER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@inlined
def mixed(head: int, last: int, bits: int) -> Any:
    """The pair as a mixed number of 2 ``bits`` bits."""
    mask = (_ONE << np.uint64(2 * bits)) - _ONE
    pair = ((np.uint64(head) << np.uint64(bits) | np.uint64(last)) * _ODD) & mask
    pair ^= pair >> np.uint64(bits)
    return (pair * _ODDER) & mask


@inlined
def line_of(table: int, pair: Any, rest: int) -> Any:
    """Address of the line where the search for a mixed pair begins; ``rest`` bits are left over."""
    return table + (np.int64(pair >> np.uint64(rest)) << 6)


@inlined
def probe(table: int, pair: Any, bits: int, line_bits: int) -> Any:
    """The node of a mixed pair, or -1."""
    rest = 2 * bits - line_bits
    line = line_of(table, pair, rest)
    node_mask = (_ONE << np.uint64(bits)) - _ONE
    wanted = (pair & ((_ONE << np.uint64(rest)) - _ONE)) << np.uint64(bits + AWAY)
    same = match8(line, ~node_mask, wanted)
    # Few lines are full, many pairs are unknown: only the first is a branch that the processor guesses well.
    if get_uint64(line, 7) != 0:
        away = 0
        while same == 0 and get_uint64(line, 7) != 0 and away < (1 << AWAY) - 1:
            line = table + ((line - table + 64) & ((64 << line_bits) - 1))
            away += 1
            wanted += _ONE << np.uint64(bits)
            same = match8(line, ~node_mask, wanted)
    # An empty slot may match, too; the entry itself, being before all empty ones, then matches first.
    entry = get_uint64(line, lowest(same) & 7) & node_mask
    return np.int64(entry & (_ZERO - np.uint64(same != 0))) - 1


@part
def probe_all(table: int, bits: int, line_bits: int, pairs: int, places: int, found: int, nodes: int) -> None:
    """nodes[places[i]] = node of pairs[i] or -1, for i below ``found``. ``pairs`` has room for ``AHEAD`` more."""
    rest = 2 * bits - line_bits
    for i in range(found, found + AHEAD):
        put_uint64(pairs, i, _ZERO)
    for i in range(found):
        announce(line_of(table, get_uint64(pairs, i + AHEAD), rest))
        put_int32(nodes, get_int32(places, i), probe(table, get_uint64(pairs, i), bits, line_bits))


@kernel
def fill(table: np.ndarray, nodes: np.ndarray, heads: np.ndarray, lasts: np.ndarray, bits: int) -> bool:
    """Enter the pairs (heads[i], lasts[i]) as nodes[i]; False when one would land too far from its line."""
    line_bits = lowest(np.uint64(len(table) // 8))
    rest = np.uint64(2 * bits - line_bits)
    for i in range(len(nodes)):
        pair = mixed(np.int64(heads[i]), np.int64(lasts[i]), bits)
        line = line_of(address(table), pair, 2 * bits - line_bits)
        away = 0
        while get_uint64(line, 7) != 0:
            line = address(table) + ((line - address(table) + 64) & ((64 << line_bits) - 1))
            away += 1
            if away >> AWAY:
                return False
        slot = 0
        while get_uint64(line, slot) != 0:
            slot += 1
        kept = (pair & ((_ONE << rest) - _ONE)) << np.uint64(AWAY) | np.uint64(away)
        put_uint64(line, slot, kept << np.uint64(bits) | np.uint64(nodes[i] + 1))
    return True


def node_bits(nodes: int) -> int:
    """Bits that a number of 0 to ``nodes`` needs."""
    return max(1, nodes.bit_length())


def pair_table(nodes: np.ndarray, heads: np.ndarray, lasts: np.ndarray, total: int) -> np.ndarray:
    """The table of the n-grams nodes[i] = (heads[i], lasts[i]) out of ``total`` nodes: at most 5 of 8 slots in use."""
    bits = node_bits(total)
    line_bits = max(1, (len(nodes) // 5).bit_length(), 3 * bits + AWAY - 64)
    while True:
        table = lines(1 << line_bits)
        if fill(table, nodes.astype(np.int64), heads.astype(np.int64), lasts.astype(np.int64), bits):
            return table
        line_bits += 1


def suffixes(table: np.ndarray, lengths: np.ndarray, heads: np.ndarray, lasts: np.ndarray, n: int) -> np.ndarray:
    """For each node the node of all its words but the first (int64); the node itself for single words."""
    found = np.where(lengths == 1, np.arange(len(lengths)), lasts)
    for length in range(3, n + 1):
        nodes = np.flatnonzero(lengths == length)
        begin, last = found[heads[nodes]], lasts[nodes].astype(np.int64)
        found[nodes] = look_up_all(table.ctypes.data, len(table), begin, last, node_bits(len(lengths)))
    return found


@kernel
def look_up_all(table: int, size: int, heads: np.ndarray, lasts: np.ndarray, bits: int) -> np.ndarray:
    """The nodes of these pairs (-1: none), in the table of ``size`` uint64 at an address."""
    line_bits = lowest(np.uint64(size // 8))
    found = np.empty(len(heads), dtype=np.int64)
    for i in range(len(heads)):
        found[i] = probe(table, mixed(heads[i], lasts[i], bits), bits, line_bits)
    return found
