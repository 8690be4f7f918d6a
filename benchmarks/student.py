"""The deployed student at the paper's size: what a look-up costs, and how far from the memory's limit it is.

A table of 1M x 1,000, one hidden layer of 1,000, two classes, batches of 32, in fp32, bf16 and int8, against torch's
``embedding_bag`` and the padded B x L x d gather of the paper's released code. Both of these read the same fp32 table
with its padding columns (torch would copy a table that it had to skip columns of), and have the hidden layer that our
student has folded into its table. Documents are IMDB test texts where there is a data root (the vocabulary is that of
IMDB's train and unsupervised texts); else only the model is timed, on 488 ids a document from Zipf's law. The memory's
limit is a plain sum over a piece of the table that no cache holds, in the same rounds.

One thread is timed in CPU seconds, so that neighbours disturb less; several by the wall clock. The tables hold one
random block again and again: speed does not depend on what they hold. They stay in the cache folder (7 GB), and are
read once before anything is timed.

    python -m benchmarks.student [--threads 1] [--rounds 10] [--rows 1000000] [--dim 1000]
"""

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from paper_repro.data.load import open_split
from paper_repro.data.ngrams import Bags, HashedBuckets, Vocabulary, build_vocabulary
from paper_repro.distill.export import META, TABLE, Meta, Student, export_student
from paper_repro.distill.rows import PRECISIONS, Precision
from paper_repro.paths import cache_dir, data_root
from paper_repro.timing import Measurement, measure, pinned_threads, ratio, summarise
from paper_repro.zoo.dan import Dan

BATCH, CLASSES = 32, ["negative", "positive"]
PIECE = 4096  # rows that a table repeats
ZIPF_IDS = 488
STREAM_BYTES = 1 << 28
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Batches to predict: their n-grams, and their texts where there are any."""

    bags: list[Bags]
    texts: list[list[str]]
    vocabulary: Vocabulary | None

    @property
    def ids_per_document(self) -> float:
        return sum(len(bags.ids) for bags in self.bags) / (BATCH * len(self.bags))


def imdb(rows: int, documents: int) -> Work:
    """Batches of random IMDB test texts."""
    path = cache_dir() / "benchmarks" / f"imdb-{rows}.ngrams"
    if not path.exists():
        splits = (open_split("imdb", split).strings("text") for split in ("train", "unsupervised"))
        path.parent.mkdir(parents=True, exist_ok=True)
        build_vocabulary(itertools.chain.from_iterable(splits), rows).save(path)
    vocabulary = Vocabulary.load(path)
    texts = open_split("imdb", "test").strings("text")
    order = np.random.default_rng(0).permutation(len(texts))[: documents // BATCH * BATCH]
    batches = [[texts[row] for row in part] for part in order.reshape(-1, BATCH)]
    return Work([vocabulary.transform(batch) for batch in batches], batches, vocabulary)


def zipf(rows: int, documents: int) -> Work:
    """Batches of documents whose n-gram of rank r has probability proportional to 1 / r."""
    rng = np.random.default_rng(0)
    offsets = np.arange(BATCH + 1) * ZIPF_IDS

    def bags() -> Bags:
        ranks = np.exp(rng.random(BATCH * ZIPF_IDS) * np.log(rows)).astype(np.int32) - 1
        return Bags(ranks, offsets)

    return Work([bags() for _ in range(documents // BATCH)], [], None)


def stretched(folder: Path, rows: int, dim: int, precision: Precision) -> Student:
    """A student with ``rows`` rows, its table a small one's again and again; kept in ``folder``."""
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        torch.manual_seed(0)
        piece = min(PIECE, rows)
        export_student(Dan(len(CLASSES), piece, dim), HashedBuckets(piece), CLASSES, draft, precision)
        content = memoryview((draft / TABLE).read_bytes())
        row = len(content) // piece
        with open(draft / TABLE, "wb") as file:
            for start in range(0, rows, piece):
                file.write(content[: min(piece, rows - start) * row])
        meta = Meta.model_validate_json((draft / META).read_text(encoding="utf-8"))
        table = meta.files[TABLE].model_copy(update={"bytes": rows * row})
        meta = meta.model_copy(update={"rows": rows, "files": {**meta.files, TABLE: table}})
        (draft / META).write_text(meta.model_dump_json(), encoding="utf-8")
        draft.rename(folder)
    return Student.load(folder)


@torch.inference_mode()
def with_torch(table: Tensor, layers: list[tuple[Tensor, Tensor]], padded: bool, bags: Bags) -> Tensor:
    """The student as one writes it in torch."""
    ids, offsets = torch.from_numpy(bags.ids), torch.from_numpy(bags.offsets)
    if padded:
        lengths = offsets.diff()
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        matrix = torch.zeros(mask.shape, dtype=torch.int32)
        matrix[mask] = ids
        state = (F.embedding(matrix, table) * mask[..., None]).sum(1) / lengths[:, None].clamp(min=1)
    else:
        state = F.embedding_bag(ids, table, offsets, mode="mean", include_last_offset=True)
    state = F.relu(F.linear(state, *layers[0]))
    return F.linear(state, *layers[1])


@numba.njit(nogil=True)
def stream(words: np.ndarray) -> int:
    """The sum of ``words`` (int64): a plain read of memory."""
    total = 0
    for i in range(len(words)):
        total += words[i]
    return total


def head(student: Student, bags: Bags) -> np.ndarray:
    """Our model alone."""
    return student.head(bags.ids, bags.offsets)


def cycling(function: Callable[[T], object], batches: Sequence[T]) -> Callable[[], object]:
    """Calls ``function`` with the next batch each time."""
    turn = itertools.cycle(batches)
    return lambda: function(next(turn))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1_000)
    parser.add_argument("--documents", type=int, default=6_400)
    arguments = parser.parse_args()
    rows, dim = arguments.rows, arguments.dim

    work = (imdb if data_root() else zipf)(rows, arguments.documents)
    root = cache_dir() / "benchmarks" / f"student-{rows}x{dim}"
    root.mkdir(parents=True, exist_ok=True)
    students = {precision: stretched(root / precision, rows, dim, precision) for precision in PRECISIONS}
    for student in students.values():
        student.threads = arguments.threads
        student.table.view(np.uint8)[:, ::512].max()  # page it in
        if work.vocabulary is not None:
            student.features = work.vocabulary

    raw = students["fp32"].table
    table = torch.from_file(str(root / "fp32" / TABLE), shared=False, size=raw.size).view(raw.shape)
    generator = torch.Generator().manual_seed(0)
    widths = [raw.shape[1], dim, len(CLASSES)]
    layers = [(torch.randn(b, a, generator=generator) / a**0.5, torch.zeros(b)) for a, b in itertools.pairwise(widths)]
    piece = raw.reshape(-1)[-STREAM_BYTES // 4 :].view(np.int64)
    competitors: dict[str, Callable[[], object]] = {
        "memory": partial(stream, piece),
        "embedding_bag": cycling(partial(with_torch, table, layers, False), work.bags),
        "padded": cycling(partial(with_torch, table, layers, True), work.bags),
    }
    for name, student in students.items():
        competitors[name] = cycling(partial(head, student), work.bags)
    if work.vocabulary is not None:
        transform = work.vocabulary.transform
        competitors["texts to ids"] = cycling(partial(transform, threads=arguments.threads), work.texts)
        competitors["embedding_bag, end to end"] = cycling(
            lambda texts: with_torch(table, layers, False, transform(texts, threads=arguments.threads)), work.texts
        )
        for name, student in students.items():
            competitors[f"{name}, end to end"] = cycling(student.predict, work.texts)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    with pinned_threads(arguments.threads):
        timed = measure(competitors, rounds=arguments.rounds, mode="throughput", warmup=1, clock=clock)
    report(timed, work, students, arguments.threads)
    return 0


def report(timed: Measurement, work: Work, students: dict[Precision, Student], threads: int) -> None:
    """Print what was measured; every interval is 95 % over rounds."""
    limit = STREAM_BYTES / summarise(timed["memory"].block_s).median
    ids = work.ids_per_document
    busy = float(np.median([other for samples in timed.values() for other in samples.other_cores]))
    widths = {name: student.table.strides[0] for name, student in students.items()}
    shown = Table(
        title=f"{threads} thread(s), batch {BATCH}, {ids:.0f} look-ups a document, plain read {limit / 1e9:.1f} GB/s "
        f"(one thread), {busy:.2f} cores busy with other things"
    )
    columns = (
        "",
        "documents/s",
        "times embedding_bag [95 %]",
        "ns a look-up",
        "KB a document",
        "GB/s",
        "of plain read",
    )
    for column in columns:
        shown.add_column(column, justify="left" if not column else "right")
    for name, samples in timed.items():
        if name == "memory":
            continue
        seconds = summarise(samples.block_s).median / BATCH
        base = "embedding_bag, end to end" if "end to end" in name else "embedding_bag"
        times = ratio(timed[base].block_s, samples.block_s)
        cells = [name, f"{1 / seconds:,.0f}", f"{times.estimate:.2f} [{times.low:.2f}, {times.high:.2f}]"]
        if name in widths or name == "embedding_bag":
            moved = ids * widths[name if name in widths else "fp32"]
            speed = moved / seconds
            cells += [f"{1e9 * seconds / ids:.0f}", f"{moved / 1e3:,.0f}", f"{speed / 1e9:.1f}", f"{speed / limit:.0%}"]
        shown.add_row(*cells)
    Console(width=140).print(shown)


if __name__ == "__main__":
    sys.exit(main())
