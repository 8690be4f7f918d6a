"""What ablations ask of one trained n-gram student: parts of its table switched off, coverage, other precisions."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paper_repro.data.ngram_sets import distinct, ngram_hashes, token_hashes
from paper_repro.data.ngrams import Bags, Vocabulary
from paper_repro.distill.export import PRECISIONS, Student, export_student
from paper_repro.distill.ngram_student import accuracy, counts, logits_of, most_frequent, only
from paper_repro.results.schema import Metric
from paper_repro.zoo.dan import Dan

SHARES = (0.01, 0.03, 0.1, 0.3)  # of the n-grams that pruning keeps; the paper's figure 5 speaks of 3 %


def metric(name: str, value: float, unit: str = "fraction", n: int | None = None, split: str = "test") -> Metric:
    """A metric of the test split, unless said otherwise."""
    return Metric(name=name, value=float(value), unit=unit, split=split, n=n)


def shorter_ngrams(model: Dan, vocabulary: Vocabulary, test: Bags, labels: Tensor, device: str) -> list[Metric]:
    """Accuracy with n-grams of more than n words switched off, without retraining (table 10)."""
    found = [metric(f"vocabulary/n{vocabulary.n}", vocabulary.size, "n-grams")]
    for n in range(1, vocabulary.n):
        keep = np.asarray(vocabulary.lengths) <= n
        logits = logits_of(model, only(test, keep), device)
        found += [
            metric(f"accuracy/n{n}", accuracy(logits, labels), n=len(labels)),
            metric(f"vocabulary/n{n}", int(keep.sum()), "n-grams"),
        ]
    return found


def pruned(model: Dan, vocabulary: Vocabulary, train: Bags, test: Bags, labels: Tensor, device: str) -> list[Metric]:
    """Accuracy with a share of the n-grams kept: the most frequent in D_train, or in C and D_train (figure 5)."""
    rankings = {"train": counts(train, vocabulary.size), "all": np.asarray(vocabulary.counts, dtype=np.int64)}
    found = []
    for name, occurrences in rankings.items():
        for share in SHARES:
            logits = logits_of(model, only(test, most_frequent(occurrences, share)), device)
            found.append(metric(f"accuracy/keep-{name}/{share:g}", accuracy(logits, labels), n=len(labels)))
    return found


def coverage(texts: list[str], test: Bags, losses: Tensor, n: int) -> list[Metric]:
    """How the loss [N] falls with the share of a text's n-grams that the table has (figure 6).

    Mean loss by quartile of the share, and the slope of a least-squares line. The share's denominator is the text's own
    number of n-grams (the paper's formula prints |V|; surely |G| is meant). Texts without any are left out.
    """
    words = np.diff(token_hashes(texts)[1])
    total = sum(np.maximum(words - length + 1, 0) for length in range(1, n + 1))
    some = np.flatnonzero(total)
    share, loss = np.diff(test.offsets)[some] / total[some], losses.numpy()[some]
    order = np.array_split(np.argsort(share, kind="stable"), 4)
    found = [
        metric(f"cross_entropy/coverage-q{quarter}", loss[rows].mean(), "nat", len(rows))
        for quarter, rows in enumerate(order, start=1)
    ]
    return [*found, metric("slope/coverage", np.polyfit(share, loss, 1)[0], "nat", len(some))]


def overlaps(
    vocabulary: Vocabulary, train_texts: list[str], train: Bags, test_texts: list[str], test: Bags
) -> list[Metric]:
    """Shares of the table seen in D_train and in the test set, and of the test set's n-grams in both (table 13)."""
    seen = {name: counts(bags, vocabulary.size) > 0 for name, bags in (("train", train), ("test", test))}
    of_train, of_test = (
        distinct(ngram_hashes(*token_hashes(texts), vocabulary.n)) for texts in (train_texts, test_texts)
    )
    return [
        metric("coverage/v0-in-train", seen["train"].mean()),
        metric("coverage/v0-in-test", seen["test"].mean()),
        metric("coverage/test-by-v0", seen["test"].sum() / of_test),
        metric("coverage/test-by-v0-and-train", (seen["train"] & seen["test"]).sum() / of_test),
        metric("ngrams/distinct-train", of_train, "n-grams", split="train"),
        metric("ngrams/distinct-test", of_test, "n-grams"),
        metric("ngrams/per-example", np.diff(test.offsets).mean(), "n-grams"),
    ]


def exported(model: Dan, vocabulary: Vocabulary, classes: list[str], texts: list[str], labels: Tensor) -> list[Metric]:
    """Accuracy of the deployed student, from raw strings, in each precision, and its largest logit error."""
    found: list[Metric] = []
    reference: Tensor | None = None
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            export_student(model, vocabulary, classes, Path(folder) / "student", precision=precision)
            logits = torch.from_numpy(Student.load(Path(folder) / "student").logits(texts))
        reference = logits if reference is None else reference
        found += [
            metric(f"accuracy/{precision}", accuracy(logits, labels), n=len(labels)),
            metric(f"logit_error/{precision}", float((logits - reference).abs().max()), "logit"),
        ]
    return found
