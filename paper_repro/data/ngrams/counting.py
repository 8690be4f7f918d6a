"""Kernels of vocabulary building: numbering words, counting n-grams by parts, replacing n-grams by their numbers."""

import numpy as np

from paper_repro.data.ngrams.machine import (
    address,
    announce,
    get_int32,
    get_int64,
    get_uint8,
    get_uint64,
    kernel,
    lowest,
    put_int32,
    put_int64,
    put_uint8,
    put_uint64,
)
from paper_repro.data.ngrams.pairs import AHEAD, mixed, probe_all
from paper_repro.data.ngrams.tokens import cut
from paper_repro.data.ngrams.transform import entries_of, layout, look_up_words, piece_end
from paper_repro.data.ngrams.words import enter, find

_FREE = np.uint64(2**64 - 1)  # in the place of a key: an empty slot of a counting table
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_HALF, _ONE = np.uint64(32), np.uint64(1)
_BATCH = 2048  # places of the corpus that are handled together
SCRATCH = 16 * (_BATCH + AHEAD)  # bytes that ``count_part`` and ``renumber`` need


@kernel
def number_words(
    data: np.ndarray,
    ends: np.ndarray,
    first: int,
    whitespace: int,
    characters: np.ndarray,
    room: int,
    scratch: np.ndarray,
    table: np.ndarray,
    offsets: np.ndarray,
    pool: np.ndarray,
    counts: np.ndarray,
    known: int,
    stream: np.ndarray,
    at: int,
) -> tuple[int, int, int]:
    """Write the word numbers of the texts from ``first`` on to stream[at:], -1 after each text.

    A word that is new gets the next number, and its bytes go to ``pool``. Returns (texts done, words known, end in
    ``stream``); texts are left over when ``counts`` (and with it ``table``) or ``pool`` would be too small.
    """
    keys, _, bounds, starts, sizes, _, numbers, marks, lower, _ = layout(address(scratch), room, entries_of(room), 1)
    line_bits = lowest(np.uint64(len(table) // 8))
    text, letters, to = address(data), address(characters), address(stream)
    words, spelled, spelling = address(table), address(offsets), address(pool)
    while first < len(ends):
        last = piece_end(ends, first)
        tokens = cut(text, address(ends), first, last, whitespace, letters, lower, marks, keys, starts, sizes, bounds)
        look_up_words(words, line_bits, keys, tokens, lower, starts, sizes, spelled, known, spelling, numbers)
        new = new_bytes = 0
        for i in range(tokens):
            unknown = int((get_int32(numbers, i) < 0) & (get_uint64(keys, i) != 0))
            new += unknown
            new_bytes += unknown * get_int32(sizes, i)
        if known + new > len(counts) or offsets[known] + new_bytes + 8 > len(pool):
            break
        for i in range(tokens):
            number, key = get_int32(numbers, i), get_uint64(keys, i)
            if number < 0 and key != 0:
                token, size = lower + get_int32(starts, i), get_int32(sizes, i)
                number = find(words, line_bits, key, token, size, spelled, known, spelling)
                if number < 0:  # it has not been met in this piece either
                    number = known
                    enter(words, line_bits, key, known, known)
                    begin = get_int64(spelled, known)
                    for byte in range(size):
                        put_uint8(spelling, begin + byte, get_uint8(token, byte))
                    put_int64(spelled, known + 1, begin + size)
                    counts[known] = 0
                    known += 1
            put_int32(to, at, number)
            at += 1
            if number >= 0:
                counts[number] += 1
        first = last
    return first, known, at


@kernel
def candidates(corpus_nodes: np.ndarray, begin: int, end: int) -> int:
    """How many places in begin..end - 1 may begin a longer n-gram: they and the next ones have a node."""
    nodes = address(corpus_nodes)
    found = 0
    for at in range(begin, min(end, len(corpus_nodes) - 1)):
        found += int((get_int32(nodes, at) | get_int32(nodes, at + 1)) >= 0)
    return found


@kernel
def count_part(
    corpus_nodes: np.ndarray,
    corpus_words: np.ndarray,
    length: int,
    part: int,
    parts: int,
    counting: np.ndarray,
    scratch: np.ndarray,
    least: int,
) -> int:
    """Count the n-grams of ``length`` words of one part of all n-grams, by hash; -1 when the table is too small.

    ``corpus_nodes`` (int32) has the number of the n-gram of length - 1 words at each place of the corpus,
    ``corpus_words`` those of words; -1 is none. Returns how many occur ``least`` times or more; they are the first
    pairs of ``counting`` (uint64 [2 S], S a power of two): a key (number << 32 | last word) and its count.
    """
    nodes, words, table = address(corpus_nodes), address(corpus_words), address(counting)
    keys, slots = address(scratch), address(scratch) + 8 * (_BATCH + AHEAD)
    size = len(counting) // 2
    for slot in range(size):
        put_uint64(table, 2 * slot, _FREE)
        put_uint64(table, 2 * slot + 1, np.uint64(0))
    room = size * 5 // 8
    places = len(corpus_words) - length + 1
    for begin in range(0, places, _BATCH):
        if room < _BATCH:
            return -1
        found = 0
        for at in range(begin, min(begin + _BATCH, places)):
            head, last = get_int32(nodes, at), get_int32(words, at + length - 1)
            key = np.uint64(head) << _HALF | np.uint64(last)
            mix = (key ^ key >> _HALF) * _PRIME
            mix = (mix ^ mix >> _HALF) * _PRIME
            put_uint64(keys, found, key)
            put_int64(slots, found, np.int64(mix) & (size - 1))
            mine = np.int64(((mix >> _HALF) * np.uint64(parts)) >> _HALF) == part
            found += int(mine & ((head | last | get_int32(nodes, at + 1)) >= 0))
        for i in range(found, found + AHEAD):
            put_int64(slots, i, 0)
        for i in range(found):
            announce(table + 16 * get_int64(slots, i + AHEAD))
            slot, key = get_int64(slots, i), get_uint64(keys, i)
            while get_uint64(table, 2 * slot) != key:
                if get_uint64(table, 2 * slot) == _FREE:
                    put_uint64(table, 2 * slot, key)
                    room -= 1
                    break
                slot = (slot + 1) & (size - 1)
            put_uint64(table, 2 * slot + 1, get_uint64(table, 2 * slot + 1) + _ONE)
    found = 0
    for slot in range(size):
        count = get_int64(table, 2 * slot + 1)
        put_uint64(table, 2 * found, get_uint64(table, 2 * slot))
        put_int64(table, 2 * found + 1, count)
        found += int(count >= least)
    return found


@kernel
def renumber(
    corpus_nodes: np.ndarray,
    corpus_words: np.ndarray,
    length: int,
    begin: int,
    end: int,
    border: int,
    pairs: np.ndarray,
    bits: int,
    scratch: np.ndarray,
) -> None:
    """Replace the numbers of n-grams of length - 1 words at begin..end - 1 by those of n-grams one word longer.

    ``border`` is the number at ``end`` as it was before anybody wrote (-1 at the end of the corpus).
    """
    nodes, words = address(corpus_nodes), address(corpus_words)
    wanted, places = address(scratch), address(scratch) + 8 * (_BATCH + AHEAD)
    line_bits = lowest(np.uint64(len(pairs) // 8))
    for first in range(begin, end, _BATCH):
        found = 0
        for at in range(first, min(first + _BATCH, end)):
            head = get_int32(nodes, at)
            after = get_int32(nodes, at + 1) if at + 1 < end else border
            word = get_int32(words, at + length - 1) if at + length - 1 < len(corpus_words) else -1
            put_int32(places, found, at - first)
            put_uint64(wanted, found, mixed(head, word, bits))
            found += int((head | after | word) >= 0)
            put_int32(nodes, at, -1)
        probe_all(address(pairs), bits, line_bits, wanted, places, found, nodes + 4 * first)
