"""Which records each line of Sparse Distillation's figures and tables is, and what the paper has beside it.

Numbers of the paper come from the ledger; here are only the names of its tables' rows and columns.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from paper_repro import stats, timing
from paper_repro.ledger import Ledger, load_ledger
from paper_repro.plots.series import PANEL, Pick, pick
from paper_repro.plots.source import Results
from paper_repro.plots.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, Look

TASKS = {"imdb": "IMDB", "sst2": "SST-2", "trec": "TREC, fine", "trec-coarse": "TREC, coarse"}
MAIN = "kd+ft"  # the method whose student is deployed


def title(dataset: str, _: str = "") -> str:
    """What people call a data set."""
    return TASKS.get(dataset, dataset)


@cache
def ledger() -> Ledger:
    """What the paper says."""
    return load_ledger("sparse")


def quoted(table: str) -> Mapping[tuple[str, str], float]:
    """The numbers of a table of the paper by column and row, in the paper's units."""
    return ledger().tables[table].cells()


def count(text: str) -> float:
    """What "500m", "v10k" or "1b" counts."""
    found = re.fullmatch(r"v?(\d+)([kmb])", text)
    assert found, text
    return int(found[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[found[2]]


# ---------------------------------------------------------------------------------------------------------------------
# The main table


class Student(NamedTuple):
    """A line of table 2: its group, where its accuracy is, its row in the paper, the claims that judge it."""

    series: str
    cell: Pick
    quoted: str = ""
    claims: tuple[str, ...] = ()


STUDENTS = {
    "DAN from scratch": Student("dan", Pick("dan", "scratch"), "scratch"),
    "the same, fine-tuned like KD": Student("dan", Pick("dan", "scratch+ft")),
    "from scratch, n-grams of its own": Student("dan", Pick("dan", "scratch-own"), "", ("N8",)),
    "KD, unlabelled text only": Student("dan", Pick("dan", "kd-c"), "kd-c", ("5",)),
    "KD": Student("dan", Pick("dan", "kd"), "kd", ("1-kd", "N2")),
    "KD + fine-tuning": Student("dan", Pick("dan", MAIN), "kd+ft", ("1 KD+FT over KD", "2", "N1")),
    "LSTM (KD)": Student("others", Pick("lstm", "kd"), "", ("16",)),
    "CNN (KD)": Student("others", Pick("cnn", "kd")),
    "small transformer (KD)": Student("others", Pick("transformer", "kd")),
    "TF-IDF + LR": Student(
        "baselines", Pick("tfidf-lr", "scratch"), "", ("B1 over TF-IDF + LR", "B1-short over TF-IDF + LR")
    ),
    "NBSVM": Student("baselines", Pick("nbsvm", "scratch"), "", ("B1 over NBSVM", "B1-short over NBSVM")),
    "fastText": Student("baselines", Pick("fasttext", "scratch"), "", ("B2",)),
    "model2vec": Student("baselines", Pick("model2vec", "scratch"), "", ("B3",)),
    "teacher": Student("teacher", Pick("dan", "scratch", "teacher/accuracy"), "teacher", ("N3",)),
}
LINEAR = ("TF-IDF + LR", "NBSVM")


def accuracies(results: Results) -> pd.DataFrame:
    """Accuracy of every student of the main table, by data set and row. The teacher is one run."""
    wanted = {(student.series, name): student.cell for name, student in STUDENTS.items()}
    return of_one_teacher(pick(results.metrics, wanted, at="row"))


def of_one_teacher(data: pd.DataFrame) -> pd.DataFrame:
    """``data`` without the intervals of its series 'teacher', which every seed of a student has alike."""
    data.loc[data["series"] == "teacher", ["low", "high", "n"]] = np.nan, np.nan, 1
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Shorter n-grams (table 10), domains (table 6), variants (table 5)

LENGTHS = (1, 2, 3, 4)
NGRAMS = {
    (f"disabled/{method}", n): Pick("dan", method, "accuracy" if n == 4 else f"accuracy/n{n}")
    for method in (MAIN, "kd")
    for n in LENGTHS
} | {("trained", n): Pick("dan" if n == 4 else f"dan-n{n}", "kd") for n in LENGTHS}


class Step(NamedTuple):
    """A line of table 6. In ``method``, SOURCE stands for the data set of the other teacher."""

    series: str
    method: str
    metric: str
    quoted: str
    claims: tuple[str, ...] = ()


DOMAINS = {
    "from scratch on the target": Step("dan", "scratch", "accuracy", "scratch"),
    "the source's teacher": Step("teacher", "from-SOURCE", "teacher/accuracy", "teacher-source", ("13-teacher",)),
    "KD from it, unlabelled text only": Step("dan", "from-SOURCE", "accuracy", "kd-c", ("13",)),
    "... fine-tuned, new head": Step("dan", "from-SOURCE+ft-head", "accuracy", "kd+ft-head", ("13-head",)),
    "... fine-tuned": Step("dan", "from-SOURCE+ft", "accuracy", "kd+ft", ("13-ft",)),
    "the target's own teacher": Step("teacher", "scratch", "teacher/accuracy", "teacher-target"),
}


def domains(results: Results) -> pd.DataFrame:
    """Accuracy by target (dataset), source (model) and row."""
    methods = results.metrics["method"].unique()
    sources = sorted(m.removeprefix("from-") for m in methods if m.startswith("from-") and "+" not in m)
    found = [pick(results.metrics, {}, at="row")]
    for source in sources:
        wanted = {
            (step.series, name): Pick("dan", step.method.replace("SOURCE", source), step.metric)
            for name, step in DOMAINS.items()
        }
        rows = pick(results.metrics, wanted, at="row", panel=source)
        found.append(rows[rows["dataset"].isin(rows.loc[rows["row"] == "the source's teacher", "dataset"])])
    return of_one_teacher(pd.concat(found[1:] or found, ignore_index=True))


class Difference(NamedTuple):
    """Two numbers of a seed that are subtracted, the claim about it, and rows of table 5 with the same difference."""

    a: Pick
    b: Pick
    claim: str
    quoted: tuple[str, str] | None = None


def _variant(model: str, claim: str, quoted: tuple[str, str] | None = None) -> Difference:
    return Difference(Pick(model, "kd"), Pick("dan", "kd"), claim, quoted)


VARIANTS = {
    "attentive pooling": _variant("dan-attention", "6 mean over attentive", ("pooling-attention", "pooling-mean")),
    "sum pooling": _variant("dan-sum", "6 mean over sum", ("pooling-sum", "pooling-mean")),
    "max pooling": _variant("dan-max", "6 mean over max", ("pooling-max", "pooling-mean")),
    "one more hidden layer (256)": _variant("dan-deep", "7 dan-deep", ("head-1000-256", "head-1000")),
    "two more (256, 64)": _variant("dan-deeper", "7 dan-deeper", ("head-1000-256-64", "head-1000")),
    "tanh, as the released code": _variant("dan-tanh", "N7"),
    "tokens split at whitespace": _variant("dan-whitespace", "B7"),
    "hashed n-grams": _variant("dan-hashed", "B6"),
}
STORED = {
    name: Difference(Pick("dan", MAIN, f"accuracy/{name}"), Pick("dan", MAIN, "accuracy/fp32"), f"B4-{name}")
    for name in ("bf16", "int8")
}


# ---------------------------------------------------------------------------------------------------------------------
# Vocabulary and dimension (table 8)


def grid(results: Results) -> pd.DataFrame:
    """Accuracy by size of the table, where there are several.

    Columns: dataset, model, x (n-grams), dimension, y, low, high, n.
    """
    rows = results.metrics[(results.metrics["metric"] == "accuracy") & (results.metrics["split"] == "test")]
    rows = rows[rows["model"].str.fullmatch(r"dan(-v\w+-d\d+)?").astype(bool)]
    rows = rows[rows["dataset"].isin(rows.loc[rows["model"] != "dan", "dataset"])]
    found = []
    for (dataset, model), group in rows.groupby(PANEL):
        student = json.loads(group["param.training"].iloc[0])["student"]
        interval = stats.mean_interval(group["value"].to_numpy())
        found.append((dataset, model, student["vocab"], student["dim"], *interval))
    return pd.DataFrame(found, columns=[*PANEL, "x", "dimension", "y", "low", "high", "n"])


def quoted_grid() -> Iterator[tuple[float, float, float, float]]:
    """Table 8: parameters in the table, n-grams, dimension, accuracy in percent."""
    eight = quoted("T8")
    for (column, row), value in eight.items():
        if (f"{column}-d", row) in eight:
            yield count(column), count(row), eight[f"{column}-d", row], value


# ---------------------------------------------------------------------------------------------------------------------
# Speed

COLUMNS = ("model", "tokenise", "end_to_end")
DEVICES = {"cpu": "cpu-fp32", "cuda": "gpu-fp32"}  # columns of table 12
COMPETITORS = {
    "roberta-large": "RoBERTa-Large", "roberta-large-sorted": "RoBERTa-Large, sorted",
    "distilroberta": "DistilRoBERTa", "distilbert": "DistilBERT", "mobilebert": "MobileBERT", "minilm": "MiniLM-L6",
    "minilm-onnx-int8": "MiniLM-L6, ONNX int8", "lstm": "LSTM", "lstm-256": "LSTM, 256 units",
    "lstm-64": "LSTM, 64 units", "lstm-4": "LSTM, 4 units", "cnn": "CNN", "dan-padded": "DAN, padded look-up",
    "dan-torch": "DAN, torch's look-up", "dan": "DAN", "dan-1core": "DAN, one core", "dan-bf16": "DAN, bf16",
    "dan-int8": "DAN, int8", "dan-int8-1core": "DAN, int8, one core", "tfidf-lr": "TF-IDF + LR", "nbsvm": "NBSVM",
    "fasttext": "fastText", "fasttext-1core": "fastText, one core", "model2vec": "model2vec",
    "sklearn": "scikit-learn's n-grams", "sklearn-1core": "the same, one core",
}  # fmt: skip
QUOTED_AS = {"lstm": "lstm-512", "dan-torch": "dan"}  # rows of table 12 that are called otherwise
PUBLISHED = {"cpu": "dan-torch", "cuda": "dan"}  # the student as the paper has it: on a GPU there is no other


def speeds(results: Results) -> pd.DataFrame:
    """Documents per second of every competitor: medians over rounds with their intervals.

    Columns: dataset, model (the device), competitor, series (model, tokenise or end_to_end), y, low, high, n, machine.
    """
    rows = results.samples[results.samples["model"] == "table-12"]
    found = []
    for (dataset, device, name, key), group in rows.groupby(["dataset", "method", "name", "key"], sort=False):
        competitor, _, column = str(name).partition("/")
        if column in COLUMNS:
            interval = timing.median_interval(1 / group["value"].to_numpy())
            found.append((dataset, device, competitor, column, *interval, results.machines[str(key)]))
    return pd.DataFrame(found, columns=[*PANEL, "competitor", "series", "y", "low", "high", "n", "machine"])


def paper_speed(dataset: str, device: str, competitor: str, suffix: str = "") -> float | None:
    """From table 12, where it has the task, else from table 3 (GPU only); with ``suffix`` -x in RoBERTa-Larges."""
    row = QUOTED_AS.get(competitor, competitor)
    found = quoted("T12").get((f"{dataset}-{DEVICES.get(device)}{suffix}", row))
    return quoted("T3").get((dataset, row + suffix)) if found is None and device == "cuda" else found


class Point(NamedTuple):
    """A kind of points of figure 1: ours have an accuracy and a timed competitor, the paper's are rows of table 12."""

    look: Look
    accuracy: Pick | None = None
    competitor: str = ""
    quoted: tuple[str, ...] = ()


POINTS = {
    "dan": Point(Look("n-gram student (DAN), fp32", BLUE, "s"), Pick("dan", MAIN), "dan"),
    "dan-bf16": Point(Look("the same in bf16", BLUE, "P"), Pick("dan", MAIN, "accuracy/bf16"), "dan-bf16"),
    "dan-int8": Point(Look("the same in int8", BLUE, "d"), Pick("dan", MAIN, "accuracy/int8"), "dan-int8"),
    "tfidf-lr": Point(Look("TF-IDF + logistic regression", ORANGE, "o"), Pick("tfidf-lr", "scratch"), "tfidf-lr"),
    "nbsvm": Point(Look("NBSVM", ORANGE, "v"), Pick("nbsvm", "scratch"), "nbsvm"),
    "fasttext": Point(Look("fastText", VERMILION, "<"), Pick("fasttext", "scratch"), "fasttext"),
    "model2vec": Point(Look("model2vec", VERMILION, ">"), Pick("model2vec", "scratch"), "model2vec"),
    "lstm": Point(Look("LSTM (KD)", PURPLE, "^"), Pick("lstm", "kd"), "lstm"),
    "cnn": Point(Look("CNN (KD)", PURPLE, "X"), Pick("cnn", "kd"), "cnn"),
    "minilm": Point(Look("MiniLM-L6 (our teacher)", BLACK, "*"), Pick("dan", MAIN, "teacher/accuracy"), "minilm"),
    "minilm-int8": Point(
        Look("MiniLM-L6, ONNX int8", BLACK, "p"), Pick("dan", MAIN, "teacher/accuracy"), "minilm-onnx-int8"
    ),
    "paper/dan": Point(Look("paper: DAN", BLUE, "s", hollow=True), quoted=("dan",)),
    "paper/lstm": Point(
        Look("paper: LSTMs", PURPLE, "^", hollow=True), quoted=("lstm-512", "lstm-256", "lstm-64", "lstm-4")
    ),
    "paper/cnn": Point(Look("paper: CNN", PURPLE, "X", hollow=True), quoted=("cnn",)),
    "paper/teacher": Point(Look("paper: RoBERTa-Large", BLACK, "*", hollow=True), quoted=("roberta-large",)),
    "paper/small": Point(
        Look("paper: small BERTs", GREEN, "o", hollow=True), quoted=("distilroberta", "distilbert", "mobilebert")
    ),
}
