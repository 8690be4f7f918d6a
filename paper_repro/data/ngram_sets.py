"""How two text collections' sets of distinct n-grams overlap (Sparse Distillation, table 13), by 64-bit hashes.

Two of 20 million different n-grams share a hash with a probability of about 1e-5, which no printed digit would show.
"""

import re
import zlib
from collections.abc import Iterable

import numpy as np

TOKEN = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's default
MIX = np.uint64(0x9E3779B97F4A7C15)


def token_hashes(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit hash of every token (uint64 [total]) and where each text starts (int64 [N + 1])."""
    known: dict[str, int] = {}
    hashes: list[int] = []
    offsets = [0]
    for text in texts:
        for token in TOKEN.findall(text.lower()):
            if token not in known:
                data = token.encode("utf-8", "surrogatepass")
                known[token] = (zlib.crc32(data) << 32) ^ zlib.crc32(data[::-1], len(data))
            hashes.append(known[token])
        offsets.append(len(hashes))
    return _mixed(np.array(hashes, dtype=np.uint64)), np.array(offsets, dtype=np.int64)


def ngram_hashes(tokens: np.ndarray, offsets: np.ndarray, n: int) -> np.ndarray:
    """The hash of every run of 1 to ``n`` tokens inside a text, repeats included."""
    end = np.repeat(offsets[1:], np.diff(offsets))  # of the text that a token is in
    found, current = [tokens], tokens
    for length in range(2, n + 1):
        inside = np.arange(len(current)) + length <= end[: len(current)]
        longer = _mixed(current[:-1] * np.uint64(31) + tokens[length - 1 :]) if len(current) > 1 else current[:0]
        current = longer
        found.append(longer[inside[: len(longer)]])
    return np.concatenate(found)


def distinct(hashes: np.ndarray) -> int:
    """How many different ones there are. (Sorting 20 million takes a twentieth of ``np.unique``'s time.)"""
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(ordered) > 0)


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits that spreads them (the finaliser of splitmix64)."""
    values = values + MIX
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
