"""A trained n-gram student as a small runtime: a folder that predicts from raw strings, without torch.

    table.bin           rows of the table, memory-mapped (see ``rows``)
    head.safetensors    what comes after pooling, fp32
    vocabulary.ngrams   the n-grams, memory-mapped; not there for hashed buckets
    meta.json           sizes, checksums, and how text is read and rows are pooled

Mean, sum and attention pooling are linear, so the first linear layer W goes into the table: W mean(E) = mean(W E). The
student computes the same function without its largest matrix product, and its table shrinks if that layer does. The
maximum is not linear; there the table stays, as it does below a layer that is wider than the table.
"""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from paper_repro.config import Config
from paper_repro.data.ngrams import Analyzer, HashedBuckets, Vocabulary
from paper_repro.data.ngrams.packing import as_rows
from paper_repro.distill.lookup import attention, dense, pack_weight, pool
from paper_repro.distill.rows import PRECISIONS, Precision, encode, stored_columns, stored_dtype
from paper_repro.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paper_repro.zoo.dan import Dan

__all__ = ["PRECISIONS", "Student", "export_student"]

SCHEMA = 1
TABLE, HEAD, VOCABULARY, META = "table.bin", "head.safetensors", "vocabulary.ngrams", "meta.json"
ROWS = 1 << 14  # table rows converted at once
BLOCK = 64  # texts whose pooled rows fit into the second cache
CHARACTERS, LOOK_UPS = 8_192, 3_000  # of a thread's share: with less, waking it takes as long as doing its work


class File(Config):
    """What a file of the folder must be."""

    bytes: int
    sha256: str


class Meta(Config):
    """The contents of meta.json."""

    schema_version: Literal[1]
    precision: Precision
    rows: int
    dim: int  # of a row, after folding
    layers: int  # linear layers that follow the table
    pooling: Literal["mean", "sum", "max", "attention"]
    activation: Literal["relu", "tanh"]
    folded: bool  # the first linear layer is in the table
    features: Literal["vocabulary", "buckets"]
    n: int
    analyzer: Analyzer
    classes: list[str]
    files: dict[str, File]


def export_student(
    model: "Dan",
    features: Vocabulary | HashedBuckets,
    classes: Sequence[str],
    folder: Path,
    precision: Precision = "fp32",
    keep: np.ndarray | None = None,
) -> None:
    """Write ``model`` to ``folder``, which appears whole or not at all. See ``Student.load``.

    ``features``: what the model's ids come from. ``classes``: names, in the order of logits. ``keep`` (bool [V]): the
    n-grams to keep in table and vocabulary; the student then predicts as if texts had no others.

    Raises UserError where these do not fit together, for a model of pairs, weights that are not finite, and a folder
    that exists.
    """
    import torch

    folder, classes = Path(folder), list(classes)
    _check(model, features, classes, folder, precision, keep)
    kept = None if keep is None else np.flatnonzero(keep)
    if keep is not None and isinstance(features, Vocabulary):
        features = features.restrict(keep)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        layers: list[nn.Linear] = [*model.layers, model.head]
        folded = model.pooling != "max" and layers[0].out_features <= layers[0].in_features
        scores = _write_table(model, layers[0] if folded else None, precision, kept, draft / TABLE)
        head = {f"{i}.weight": _array(layer.weight) for i, layer in enumerate(layers) if i or not folded}
        head |= {f"{i}.bias": _array(layer.bias) for i, layer in enumerate(layers)}
        head |= {} if scores is None else {"scores": scores}
        if not all(np.isfinite(values).all() for values in head.values()):
            raise UserError("The student's weights are not all finite; train it again.")
        save_file(head, draft / HEAD)
        if isinstance(features, Vocabulary):
            features.save(draft / VOCABULARY)
        meta = Meta(
            schema_version=1,
            precision=precision,
            rows=features.size,
            dim=layers[0].out_features if folded else layers[0].in_features,
            layers=len(layers),
            pooling=model.pooling,
            activation="tanh" if isinstance(model.activation, torch.nn.Tanh) else "relu",
            folded=folded,
            features="vocabulary" if isinstance(features, Vocabulary) else "buckets",
            n=features.n,
            analyzer=features.analyzer,
            classes=classes,
            files={path.name: _described(path) for path in sorted(draft.iterdir())},
        )
        (draft / META).write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            _refuse_existing(folder)
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check(
    model: "Dan", features: Vocabulary | HashedBuckets, classes: list[str], folder: Path, precision: str,
    keep: np.ndarray | None,
) -> None:  # fmt: skip
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}'; choose {', '.join(PRECISIONS)}.")
    if model.pairs:
        raise UserError("A student of pairs of texts cannot be exported; export one that reads single texts.")
    rows = model.table.num_embeddings
    if rows != features.size:
        raise UserError(
            f"The table has {rows:,} rows but there are {features.size:,} n-grams; give those it was trained with."
        )
    if len(classes) != model.head.out_features or len(set(classes)) != len(classes):
        raise UserError(
            f"The student tells {model.head.out_features} classes apart; give as many different names, not {classes}."
        )
    if keep is not None and not isinstance(features, Vocabulary):
        raise UserError("Hashed buckets have no n-grams to choose from; leave out what to keep, or use a vocabulary.")
    _refuse_existing(folder)


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists already; delete it or choose another folder.")


def _array(tensor: "Tensor") -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _write_table(
    model: "Dan", first: "nn.Linear | None", precision: Precision, kept: np.ndarray | None, path: Path
) -> np.ndarray | None:
    """Write the rows, ``kept`` (None: all), with the layer ``first`` folded in; returns their attention scores."""
    import torch

    table = model.table.weight.detach()
    count = len(table) if kept is None else len(kept)
    scores = np.empty(count, dtype=np.float32) if model.query is not None else None
    console = Console(stderr=True)
    with (
        open(path, "wb") as file,
        torch.no_grad(),
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        for start in bar.track(range(0, count, ROWS), description=f"table {precision}"):
            end = min(start + ROWS, count)
            rows = table[start:end] if kept is None else table[torch.from_numpy(kept[start:end]).to(table.device)]
            rows = rows.float()
            if scores is not None and model.query is not None:
                scores[start:end] = _array(rows @ model.query)
            values = _array(rows if first is None else rows @ first.weight.T)
            if not np.isfinite(values).all():
                raise UserError("The student's table is not all finite; train it again.")
            encode(values, precision).tofile(file)
        file.flush()
        os.fsync(file.fileno())
    return scores


def _described(path: Path) -> File:
    with open(path, "rb") as file:
        return File(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class Student:
    """A deployed student. Threads may share one; processes that load one share its memory, and it can be pickled.

    ``threads``: how many work on one call, or fewer where there is little to do. What a text gets depends on nothing
    but the text: neither on the other texts of the call nor on threads.
    """

    def __init__(self, folder: Path, meta: Meta, features: Vocabulary | HashedBuckets) -> None:
        self.folder, self.meta, self.features, self.threads = folder, meta, features, 1
        self.classes = list(meta.classes)
        raw = np.memmap(folder / TABLE, dtype=stored_dtype(meta.precision), mode="r")
        self.table = np.asarray(raw).reshape(meta.rows, stored_columns(meta.dim, meta.precision))
        head = load_file(folder / HEAD)
        sizes = [meta.dim, *(len(head[f"{i}.bias"]) for i in range(meta.layers))]  # of what each layer reads and gives
        fits = (
            sizes[-1] == len(self.classes) and features.size == meta.rows and not (meta.folded and sizes[1] != sizes[0])
        )
        self._biases = [head[f"{i}.bias"] for i in range(meta.layers)]
        self._weights: list[np.ndarray | None] = [None] * meta.layers
        for i in range(1 if meta.folded else 0, meta.layers):
            weight = head[f"{i}.weight"]
            fits = fits and weight.shape == (sizes[i + 1], sizes[i])
            self._weights[i] = pack_weight(weight)
        if meta.folded:
            self._biases[0] = np.pad(self._biases[0], (0, self.table.shape[1] - meta.dim))
        self._scores = head["scores"] if meta.pooling == "attention" else None
        if not fits or (self._scores is not None and len(self._scores) != meta.rows):
            raise ValueError("the head does not fit the table")
        self._pool: tuple[int, int, ThreadPoolExecutor] | None = None
        self._lock = threading.Lock()

    @staticmethod
    def load(folder: Path | str) -> "Student":
        """The student that ``export_student`` wrote to ``folder``. Maps the table; reads little more than the head.

        Raises UserError when it is not there, of another version, or when a file has another size than it should.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        damaged = UserError(f"The student in {folder} is damaged; export it again.")
        try:
            sizes = {name: (folder / name).stat().st_size for name in meta.files}
        except OSError:
            raise damaged from None
        names = {TABLE, HEAD, VOCABULARY} if meta.features == "vocabulary" else {TABLE, HEAD}
        row = stored_columns(meta.dim, meta.precision) * stored_dtype(meta.precision).itemsize
        if set(sizes) != names or any(sizes[name] != meta.files[name].bytes for name in sizes):
            raise damaged
        if sizes[TABLE] != meta.rows * row or meta.rows < 1:
            raise damaged
        features: Vocabulary | HashedBuckets
        if meta.features == "vocabulary":
            features = Vocabulary.load(folder / VOCABULARY)
        else:
            features = HashedBuckets(meta.rows, meta.n, meta.analyzer)
        try:
            return Student(folder, meta, features)
        except (OSError, SafetensorError, KeyError, ValueError, IndexError):
            raise damaged from None

    def __reduce__(self) -> tuple[object, ...]:
        return _loaded, (self.folder, self.threads)

    def verify(self) -> None:
        """Read every file and compare checksums. Raises UserError for a file that has changed since the export."""
        for name, expected in self.meta.files.items():
            if _described(self.folder / name) != expected:
                raise UserError(f"{self.folder / name} has changed since it was written; export the student again.")

    def predict(self, texts: Sequence[str] | Sequence[bytes]) -> list[str]:
        """The class of each text; of equal logits the first class. Errors as of ``logits``."""
        return [self.classes[best] for best in self.logits(texts).argmax(axis=1).tolist()]

    def logits(self, texts: Sequence[str] | Sequence[bytes]) -> np.ndarray:
        """Logits, float32 [N, C]. Bytes must be UTF-8; a text without known n-grams gets what an empty one gets.

        Raises UserError for a single text, and for what is not text, naming the row.
        """
        rows = as_rows(texts)
        out = np.empty((len(rows), len(self.classes)), dtype=np.float32)

        def part(first: int, last: int) -> None:
            for start in range(first, last, BLOCK):
                end = min(start + BLOCK, last)
                bags = self.features.transform(rows[start:end])
                out[start:end] = self._head(bags.ids, bags.offsets)

        self._share(part, np.cumsum([len(row) + 1 for row in rows]), CHARACTERS)
        return out

    def head(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Logits [N, C] of texts that are already n-grams: ``ids`` (int32 [total], below the table's rows, which is
        not checked) and ``offsets`` (int64 [N + 1])."""
        out = np.empty((len(offsets) - 1, len(self.classes)), dtype=np.float32)

        def part(first: int, last: int) -> None:
            start = offsets[first]
            out[first:last] = self._head(ids[start : offsets[last]], offsets[first : last + 1] - start)

        self._share(part, offsets[1:], LOOK_UPS)
        return out

    def _head(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        shares = np.zeros(0, np.float32) if self._scores is None else attention(self._scores, ids, offsets)
        state = pool(self.table, ids, offsets, shares, self.meta.pooling == "mean", self.meta.pooling == "max")
        for i, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            if i:
                np.tanh(state, out=state) if self.meta.activation == "tanh" else np.maximum(state, 0, out=state)
            state = np.add(state, bias, out=state) if weight is None else dense(state, weight, bias)
        return state[:, : len(self.classes)]

    def _share(self, part: Callable[[int, int], None], ends: np.ndarray, least: int) -> None:
        """``part(first, last)`` of consecutive shares of the texts, each by a thread and with about as much work, at
        least ``least``; ``ends`` (int64 [N]) is the work up to and with each text."""
        if self.threads < 1:
            raise UserError(f"{self.threads} threads cannot work; use at least 1.")
        count = len(ends)
        shares = min(self.threads, int(ends[-1]) // least) if count else 0
        if shares < 2:
            part(0, count)
            return
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, shares) / shares).tolist()
        mine, *others = itertools.pairwise([0, *cuts, count])
        executor = self._executor()
        futures = [executor.submit(part, *share) for share in others]
        part(*mine)
        for future in futures:
            future.result()

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            mine = os.getpid(), self.threads  # a forked child has none of its parent's threads
            if self._pool is None or self._pool[:2] != mine:
                self._pool = *mine, ThreadPoolExecutor(self.threads - 1, thread_name_prefix="student")
            return self._pool[2]


def _loaded(folder: Path, threads: int) -> Student:
    student = Student.load(folder)
    student.threads = threads
    return student


def _read_meta(folder: Path) -> Meta:
    path = folder / META
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version == SCHEMA:
            return Meta.model_validate(raw)
    except OSError:
        raise UserError(f"There is no student in {folder}; give a folder that export_student has written.") from None
    except (ValueError, ValidationError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; export the student again.") from None
    raise UserError(
        f"The student in {folder} is of version {version}, and this program reads version {SCHEMA}; export it again."
    )
