"""N-grams without a vocabulary: each is hashed into one of a fixed number of buckets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paper_repro.data.ngrams.bags import Bags, bags_of
from paper_repro.data.ngrams.characters import Analyzer, check
from paper_repro.data.ngrams.machine import (
    address,
    get_int64,
    get_uint64,
    inlined,
    kernel,
    put_int32,
    put_uint64,
)
from paper_repro.data.ngrams.packing import Packed
from paper_repro.data.ngrams.tokens import cut
from paper_repro.data.ngrams.transform import entries_of, layout, piece_end, scratch_for
from paper_repro.errors import UserError

_HALF = np.uint64(32)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class HashedBuckets:
    """All 1- to n-grams of a text, each as a bucket 0 <= id < ``buckets``: the same on every machine and in every run.

    Unlike n-grams may share a bucket: that is the idea.
    """

    buckets: int
    n: int = 4
    analyzer: Analyzer = "sklearn"

    def __post_init__(self) -> None:
        check(self.n, self.analyzer)
        if not 1 <= self.buckets < 2**31:
            raise UserError(f"{self.buckets} buckets cannot be; choose 1 to {2**31 - 1:,}.")

    @property
    def size(self) -> int:
        """Ids are below this."""
        return self.buckets

    def transform(self, texts: Sequence[str] | Sequence[bytes], threads: int = 1) -> Bags:
        """The buckets of all n-grams of ``texts``; order, bytes, threads and errors as of ``Vocabulary.transform``."""
        return bags_of(texts, self.n, threads, self._kernel)

    def _kernel(self, packed: Packed, ids: np.ndarray, at: int, counts: np.ndarray) -> int:
        room, scratch = scratch_for(packed, self.n)
        letters = packed.letters(self.analyzer)
        whitespace = int(self.analyzer == "whitespace")
        return int(
            bucket_ids(
                self.buckets, self.n, packed.data, packed.ends, whitespace, letters, room, scratch, ids, at, counts
            )
        )


@inlined
def mix(value: Any) -> Any:
    """A bijection of uint64 after which the upper half depends on all bits."""
    value = (value ^ value >> _HALF) * _PRIME
    return (value ^ value >> _HALF) * _ODD


@kernel
def bucket_ids(
    buckets: int,
    n: int,
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
    """Write the buckets of all texts to ids[at:], and of each text how many; returns the end in ``ids``."""
    keys, hashes, bounds, starts, sizes, _, _, marks, lower, _ = layout(address(scratch), room, entries_of(room), n)
    text, letters, to = address(data), address(characters), address(ids)
    first = 0
    while first < len(ends):
        last = piece_end(ends, first)
        tokens = cut(text, address(ends), first, last, whitespace, letters, lower, marks, keys, starts, sizes, bounds)
        if at + n * (tokens - (last - first)) > len(ids):
            raise IndexError("more n-grams than memory was taken for")
        for i in range(tokens):
            put_uint64(keys, i, mix(get_uint64(keys, i)))
        for row in range(last - first):
            start = at
            begin, end = get_int64(bounds, row), get_int64(bounds, row + 1) - 1
            for level in range(n):
                for i in range(begin, end - level):
                    value = get_uint64(keys, i + level)
                    if level:
                        value = mix(get_uint64(hashes, i) * _PRIME + value)
                    put_uint64(hashes, i, value)
                    put_int32(to, at, np.int64(((value >> _HALF) * np.uint64(buckets)) >> _HALF))
                    at += 1
            counts[first + row] = at - start
        first = last
    return at
