"""Made-up but plausible records of Sparse Distillation, for whatever reads results. Needs no torch.

In the world as it stands every claim of the ledger holds; ``changes`` says what is otherwise.
"""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_titans import CODE, ENVIRONMENT

from paper_repro.config import sha256_key
from paper_repro.results import Metric, Record, Store

Cell = tuple[str, str, str]  # dataset, model, method
TEACHERS = {"imdb": 0.92, "sst2": 0.89, "trec": 0.93, "trec-coarse": 0.97}
METHODS = {  # accuracy of the main student on imdb, sst2, trec
    "scratch": (0.870, 0.790, 0.770), "scratch+ft": (0.871, 0.792, 0.773), "kd-train": (0.869, 0.789, 0.768),
    "kd-u25": (0.885, 0.810, 0.850), "scratch-own": (0.872, 0.793, 0.772), "kd-c": (0.897, 0.842, 0.895),
    "kd": (0.900, 0.840, 0.895), "kd+ft": (0.910, 0.855, 0.915),
}  # fmt: skip
TRANSFER = {
    ("imdb", "from-sst2"): 0.880, ("imdb", "from-sst2+ft"): 0.895, ("imdb", "from-sst2+ft-head"): 0.889,
    ("sst2", "from-imdb"): 0.810, ("sst2", "from-imdb+ft"): 0.845, ("sst2", "from-imdb+ft-head"): 0.825,
}  # fmt: skip
ABLATIONS = {  # on imdb, method kd
    "dan-sum": 0.899, "dan-max": 0.890, "dan-attention": 0.8995, "dan-tanh": 0.9003, "dan-deep": 0.8995,
    "dan-deeper": 0.899, "dan-whitespace": 0.9005, "dan-hashed": 0.8995, "dan-n1": 0.870, "dan-n2": 0.890,
    "dan-n3": 0.8995, "dan-v1m-d10": 0.893, "dan-v1m-d30": 0.898, "dan-v333k-d30": 0.8945, "dan-v333k-d90": 0.8995,
    "dan-v100k-d100": 0.896, "dan-v100k-d300": 0.901,
}  # fmt: skip
OTHERS = {"lstm": (0.910, 0.860, 0.90), "cnn": (0.88, 0.81, 0.88), "transformer": (0.89, 0.83, 0.89)}  # method kd
BASELINES = {
    "tfidf-lr": (0.895, 0.815, 0.84), "nbsvm": (0.900, 0.82, 0.85), "fasttext": (0.890, 0.81, 0.83),
    "model2vec": (0.850, 0.80, 0.82),
}  # fmt: skip
DETERMINISTIC = ("tfidf-lr", "nbsvm", "model2vec")
DISABLED = {1: 0.16, 2: 0.015, 3: 0.001}  # what is lost when only n-grams of up to that length are left
SECONDS = {  # per document of imdb: model, tokenise
    "roberta-large": (0.7, 3e-4), "distilbert": (0.1, 3e-4), "mobilebert": (0.13, 3e-4), "distilroberta": (0.1, 3e-4),
    "lstm": (0.02, 3e-4), "cnn": (0.004, 3e-4), "dan": (9.3e-5, 1.5e-5), "dan-bf16": (7e-5, 1.5e-5),
    "dan-int8": (5.5e-5, 1.5e-5), "dan-torch": (1.9e-4, 1.5e-5), "dan-padded": (1.02e-3, 1.5e-5),
    "dan-1core": (1.7e-4, 3e-5), "roberta-large-sorted": (0.68, 3e-4), "minilm": (0.05, 3e-4),
    "tfidf-lr": (2e-5, 4e-4), "nbsvm": (2e-5, 4e-4), "fasttext": (1e-4, 7e-5), "model2vec": (2e-5, 4e-4),
    "minilm-onnx-int8": (0.02, 3e-4), "sklearn": (None, 7e-4), "sklearn-1core": (None, 1.4e-3),
}  # fmt: skip
LOOK_UPS = {
    "dan/table_bytes": 4e9, "dan/look_ups_per_document": 496.0, "dan/bytes_per_look_up": 4000.0,
    "dan/look_up_ns": 180.0, "dan/look_up_ns/low": 175.0, "dan/look_up_ns/high": 185.0, "dan/bytes_per_s": 2.2e10,
    "dan/share_of_read": 0.9,
}  # fmt: skip
SHORT = {"imdb": 1.0, "sst2": 0.05, "trec": 0.05}  # how much of imdb's time a document takes


def write_sparse(root: Path, tier: str = "cpu", **options: Any) -> None:
    """Write ``sparse_records`` under ``root``."""
    for record in sparse_records(tier, **options):
        Store(root).write(record)


def sparse_records(
    tier: str = "cpu", seeds: int = 5, changes: Mapping[Cell, Mapping[str, float]] | None = None
) -> list[Record]:
    """Teachers, students, baselines and timings of ``tier``, which times on cuda when it is 'gpu'.

    ``changes``: for a cell, other means of its metrics, or other seconds of its samples.
    """
    changes = changes or {}
    found = []
    for dataset, accuracy in TEACHERS.items():
        values = {"accuracy": accuracy, "cross_entropy": 0.2}
        found.append(_record(tier, "teacher", (dataset, "minilm-l6", "teacher"), 0, values))
    for cell, accuracy in _accuracies().items():
        for seed in range(1 if cell[1] in DETERMINISTIC else seeds):
            values = _student(cell, accuracy) | dict(changes.get(cell, {}))
            found.append(_record(tier, "student", cell, seed, values))
    device = "cuda" if tier == "gpu" else "cpu"
    for dataset in SHORT:
        cell = (dataset, "table-12", device)
        found.append(_timing(tier, cell, _seconds(dataset) | dict(changes.get(cell, {}))))
    step = {f"v{size}{rows}/step": 0.01 for size in ("10k", "100k", "1m", "10m") for rows in ("", "-first-rows")}
    step |= {"v10m/step": 0.011, "torch-v1m/step": 0.05}
    cell = ("synthetic", "step", device)
    return [*found, _timing(tier, cell, step | dict(changes.get(cell, {})))]


def _accuracies() -> dict[Cell, float]:
    tasks = ("imdb", "sst2", "trec")
    found = {(task, "dan", method): row[i] for method, row in METHODS.items() for i, task in enumerate(tasks)}
    found |= {("trec-coarse", "dan", method): row[2] + 0.04 for method, row in METHODS.items()}
    found |= {(task, "dan", method): accuracy for (task, method), accuracy in TRANSFER.items()}
    found |= {("imdb", model, "kd"): accuracy for model, accuracy in ABLATIONS.items()}
    for model, row in OTHERS.items():
        found |= {(task, model, "kd"): row[i] for i, task in enumerate(tasks)}
        found |= {(task, model, "scratch"): row[i] - 0.03 for i, task in enumerate(tasks)}
    return found | {
        (task, model, "scratch"): row[i] for model, row in BASELINES.items() for i, task in enumerate(tasks)
    }


def _student(cell: Cell, accuracy: float) -> dict[str, float]:
    dataset, model, method = cell
    if model in BASELINES:
        return {"accuracy": accuracy}
    agreement = accuracy - 0.05 if "kd" in method else accuracy - 0.1
    values = {
        "accuracy": accuracy, "cross_entropy": 0.3, "teacher/accuracy": TEACHERS[dataset], "agreement": agreement,
    }  # fmt: skip
    if method.startswith("from-"):  # another task's teacher
        values["teacher/accuracy"] -= 0.025
    if model != "dan" or method not in ("kd", "kd+ft"):
        return values
    for n, loss in DISABLED.items():
        values |= {f"accuracy/n{n}": accuracy - loss, f"vocabulary/n{n}": 10.0 ** (4 + n / 2)}
    for share, loss in (("0.01", 0.06), ("0.03", 0.02), ("0.1", 0.01), ("0.3", 0.002)):
        values |= {f"accuracy/keep-train/{share}": accuracy - loss, f"accuracy/keep-all/{share}": accuracy - 2 * loss}
    values |= {"accuracy/fp32": accuracy, "accuracy/bf16": accuracy, "accuracy/int8": accuracy - 0.0003}
    start = 0.4 if method == "kd" else 0.36
    values |= {f"cross_entropy/coverage-q{quarter}": start - 0.03 * quarter for quarter in (1, 2, 3, 4)}
    values |= {"vocabulary/n4": 1e6, "slope/coverage": -0.8, "ngrams/per-example": 490.0}
    values |= {"coverage/v0-in-train": 0.8, "coverage/v0-in-test": 0.79, "coverage/test-by-v0": 0.08}
    return values | {"coverage/test-by-v0-and-train": 0.07}


def _seconds(dataset: str) -> dict[str, float]:
    found = {}
    for competitor, (model, tokenise) in SECONDS.items():
        if model is None:
            found[f"{competitor}/tokenise"] = tokenise * SHORT[dataset]
            continue
        model = model * SHORT[dataset] * (1.0 if competitor == "roberta-large" else 2 - SHORT[dataset])
        columns = {"model": model, "tokenise": tokenise * SHORT[dataset]}
        found |= {f"{competitor}/{column}": value for column, value in columns.items()}
        found[f"{competitor}/end_to_end"] = sum(columns.values())
    return found


def _timing(tier: str, cell: Cell, seconds: Mapping[str, float]) -> Record:
    rng = np.random.default_rng(zlib.crc32("/".join(cell).encode()))
    samples = {name: value * rng.lognormal(0, 0.01, 7) for name, value in seconds.items()}
    per_s = {f"{name}_per_s": 1 / float(np.median(values)) for name, values in samples.items()}
    reference = {
        name.partition("/")[2]: values for name, values in samples.items() if name.startswith("roberta-large/")
    }
    speedups = {
        f"speedup/{name}": float(np.median(reference[column] / values))
        for name, values in samples.items()
        if (column := name.partition("/")[2]) in reference
    }
    others = LOOK_UPS if cell[1] == "table-12" else {}
    return _record(tier, "timing", cell, 0, per_s | speedups | others, samples)


def _record(
    tier: str, experiment: str, cell: Cell, seed: int, values: Mapping[str, float],
    samples: dict[str, Any] | None = None,
) -> Record:  # fmt: skip
    """Students of one repetition share most of their luck; each has a little of its own, exported ones none."""
    dataset, model, method = cell
    luck = 0.0
    if experiment == "student":
        together, own = (np.random.default_rng([zlib.crc32(name.encode()), seed]) for name in (dataset, "/".join(cell)))
        luck = 0.002 * together.normal() + 0.0003 * own.normal()
    share = {"accuracy": 1, "agreement": 1, "cross_entropy": -2}
    moved = {name: value + luck * share.get(name.partition("/")[0], 0) for name, value in values.items()}
    metrics = [Metric(name=name, value=value, unit="fraction", split="test") for name, value in moved.items()]
    if experiment == "student":
        metrics.append(Metric(name="accuracy", value=moved["accuracy"], unit="fraction", split="validation"))
    return Record(
        paper="sparse", experiment=experiment, tier=tier, dataset=dataset, model=model, method=method, seed=seed,
        key=sha256_key([tier, experiment, *cell, seed]), params=_params(model), metrics=metrics, samples=samples or {},
        clocks={"train_s": 20.0, "total_s": 23.0}, protocol={"threads": 2}, environment=[ENVIRONMENT], code=CODE,
        started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:00:23+00:00",
    )  # fmt: skip


def _params(model: str) -> dict[str, Any]:
    """What the configuration says of an n-gram student's table."""
    if not model.startswith("dan"):
        return {}
    size = re.fullmatch(r"dan-v(\d+)(k|m)-d(\d+)", model)
    vocab, dim = (int(size[1]) * {"k": 1_000, "m": 1_000_000}[size[2]], int(size[3])) if size else (1_000_000, 100)
    return {"training": {"student": {"vocab": vocab, "dim": dim}}}
