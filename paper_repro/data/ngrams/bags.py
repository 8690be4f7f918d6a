"""N-gram ids of many texts, ragged, and the way there that all featurizers share: block by block, thread by thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from paper_repro.data.ngrams.packing import Packed, as_rows, pack
from paper_repro.errors import UserError

BLOCK = 1 << 19  # characters of text that are packed and transformed at once
RUN = 1 << 26  # characters of text whose ids share one piece of memory


@dataclass(frozen=True)
class Bags:
    """N-gram ids of N texts end to end (int32 [total]); text i has ids[offsets[i] : offsets[i + 1]] (offsets int64
    [N + 1]): what ``nn.EmbeddingBag`` with ``include_last_offset`` takes."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


# (texts, ids, at, counts): write their ids to ids[at:] and how many each has to counts; returns the end in ids
Kernel = Callable[[Packed, np.ndarray, int, np.ndarray], int]


def bags_of(texts: Sequence[str] | Sequence[bytes], n: int, threads: int, kernel: Kernel) -> Bags:
    """The ids that ``kernel`` finds, at most ``n`` per word, by ``threads`` threads; the same for any number of them.

    Raises UserError for what is not text, naming the row.
    """
    if threads < 1:
        raise UserError(f"{threads} threads cannot work; use at least 1.")
    rows = as_rows(texts)
    sizes = list(map(len, rows))
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    if sum(sizes) <= BLOCK:  # as below, but a single text or a small batch is not kept waiting
        ids = np.empty(_most(sum(sizes), len(rows), n), dtype=np.int32)
        ids = ids[: kernel(pack(rows), ids, 0, offsets[1:])].copy()
    else:
        whole = np.cumsum(sizes)
        runs = [_run(rows, whole, run, n, threads, kernel, offsets[1:]) for run in _parts(whole, 0, len(rows), RUN)]
        ids = runs[0] if len(runs) == 1 else np.concatenate(runs)
    return Bags(ids, np.cumsum(offsets, out=offsets))


def _most(characters: int, texts: int, n: int) -> int:
    """How many n-grams texts can have. Between two words is another character, and no letter becomes two letters
    in lower case (U+0130 becomes one and a mark), so a text has at most half as many words as characters, rounded up.
    """
    return n * (characters + texts) // 2 + n


def _parts(whole: np.ndarray, first: int, last: int, limit: int) -> list[tuple[int, int]]:
    """Cut rows first..last - 1 into (first, last) of up to ``limit`` characters, at least one row; ``whole`` has the
    characters up to and with each row."""
    parts = []
    while first < last:
        before = int(whole[first - 1]) if first else 0
        end = min(max(first + 1, int(np.searchsorted(whole, before + limit, side="right"))), last)
        parts.append((first, end))
        first = end
    return parts


def _run(
    rows: list[str],
    whole: np.ndarray,
    run: tuple[int, int],
    n: int,
    threads: int,
    kernel: Kernel,
    counts: np.ndarray,
) -> np.ndarray:
    before = int(whole[run[0] - 1]) if run[0] else 0
    # of this much memory only what is written to will exist
    ids = np.empty(_most(int(whole[run[1] - 1]) - before, run[1] - run[0], n), dtype=np.int32)
    end = 0

    def one(block: tuple[int, int], start: int) -> int:
        return kernel(pack(rows[slice(*block)]), ids, start, counts[slice(*block)])

    blocks = _parts(whole, *run, BLOCK)
    if threads == 1:
        for block in blocks:
            end = one(block, end)
    else:
        starts = [
            _most(int(whole[first - 1]) - before, first - run[0], n) if first > run[0] else 0 for first, _ in blocks
        ]
        with ThreadPoolExecutor(threads) as pool:
            stops = pool.map(one, blocks, starts)
            for start, stop in zip(starts, stops, strict=True):  # in order: what is moved is whole, its place is free
                ids[end : end + stop - start] = ids[start:stop]
                end += stop - start
    ids.resize(end, refcheck=False)  # gives the rest back in place
    return ids
