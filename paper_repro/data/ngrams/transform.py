"""From packed texts to n-gram ids.

Texts are taken in pieces of some 16 KB, so that everything between the text and the two tables stays in the first two
caches. In a piece all look-ups of one length follow one another: they are independent, so the processor overlaps
them, and each line is announced some look-ups before it is read. An n-gram is looked up only if its first n - 1 words
and its last n - 1 words are nodes, which is why the nodes are closed under taking parts.
"""

from typing import Any

import numpy as np

from paper_repro.data.ngrams.machine import (
    address,
    announce,
    get_int32,
    get_int64,
    get_uint64,
    inlined,
    kernel,
    part,
    put_int32,
    put_uint64,
)
from paper_repro.data.ngrams.packing import Packed
from paper_repro.data.ngrams.pairs import AHEAD, line_of, mixed, probe
from paper_repro.data.ngrams.tokens import MARKS, cut
from paper_repro.data.ngrams.words import home, look_up

PIECE = 16_384  # bytes of text, but a text is never parted
PIECE_TEXTS = 512


def _entries(room: int) -> int:
    """How many tokens a piece of ``room`` bytes may have, ends of texts and look-ups ahead included; even."""
    return (room // 4 + PIECE_TEXTS // 2 + AHEAD + 2) * 2


def _layout(scratch: int, room: int, entries: int, n: int) -> Any:
    """The kernels' memory between text and ids: (keys, pairs, bounds, starts, sizes, places, nodes, marks, lower, end).

    All but bounds and the last three have ``entries`` entries, nodes n times as many.
    """
    pairs = scratch + 8 * entries
    bounds = pairs + 8 * entries
    starts = bounds + 8 * (PIECE_TEXTS + 1)
    sizes = starts + 4 * entries
    places = sizes + 4 * entries
    nodes = places + 4 * entries
    marks = nodes + 4 * n * entries
    lower = marks + MARKS
    return scratch, pairs, bounds, starts, sizes, places, nodes, marks, lower, lower + room + 136


entries_of, layout = inlined(_entries), inlined(_layout)


def scratch_for(packed: Packed, n: int) -> tuple[int, np.ndarray]:
    """(room, memory) for the kernels: the bytes of the longest piece, and what ``layout`` divides."""
    room = max(PIECE, packed.longest)
    return room, np.empty(_layout(0, room, _entries(room), n)[-1], dtype=np.uint8)


@inlined
def piece_end(ends: np.ndarray, first: int) -> int:
    """The first text after the piece that begins with text ``first``."""
    begin = ends[first - 1] + 1 if first else 0
    last = first + 1
    while last < len(ends) and ends[last] - begin <= PIECE and last - first < PIECE_TEXTS:
        last += 1
    return last


@kernel
def ngram_ids(
    book: Any,
    data: np.ndarray,
    ends: np.ndarray,
    whitespace: int,
    characters: np.ndarray,
    room: int,
    scratch: np.ndarray,
    ids: np.ndarray,
    at: int,
    counts: np.ndarray,
) -> int:
    """Write the ids of all texts to ids[at:], and of each text how many; returns the end in ``ids``.

    ``book`` is ``Vocabulary._book``. Within a text shorter n-grams come first, each length in the order of the text.
    """
    words, word_bits, offsets, known, pool, pairs, bits, line_bits, size, n = book
    keys, wanted, bounds, starts, sizes, places, nodes, marks, lower, _ = layout(
        address(scratch), room, entries_of(room), n
    )
    level_bytes = 4 * entries_of(room)
    text, letters, to = address(data), address(characters), address(ids)
    first = 0
    while first < len(ends):
        last = piece_end(ends, first)
        tokens = cut(text, address(ends), first, last, whitespace, letters, lower, marks, keys, starts, sizes, bounds)
        if at + n * (tokens - (last - first)) > len(ids):
            raise IndexError("more n-grams than memory was taken for")
        look_up_words(words, word_bits, keys, tokens, lower, starts, sizes, offsets, known, pool, nodes)
        for level in range(1, n):
            before = nodes + level_bytes * (level - 1)
            look_up_pairs(pairs, bits, line_bits, nodes, before, before + level_bytes, level, tokens, places, wanted)
        for row in range(last - first):
            start = at
            for level in range(n):
                for token in range(get_int64(bounds, row), get_int64(bounds, row + 1) - 1 - level):
                    node = get_int32(nodes + level_bytes * level, token)
                    put_int32(to, at, node)
                    at += int(np.uint64(node) < np.uint64(size))
            counts[first + row] = at - start
        first = last
    return at


@part
def look_up_words(
    table: int,
    line_bits: int,
    keys: int,
    tokens: int,
    text: int,
    starts: int,
    sizes: int,
    offsets: int,
    known: int,
    pool: int,
    nodes: int,
) -> None:
    """nodes[i] = node of the word with keys[i], or -1."""
    for i in range(tokens, tokens + AHEAD):
        put_uint64(keys, i, np.uint64(0))
    for i in range(tokens):
        announce(home(table, line_bits, get_uint64(keys, i + AHEAD)))
        token, size = text + get_int32(starts, i), get_int32(sizes, i)
        put_int32(nodes, i, look_up(table, line_bits, get_uint64(keys, i), token, size, offsets, known, pool))


@part
def look_up_pairs(
    table: int,
    bits: int,
    line_bits: int,
    nodes: int,
    before: int,
    after: int,
    level: int,
    tokens: int,
    places: int,
    wanted: int,
) -> None:
    """after[i] = node of the n-gram of level + 1 words at token i, or -1, if it may end before ``tokens``.

    ``nodes`` are those of words, ``before`` of n-grams of level words.
    """
    found = 0
    for i in range(tokens - level):
        put_int32(after, i, -1)
        put_int32(places, found, i)
        found += int((get_int32(before, i) | get_int32(before, i + 1)) >= 0)
    for i in range(-AHEAD, found):
        ahead = i + AHEAD
        if ahead < found:
            place = get_int32(places, ahead)
            pair = mixed(get_int32(before, place), get_int32(nodes, place + level), bits)
            announce(line_of(table, pair, 2 * bits - line_bits))
            put_uint64(wanted, ahead, pair)
        if i >= 0:
            put_int32(after, get_int32(places, i), probe(table, get_uint64(wanted, i), bits, line_bits))
