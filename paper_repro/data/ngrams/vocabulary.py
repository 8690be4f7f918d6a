"""A vocabulary of n-grams: the most frequent of a corpus, their ids, and the tables that find them in a text."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paper_repro.data.ngrams import storage
from paper_repro.data.ngrams.bags import Bags, bags_of
from paper_repro.data.ngrams.characters import Analyzer
from paper_repro.data.ngrams.packing import Packed
from paper_repro.data.ngrams.pairs import node_bits, pair_table, suffixes
from paper_repro.data.ngrams.transform import ngram_ids, scratch_for
from paper_repro.data.ngrams.words import enter_all, word_table
from paper_repro.errors import UserError


class Vocabulary:
    """``size`` n-grams of 1 to ``n`` words; ids are ranks by descending count (see ``building`` for ties).

    Every n-gram is a node, and so are its parts. Nodes below ``size`` are the ids; parts that are not in the vocabulary
    themselves (there are none before ``restrict``) have higher numbers and are never given out. Arrays by name:

    - counts (int64 [V]): occurrences in the corpus
    - lengths (uint8 [nodes]), heads and lasts (int32 [nodes]): number of words, node of all words but the last (-1 for
      single words), node of the last word
    - offsets (int64), pool (uint8): the UTF-8 bytes of the single words in the order of their nodes, and 8 bytes more
    - words, pairs (uint64): the tables of ``words`` and ``pairs``
    """

    def __init__(
        self, n: int, analyzer: Analyzer, arrays: dict[str, np.ndarray], fingerprint: str | None = None
    ) -> None:
        self.n, self.analyzer, self.arrays = n, analyzer, arrays
        self.counts, self.size = arrays["counts"], len(arrays["counts"])
        self.lengths = arrays["lengths"][: self.size]
        if fingerprint:
            self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"Vocabulary(size={self.size}, n={self.n}, analyzer={self.analyzer!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return Vocabulary, (self.n, self.analyzer, self.arrays, self.__dict__.get("fingerprint"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the n-grams in order, their counts, and how text is read."""
        digest = hashlib.sha256(f"{self.analyzer} {self.n} {self.size}\n".encode())
        digest.update("\n".join(self.ngrams()).encode("utf-8", "surrogatepass"))
        digest.update(self.counts.astype("<i8", copy=False).tobytes())
        return digest.hexdigest()

    def ngrams(self) -> list[str]:
        """The n-grams by id, words joined by one space."""
        lengths, heads, lasts = (self.arrays[name] for name in ("lengths", "heads", "lasts"))
        pool, offsets = self.arrays["pool"].tobytes(), self.arrays["offsets"].tolist()
        found = [""] * len(lengths)
        for place, node in enumerate(np.flatnonzero(lengths == 1).tolist()):
            found[node] = pool[offsets[place] : offsets[place + 1]].decode("utf-8", "surrogatepass")
        for length in range(2, self.n + 1):
            nodes = np.flatnonzero(lengths == length)
            for node, head, last in zip(nodes.tolist(), heads[nodes].tolist(), lasts[nodes].tolist(), strict=True):
                found[node] = f"{found[head]} {found[last]}"
        return found[: self.size]

    def transform(self, texts: Sequence[str] | Sequence[bytes], threads: int = 1) -> Bags:
        """The ids of all n-grams of ``texts`` that are in the vocabulary, as often as they occur.

        Those that scikit-learn's ``CountVectorizer(ngram_range=(1, n), vocabulary=self.ngrams())`` counts (or with
        ``tokenizer=str.split``). In each text shorter n-grams come first, each length in the order of the text. A text
        without any has an empty bag. Bytes must be UTF-8. Threads do not change the result.

        Raises UserError for what is not text, naming the row.
        """
        return bags_of(texts, self.n, threads, self._kernel)

    def _kernel(self, packed: Packed, ids: np.ndarray, at: int, counts: np.ndarray) -> int:
        room, scratch = scratch_for(packed, self.n)
        letters = packed.letters(self.analyzer)
        whitespace = int(self.analyzer == "whitespace")
        return int(ngram_ids(self._book, packed.data, packed.ends, whitespace, letters, room, scratch, ids, at, counts))

    @functools.cached_property
    def _book(self) -> tuple[int, ...]:
        """Addresses and sizes of the tables, as ``ngram_ids`` wants them."""
        words, offsets, pool, pairs = (self.arrays[name] for name in ("words", "offsets", "pool", "pairs"))
        line_bits = [(len(table) // 8).bit_length() - 1 for table in (words, pairs)]
        spelling = offsets.ctypes.data, len(offsets) - 1, pool.ctypes.data
        bits = node_bits(len(self.arrays["lengths"]))
        return (
            *(words.ctypes.data, line_bits[0]), *spelling, *(pairs.ctypes.data, bits, line_bits[1]), self.size, self.n,
        )  # fmt: skip

    def restrict(self, keep: np.ndarray) -> "Vocabulary":
        """The n-grams for which ``keep`` (bool [V]) is True, renumbered in order.

        Raises UserError for another kind of array, or when nothing is kept.
        """
        keep = np.asarray(keep)
        if keep.dtype != np.bool_ or keep.shape != (self.size,):
            raise UserError(
                f"What to keep is {keep.dtype} of shape {list(keep.shape)}; give one bool for each of the "
                f"{self.size:,} n-grams."
            )
        if not keep.any():
            raise UserError("No n-gram would be kept; keep at least one.")
        lengths, heads, lasts = (self.arrays[name] for name in ("lengths", "heads", "lasts"))
        needed = np.zeros(len(lengths), dtype=bool)
        needed[: self.size] = keep
        tails = suffixes(self.arrays["pairs"], lengths, heads, lasts, self.n)
        for length in range(self.n, 1, -1):
            nodes = np.flatnonzero(needed & (lengths == length))
            needed[heads[nodes]] = True
            needed[tails[nodes]] = True
        kept = np.flatnonzero(keep)
        order = np.concatenate([kept, np.setdiff1d(np.flatnonzero(needed), kept)])
        number = np.full(len(lengths) + 1, -1, dtype=np.int32)  # the last entry is for the head of a word, -1
        number[order] = np.arange(len(order), dtype=np.int32)
        place = np.cumsum(lengths == 1) - 1
        pool, offsets = self.arrays["pool"].tobytes(), self.arrays["offsets"].tolist()
        words = [pool[offsets[at] : offsets[at + 1]] for at in place[order[lengths[order] == 1]].tolist()]
        parts = lengths[order], number[heads[order]], number[lasts[order]]
        return assemble(self.counts[keep], *parts, words, self.n, self.analyzer)

    def save(self, path: str | Path) -> None:
        """Write one file that ``load`` maps into memory; it appears whole or not at all."""
        storage.write(Path(path), self.n, self.analyzer, self.fingerprint, self.arrays)

    @staticmethod
    def load(path: str | Path) -> "Vocabulary":
        """The vocabulary of a file, mapped read-only: processes that load it share its memory.

        Raises UserError for a file that is missing, truncated, of another version or of another kind.
        """
        return Vocabulary(*storage.read(Path(path)))


def assemble(
    counts: np.ndarray,
    lengths: np.ndarray,
    heads: np.ndarray,
    lasts: np.ndarray,
    words: list[bytes],
    n: int,
    analyzer: Analyzer,
) -> Vocabulary:
    """A vocabulary from its nodes (see ``Vocabulary``) and the bytes of its single words, in the order of nodes."""
    offsets = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    pool = np.frombuffer(b"".join([*words, bytes(8)]), dtype=np.uint8).copy()
    table = word_table(len(words))
    enter_all(table, np.flatnonzero(lengths == 1), offsets, pool)
    longer = np.flatnonzero(lengths > 1)
    pairs = pair_table(longer, heads[longer], lasts[longer], len(lengths))
    arrays = {"counts": counts, "lengths": lengths, "heads": heads, "lasts": lasts}
    return Vocabulary(n, analyzer, {**arrays, "offsets": offsets, "pool": pool, "words": table, "pairs": pairs})
