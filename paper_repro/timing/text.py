"""Speed of text classifiers from raw text to label: tables 3, 9, 11 and 12 of Sparse Distillation (arXiv 2110.08536v2).

The paper's own architectures and sizes at random weights, which cost what trained ones do, on real texts. All of them
read the same kind of batch, so that a slow one can be timed on one batch and a fast one on many; see ``alike_batches``.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from paper_repro import data, seeds
from paper_repro.config import Config
from paper_repro.data.corpora import CorpusSpec
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir
from paper_repro.stats import Interval
from paper_repro.timing.harness import Measurement, measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import median_interval, ratio, summarise, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads

Column = Literal["model", "tokenise", "end_to_end"]
COLUMNS: tuple[Column, ...] = ("model", "tokenise", "end_to_end")
READ = "machine/read"  # what memory gives when it is read from end to end
READ_BYTES = 1 << 30
WARM = 200  # characters of the two texts on which everything is called once before it is timed


class Net(Config):
    """A model of the zoo that reads sub-words; ``name`` is what samples and metrics call it.

    With ``parts`` > 1 it runs a batch in so many parts of alike lengths, and is timed end to end only.
    """

    name: str
    model: str
    parts: int = Field(default=1, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)
    tokenizer: Literal["bpe", "wordpiece"] = "bpe"


SUBWORDS = 50_265  # of RoBERTa, whose table of 50,265 x 1,024 the paper's LSTM and CNN use
_TABLE = {"vocab_size": SUBWORDS, "embedding": 1024}
NETS = (
    Net(name="roberta-large", model="roberta-large"),
    Net(name="roberta-large-sorted", model="roberta-large", parts=4),
    Net(name="distilroberta", model="distilroberta"),
    Net(name="distilbert", model="distilbert", tokenizer="wordpiece"),
    Net(name="mobilebert", model="mobilebert", tokenizer="wordpiece"),
    Net(name="minilm", model="minilm-l6", tokenizer="wordpiece"),
    *(
        Net(name=name, model="lstm", options={**_TABLE, "hidden": hidden, "layers": 2})
        for name, hidden in (("lstm", 512), ("lstm-256", 256), ("lstm-64", 64), ("lstm-4", 4))
    ),
    Net(name="cnn", model="cnn", options={**_TABLE, "channels": 256, "window": 7}),
)
STUDENTS = ("dan", "dan-bf16", "dan-int8", "dan-torch", "dan-padded")
PEERS = ("sklearn", "tfidf-lr", "nbsvm", "fasttext", "model2vec", "minilm-onnx-int8")


class TextTiming(Config):
    """A timing table. Without changes it is the paper's, on IMDB.

    ``corpora``: unlabelled texts which, with the training set, the n-gram vocabulary and the sub-words are learnt from.
    ``students`` and ``peers``: of ``STUDENTS`` and ``PEERS``; those whose work we share out among cores can have the
    ending "-1core" and then use one. ``rows`` x ``dim``: the student's table. ``fitted_on``: training texts of the
    trained peers. ``documents``: at most so many test texts. ``block_s``: about the seconds of one block, that is of
    one competitor's turn in one column, except where a single batch takes longer. ``threads``: None for all cores.
    """

    dataset: str
    corpora: tuple[CorpusSpec, ...] = ()
    nets: tuple[Net, ...] = NETS
    students: tuple[str, ...] = (*STUDENTS, "dan-1core", "dan-int8-1core")
    peers: tuple[str, ...] = (*PEERS, "sklearn-1core", "fasttext-1core")
    reference: str = "roberta-large"
    rows: int = Field(default=1_000_000, gt=1)
    dim: int = Field(default=1_000, gt=0)
    batch: int = Field(default=32, gt=0)
    max_length: int = Field(default=512, gt=2)
    subwords: int = Field(default=SUBWORDS, gt=300)
    fitted_on: int = Field(default=4_000, gt=0)
    documents: int | None = Field(default=None, gt=0)
    rounds: int = Field(default=6, gt=0)
    block_s: float = Field(default=1.0, gt=0)
    threads: int | None = Field(default=None, gt=0)


class Cost(NamedTuple):
    """Of a competitor, None where unknown. ``table_bytes`` and ``table_rows``: of a table of n-grams."""

    params: float | None = None
    disk_bytes: float | None = None
    memory_bytes: float | None = None
    table_bytes: float | None = None
    table_rows: int = 1


@dataclass(frozen=True)
class Competitor:
    """``tokenise`` makes a batch of texts an input, ``model`` gives its logits or classes, ``end_to_end`` the labels.

    A column without a function is not timed. ``tokeniser``: competitors with the same name of it tokenise alike, and
    the first of them is timed for all. ``about`` goes into the protocol.
    """

    tokenise: Callable[[list[str]], Any] | None
    model: Callable[[Any], Any] | None
    end_to_end: Callable[[list[str]], Sequence[str]] | None
    tokeniser: str
    cost: Cost
    about: dict[str, Any]

    def function(self, column: Column) -> Callable[[Any], Any] | None:
        """What is timed in ``column``."""
        return {"model": self.model, "tokenise": self.tokenise, "end_to_end": self.end_to_end}[column]


def time_text_models(
    config: TextTiming, *, device: str = "cpu", machine: Machine | None = None, seed: int = 0
) -> dict[str, Any]:
    """Time the competitors of ``config``, interleaved in this process; networks on ``device``, the rest on the CPU.

    Returns the parts of one result record, as ``time_models`` does. ``samples``: ``<competitor>/<column>``, seconds per
    document, one per round, and ``<competitor>/<column>_other_cores``. ``metrics``: ``<competitor>/<column>_per_s``
    (documents per second, median over rounds with /low, /high of its 95 % interval, /cv and /flagged rounds),
    ``speedup/<competitor>/<column>`` over the reference (median of the quotients per round with /low and /high),
    ``<competitor>/params``, ``<competitor>/disk_bytes`` and ``memory/<competitor>`` (bytes of weights when loaded); of
    n-gram students also the bytes of the table, look-ups per document, ns and bytes of each, the different rows looked
    up, and bytes/s next to those of ``machine/read``, what memory gives when it is read in order.

    A competitor for which a package or a file is missing is left out and the reason given in the protocol. Raises
    UserError for unknown names, too few test texts and a reference that is not timed.
    """
    from paper_repro.timing.competitors import Materials, build
    from paper_repro.timing.workers import Family

    parent = cache_dir()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="timing-", dir=parent) as folder:
        materials = Materials(config, device, Path(folder), seed)
        try:
            test = data.load_texts(config.dataset, "test").texts
            batches = alike_batches(test, config.batch, config.documents, seed)
            competitors, skipped = build(materials)
            if config.reference not in competitors:
                reason = skipped.get(config.reference, "it is not among nets, students and peers")
                raise UserError(f"The reference '{config.reference}' is not timed ({reason}); name another.")
            read = torch.ones(min(READ_BYTES, 4 * config.rows * config.dim) // 4)
            getattr(os, "sync", _nothing)()  # no table is written out while something is timed
            materials.read_tables()
            with pinned_threads(materials.threads), torch.inference_mode():
                passes = _passes(competitors, batches, config.block_s, device_sync(device))
                found = measure(
                    {**{name: one.run for name, one in passes.items()}, READ: partial(torch.sum, read)},
                    rounds=config.rounds,
                    block_s=config.block_s / 2,  # a pass that lasts a little less than a block is not run twice
                    warmup=1,
                    mode="throughput",
                    sync=device_sync(device),
                    machine=machine or Family(gpu=torch.device(device).type == "cuda"),
                    seed=seed,
                )
            return _report(materials.protocol(), competitors, skipped, passes, found, config, test, read.nbytes)
        finally:
            materials.close()


def alike_batches(texts: Sequence[str], size: int, documents: int | None = None, seed: int = 0) -> list[list[str]]:
    """Batches of ``size`` texts, in each the same lengths; the first are the most typical.

    Texts, sorted by their number of characters, are cut into ``size`` equal parts; every batch has one text of each
    part, drawn at random and without repeats, in the order of the data set. So any number of batches has nearly the
    same lengths, on average and spread, as the whole. The batches whose mean is nearest to that of all come first.
    Texts that do not fill a batch are left out. Raises UserError for fewer texts than a batch.
    """
    count = min(len(texts), documents or len(texts)) // size
    if count == 0:
        raise UserError(f"There are {len(texts):,} texts to time, less than a batch of {size}; make the batch smaller.")
    lengths = np.array([len(text) for text in texts])
    rng = seeds.numpy_rng(seed, "timing batches")
    drawn = [rng.permutation(part)[:count] for part in np.array_split(np.argsort(lengths, kind="stable"), size)]
    rows = np.sort(np.stack(drawn, axis=1), axis=1)
    typical = np.argsort(np.abs(lengths[rows].mean(axis=1) - lengths.mean()), kind="stable")
    return [[texts[row] for row in batch] for batch in rows[typical]]


class Pass:
    """One call of a competitor: its function on each of the first batches, one after another."""

    def __init__(self, function: Callable[[Any], Any], inputs: list[Any], texts: list[list[str]]) -> None:
        self.function, self.inputs, self.texts = function, inputs, texts
        self.documents = sum(len(batch) for batch in texts)

    def run(self) -> None:
        """Do it."""
        for one in self.inputs:
            self.function(one)


def as_many_as_fit(
    function: Callable[[Any], Any],
    prepare: Callable[[list[str]], Any],
    batches: list[list[str]],
    block_s: float,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Pass:
    """A pass over as many of the first ``batches`` as take about ``block_s`` seconds, at least one, at most all.

    ``prepare`` makes the function's input of a batch, outside the timing. What a first call costs is paid on two
    short texts. A batch that takes longer than a block is called once.
    """
    function(prepare([text[:WARM] for text in batches[0][:2]]))
    if len(batches) == 1:
        return Pass(function, [prepare(batches[0])], batches)
    inputs: list[Any] = []
    take, elapsed = 1, 0.0
    while True:
        inputs += [prepare(batch) for batch in batches[len(inputs) : take]]
        sync()
        started = clock()
        for one in inputs:
            function(one)
        sync()
        elapsed = clock() - started
        if elapsed >= block_s / 4 or take == len(batches):
            break
        take = min(2 * take, len(batches))
    wanted = min(len(batches), max(1, round(block_s * take / elapsed))) if elapsed > 0 else len(batches)
    inputs = inputs[:wanted] + [prepare(batch) for batch in batches[len(inputs) : wanted]]
    return Pass(function, inputs, batches[:wanted])


def _passes(
    competitors: Mapping[str, Competitor], batches: list[list[str]], block_s: float, sync: Callable[[], None]
) -> dict[str, Pass]:
    """The pass of every column that is timed, by the name of its samples."""
    found: dict[str, Pass] = {}
    tokenised = set()
    for name, one in competitors.items():
        if one.model is not None and one.tokenise is not None:
            found[f"{name}/model"] = as_many_as_fit(one.model, one.tokenise, batches, block_s, sync)
        if one.tokenise is not None and one.tokeniser not in tokenised:
            found[f"{name}/tokenise"] = as_many_as_fit(one.tokenise, _same, batches, block_s, sync)
            tokenised.add(one.tokeniser)
        if one.end_to_end is not None:
            model = found.get(f"{name}/model")  # where one batch fills a block without tokenising, so it does with it
            few = batches if model is None or len(model.inputs) > 1 else batches[:1]
            found[f"{name}/end_to_end"] = as_many_as_fit(one.end_to_end, _same, few, block_s, sync)
    return found


def _nothing() -> None:
    pass


def _same(texts: list[str]) -> list[str]:
    return texts


# ---------------------------------------------------------------------------------------------------------------------
# What is reported


def _report(
    protocol: dict[str, Any],
    competitors: Mapping[str, Competitor],
    skipped: dict[str, str],
    passes: Mapping[str, Pass],
    found: Measurement,
    config: TextTiming,
    test: Sequence[str],
    read_bytes: int,
) -> dict[str, Any]:
    samples: dict[str, list[float]] = {}
    timed_as = _sources(competitors, passes)
    metrics: list[dict[str, Any]] = []
    cost: dict[str, float | None] = {}
    for name, source in timed_as.items():
        one, documents = found[source], passes[source].documents
        samples[name] = [seconds / documents for seconds in one.block_s]
        samples[f"{name}_other_cores"] = one.other_cores
        metrics += _series(f"{name}_per_s", "1/s", [1 / seconds for seconds in samples[name]], one.flags)
    for name in timed_as:
        reference = f"{config.reference}/{name.rpartition('/')[2]}"
        if reference in samples:
            metrics += with_limits(f"speedup/{name}", "ratio", ratio(samples[reference], samples[name]), "test")
    for name, competitor in competitors.items():
        for key, value, unit in (
            (f"{name}/params", competitor.cost.params, "parameters"),
            (f"{name}/disk_bytes", competitor.cost.disk_bytes, "byte"),
            (f"{name}/table_bytes", competitor.cost.table_bytes, "byte"),
            (f"memory/{name}", competitor.cost.memory_bytes, "byte"),
        ):
            if value is not None:
                metrics.append(_metric(key, value, unit))
                cost[key] = value
    samples[READ] = [seconds / read_bytes for seconds in found[READ].block_s]
    metrics += _series(f"{READ}_bytes_per_s", "byte/s", [1 / seconds for seconds in samples[READ]], found[READ].flags)
    for name, competitor in competitors.items():
        if competitor.cost.table_bytes is not None:
            row_bytes = competitor.cost.table_bytes / competitor.cost.table_rows
            metrics += _look_ups(name, row_bytes, passes[f"{name}/model"], samples)
    alike = {name: source for name, source in timed_as.items() if name != source}
    protocol = found.protocol | protocol | _described(competitors, passes, test) | {
        "columns": {
            "model": "inputs made and collated before; logits or classes",
            "tokenise": "raw texts to ids, collated",
            "end_to_end": "raw texts to the names of their classes",
        },
        "timed_as": alike,
        "skipped": skipped,
        "reference": config.reference,
        "batches_per_call": {name: len(one.inputs) for name, one in passes.items()},
        "documents_per_call": {name: one.documents for name, one in passes.items()},
        "mean_characters": {name: _mean_characters(one) for name, one in passes.items()},
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
    }  # fmt: skip
    return {"metrics": metrics, "samples": samples, "cost": cost, "protocol": protocol, "clocks": found.clocks}


def _sources(competitors: Mapping[str, Competitor], passes: Mapping[str, Pass]) -> dict[str, str]:
    """By the name of samples the pass they come from: its own, or that of the first that tokenises alike."""
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, one in competitors.items():
        for column in COLUMNS:
            if one.function(column) is None:
                continue
            key = f"{name}/{column}"
            if column == "tokenise":
                first.setdefault(one.tokeniser, key)
            source = first[one.tokeniser] if column == "tokenise" else key
            if source in passes:
                found[key] = source
    return found


def _look_ups(name: str, row_bytes: float, one: Pass, samples: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Bytes that an n-gram student moves, and how fast, next to reading memory in order."""
    looked_up = np.concatenate([np.asarray(inputs.ids) for inputs in one.inputs])
    each = len(looked_up) / one.documents
    seconds = np.array(samples[f"{name}/model"])
    return [
        _metric(f"{name}/look_ups_per_document", each, "look-ups"),
        _metric(f"{name}/bytes_per_look_up", row_bytes, "byte"),
        _metric(f"{name}/distinct_rows", len(np.unique(looked_up)), "rows"),
        *with_limits(f"{name}/look_up_ns", "ns", median_interval(1e9 * seconds / each), "test"),
        *with_limits(f"{name}/bytes_per_s", "byte/s", median_interval(each * row_bytes / seconds), "test"),
        *with_limits(f"{name}/share_of_read", "ratio", ratio(samples[READ], seconds / (each * row_bytes)), "test"),
    ]


def _described(
    competitors: Mapping[str, Competitor], passes: Mapping[str, Pass], test: Sequence[str]
) -> dict[str, Any]:
    return {
        "competitors": {name: one.about for name, one in competitors.items()},
        "documents": "the labelled test texts, the same in every round, so that rows of a table that they look up are "
        "in a cache if it is large enough: see <student>/distinct_rows",
        "batches": "each has one text of every equal part of the texts sorted by characters, so all competitors see "
        "the same lengths however many batches a call has; the batches nearest to the mean come first",
        "mean_characters_of_all": float(np.mean([len(text) for text in test])),
        "padding": "sub-words to the longest text of the batch, or of its part where a batch is run in parts of alike "
        "lengths; n-grams not at all, but for dan-padded",
        "longest": max(len(text) for one in passes.values() for batch in one.texts for text in batch),
    }


def _mean_characters(one: Pass) -> float:
    return float(np.mean([len(text) for batch in one.texts for text in batch]))


def _series(name: str, unit: str, values: Sequence[float], flags: list[list[str]]) -> list[dict[str, Any]]:
    summary = summarise(values, flags)
    return [
        *with_limits(name, unit, Interval(*summary[:3], summary.n), "test"),
        _metric(f"{name}/median_unflagged", summary.median_unflagged, unit, summary.n),
        _metric(f"{name}/cv", summary.cv, "ratio", summary.n),
        _metric(f"{name}/flagged", summary.flagged, "rounds", summary.n),
    ]


def _metric(name: str, value: float, unit: str, n: int | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "split": "test", "n": n}
