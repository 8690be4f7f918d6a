"""The most frequent n-grams of a corpus: exact, in bounded memory, the same whatever the threads and the chunks.

The rule: more occurrences first; among equals fewer words first; then alphabetical, word by word, by code point. An
n-gram occurs at most as often as its parts and has more words, so its parts rank before it. Therefore:

1. The corpus is read once. Words get numbers, and the corpus goes to a temporary file as numbers.
2. Lengths are counted one after another. Only n-grams of which both parts (all words but the last, all but the first)
   are among the ``size`` best so far can be among the ``size`` best in the end: no other is counted.
3. N-grams of one length are counted in parts, by hash, in a table of fixed size, reading the file once per part; a part
   that does not fit is halved. Of each part only what can still be among the best is kept.

Memory, at most: 300 bytes per distinct word, 150 per n-gram of ``size``, 100 MB, 150 MB more per thread. Disk, in the
folder for temporary files (``TMPDIR``): 8 bytes per word and text of the corpus. Texts are read a megabyte at a time.
"""

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np

from paper_repro.data.ngrams.characters import Analyzer, check
from paper_repro.data.ngrams.counting import SCRATCH, candidates, count_part, number_words, renumber
from paper_repro.data.ngrams.packing import as_rows, pack, refuse_one
from paper_repro.data.ngrams.pairs import node_bits, pair_table
from paper_repro.data.ngrams.transform import scratch_for
from paper_repro.data.ngrams.vocabulary import Vocabulary, assemble
from paper_repro.data.ngrams.words import enter_all, word_table
from paper_repro.errors import UserError

CHUNK = 1 << 20  # characters of text, or places of the corpus, that are handled at once
SLOTS = 1 << 21  # of a counting table, 16 bytes each, five eighths of which can be used

_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


def build_vocabulary(
    texts: Iterable[str] | Iterable[bytes],
    size: int,
    *,
    n: int = 4,
    analyzer: Analyzer = "sklearn",
    threads: int | None = None,
) -> Vocabulary:
    """The ``size`` most frequent 1- to n-grams of ``texts``, or all if there are fewer; ``texts`` is read once.

    ``threads``: None for all cores. Raises UserError for a size, n, analyzer or number of threads that cannot be, for
    what is not text (naming the row), when there are no words at all, and when the disk is full.
    """
    check(n, analyzer)
    if size < 1:
        raise UserError(f"A vocabulary of {size} n-grams is empty; ask for at least 1.")
    if threads is not None and threads < 1:
        raise UserError(f"{threads} threads cannot work; use at least 1, or None for all cores.")
    workers = threads or _cores()
    refuse_one(texts)
    with tempfile.TemporaryDirectory(prefix="ngrams-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "words"
        lexicon = _read(texts, analyzer, path)
        if not lexicon.known:
            raise UserError("The texts hold no words, so there are no n-grams; give texts with words.")
        words = np.memmap(path, dtype=np.int32, mode="r+").view(np.ndarray)
        levels = [_best_words(lexicon, words, size)]
        if n > 1:
            with ThreadPoolExecutor(workers) as pool:
                _count_longer(words, levels, size, n, _Workers(pool, workers), Path(folder) / "nodes")
    return _vocabulary(levels, lexicon, size, n, analyzer)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Level:
    """The best n-grams of one length, in alphabetical order.

    ``keys`` (uint64): place of all words but the last in the level before << 32 | place of the last word in the first
    level; in the first level the word's number in the lexicon. ``counts`` (int64): occurrences.
    """

    keys: np.ndarray
    counts: np.ndarray


@dataclass
class _Lexicon:
    """The distinct words of a corpus, numbered in order of appearance: word i is pool[offsets[i] : offsets[i + 1]]."""

    known: int = 0
    table: np.ndarray = field(default_factory=lambda: word_table(0))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    pool: np.ndarray = field(default_factory=lambda: np.zeros(8, dtype=np.uint8))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def grow(self) -> None:
        """Make room for twice as many words."""
        room = max(1 << 14, 2 * len(self.counts))
        self.offsets, self.counts = _longer(self.offsets, room + 1), _longer(self.counts, room)
        self.pool = _longer(self.pool, 12 * room)
        self.table = word_table(room)
        enter_all(self.table, np.arange(self.known), self.offsets, self.pool)

    def word(self, number: int) -> bytes:
        return self.pool[self.offsets[number] : self.offsets[number + 1]].tobytes()


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(length - len(array), dtype=array.dtype)])


def _read(texts: Iterable[str] | Iterable[bytes], analyzer: Analyzer, path: Path) -> _Lexicon:
    """The words of the corpus; the corpus itself goes to a file as their numbers (int32, -1 after each text)."""
    lexicon = _Lexicon()
    whitespace = int(analyzer == "whitespace")
    with open(path, "wb", buffering=0) as file:
        for rows in _chunks(texts):
            packed = pack(rows)
            room, scratch = scratch_for(packed, 1)
            stream = np.empty(len(packed.data) // 2 + len(rows) + 1, dtype=np.int32)
            how = whitespace, packed.letters(analyzer), room, scratch
            done = end = 0
            while True:
                known = lexicon.table, lexicon.offsets, lexicon.pool, lexicon.counts, lexicon.known
                done, lexicon.known, end = number_words(packed.data, packed.ends, done, *how, *known, stream, end)
                if done == len(rows):
                    break
                lexicon.grow()
            _write(file, stream[:end])
    return lexicon


def _chunks(texts: Iterable[str] | Iterable[bytes]) -> Iterator[list[str]]:
    chunk: list[str | bytes] = []
    row = length = 0
    for text in texts:
        chunk.append(text)
        length += len(text) if hasattr(text, "__len__") else 0  # what is not text is refused below
        if length >= CHUNK or len(chunk) >= CHUNK:
            yield as_rows(chunk, row)
            row += len(chunk)
            chunk, length = [], 0
    yield as_rows(chunk, row)


def _write(file: FileIO, numbers: np.ndarray) -> None:
    rest = memoryview(numbers.tobytes())
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError as error:
        raise UserError(
            f"The corpus as numbers could not be written to {file.name!s} ({error.strerror}); set TMPDIR to a folder "
            "with more room."
        ) from None


def _best_words(lexicon: _Lexicon, words: np.ndarray, size: int) -> _Level:
    """The level of single words; ``words`` becomes the corpus as their places in it, -1 for other words."""
    order = np.array(sorted(range(lexicon.known), key=lexicon.word), dtype=np.int64)
    counts = lexicon.counts[order]
    keep, _ = _best([counts], size)
    order = order[keep[0]]
    places = np.full(lexicon.known + 1, -1, dtype=np.int32)  # the last entry is for -1
    places[order] = np.arange(len(order), dtype=np.int32)
    for at in range(0, len(words), CHUNK):
        words[at : at + CHUNK] = places[words[at : at + CHUNK]]
    return _Level(order.astype(np.uint64), counts[keep[0]])


def _best(counts: Sequence[np.ndarray], size: int) -> tuple[list[np.ndarray], int]:
    """(which n-grams are the ``size`` best, the occurrences below which none is).

    ``counts`` has the occurrences of single words, of pairs ..., each in alphabetical order; bool arrays likewise.
    """
    together = np.concatenate(counts)
    keep, least = np.ones(len(together), dtype=bool), 1
    if len(together) >= size:
        least = int(np.partition(together, len(together) - size)[len(together) - size])
        keep = together > least
        keep[np.flatnonzero(together == least)[: size - np.count_nonzero(keep)]] = True
    return np.split(keep, np.cumsum([len(one) for one in counts])[:-1]), least


@dataclass(frozen=True)
class _Workers:
    pool: ThreadPoolExecutor
    number: int


def _count_longer(words: np.ndarray, levels: list[_Level], size: int, n: int, workers: _Workers, path: Path) -> None:
    """Append the levels of 2 to ``n`` words, as far as there are any."""
    spans = [(at, min(at + CHUNK, len(words))) for at in range(0, len(words), CHUNK)]
    with open(path, "wb", buffering=0) as file:
        for begin, end in spans:
            _write(file, words[begin:end])
    nodes = np.memmap(path, dtype=np.int32, mode="r+").view(np.ndarray)
    for length in range(2, n + 1):
        places = sum(workers.pool.map(lambda span: candidates(nodes, *span), spans))
        if not places:
            break
        level = _count(nodes, words, length, levels, size, places, workers)
        levels.append(level)
        if length < n:
            total = max(len(one.keys) for one in levels)
            parts = (level.keys >> _HALF).astype(np.int64), (level.keys & _LOW).astype(np.int64)
            table, bits = pair_table(np.arange(len(level.keys)), *parts, total), node_bits(total)
            borders = [int(nodes[end]) if end < len(nodes) else -1 for _, end in spans]

            def one(
                span: tuple[int, int], border: int, length: int = length, table: np.ndarray = table, bits: int = bits
            ) -> None:
                renumber(nodes, words, length, *span, border, table, bits, np.empty(SCRATCH, dtype=np.uint8))

            list(workers.pool.map(one, spans, borders))


def _count(
    nodes: np.ndarray, words: np.ndarray, length: int, levels: list[_Level], size: int, places: int, workers: _Workers
) -> _Level:
    """The best n-grams of ``length`` words; ``nodes`` has those one word shorter, ``places`` may begin one."""
    slots = min(SLOTS, max(1 << 13, 1 << (2 * places - 1).bit_length()))
    tables = [np.empty(2 * slots, dtype=np.uint64) for _ in range(workers.number)]
    shorter = [level.counts for level in levels]
    keys, counts = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    new: list[np.ndarray] = []  # pairs of keys and counts that are not among them yet
    least = _best(shorter, size)[1]

    def count(part: int, parts: int) -> np.ndarray | None:
        table = tables.pop()
        try:
            found = count_part(nodes, words, length, part, parts, table, np.empty(SCRATCH, dtype=np.uint8), least)
            return None if found < 0 else table[: 2 * found].reshape(-1, 2).copy()
        finally:
            tables.append(table)

    parts = -(-places // slots)  # few n-grams are all different: a part rarely fills five eighths of its table
    todo = deque((part, parts) for part in range(parts))
    running: dict[Future[np.ndarray | None], tuple[int, int]] = {}
    while todo or running:
        while todo and len(running) < workers.number:
            task = todo.popleft()
            running[workers.pool.submit(count, *task)] = task
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            part, parts = running.pop(done)
            found = done.result()
            if found is None:
                todo.extend(((2 * part, 2 * parts), (2 * part + 1, 2 * parts)))
            else:
                new.append(found)
        if not (todo or running) or sum(map(len, new)) > size:
            keys = np.concatenate([keys, *(one[:, 0] for one in new)])
            counts = np.concatenate([counts, *(one[:, 1].view(np.int64) for one in new)])
            order = np.argsort(keys)
            keep, least = _best([*shorter, counts[order]], size)
            order = order[keep[-1]]
            keys, counts, new = keys[order], counts[order], []
    return _Level(keys, counts)


def _vocabulary(levels: list[_Level], lexicon: _Lexicon, size: int, n: int, analyzer: Analyzer) -> Vocabulary:
    """Rank what the levels hold, and keep the best ``size``."""
    keeps, _ = _best([level.counts for level in levels], size)
    counts = np.concatenate([level.counts[keep] for level, keep in zip(levels, keeps, strict=True)])
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    lengths = np.empty(len(order), dtype=np.uint8)
    heads, lasts = np.full(len(order), -1, dtype=np.int32), rank[order]
    ranks: list[np.ndarray] = []  # of each level: the rank of each n-gram, -1 if it is not kept
    start = 0
    for length, (level, keep) in enumerate(zip(levels, keeps, strict=True), start=1):
        mine = rank[start : start + np.count_nonzero(keep)]
        start += len(mine)
        ranks.append(np.full(len(keep), -1, dtype=np.int32))
        ranks[-1][keep] = mine
        lengths[mine] = length
        if length > 1:
            heads[mine] = ranks[-2][(level.keys[keep] >> _HALF).astype(np.int64)]
            lasts[mine] = ranks[0][(level.keys[keep] & _LOW).astype(np.int64)]
    numbers = levels[0].keys[keeps[0]][np.argsort(ranks[0][keeps[0]])]
    return assemble(counts[order], lengths, heads, lasts, [lexicon.word(int(one)) for one in numbers], n, analyzer)
