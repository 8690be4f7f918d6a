"""NBSVM: a linear SVM on log-count ratios of n-grams (Wang and Manning 2012, ACL P12-2018, section 2.3).

A text is the set of its 1- to n-grams, f in {0, 1}^V. For one class against the rest,

    r = log((p / |p|_1) / (q / |q|_1)),   p = 1 + sum of f over the class, q = 1 + sum of f over the rest,

an L2-regularised SVM with squared hinge loss is fitted to f * r, and its weights w are drawn towards the mean of their
absolute values: w' = (1 - beta) |w|_1 / V + beta w. With two classes one problem serves both; with more, the class
with the highest margin wins (our choice: the paper has two classes only).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from paper_repro.baselines.base import TOKENS, Fitted, two_columns
from paper_repro.config import Config


class NbsvmSettings(Config):
    """``n``: longest n-gram. ``min_texts``: texts an n-gram must occur in. ``c``: inverse strength of the L2 penalty.
    ``beta``: 1 is the plain SVM on ratios.
    """

    n: int = 3
    min_texts: int = 2
    c: float
    beta: float


class Nbsvm(Fitted):
    """Scores are margins, half of them on each side with two classes; they are not calibrated."""

    def __init__(
        self, num_classes: int, classes: np.ndarray, vectorizer: Any, weights: np.ndarray, biases: np.ndarray
    ) -> None:
        super().__init__(num_classes)
        self.classes, self.vectorizer, self.weights, self.biases = classes, vectorizer, weights, biases

    def _scores(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.classes, two_columns(self.vectorizer.transform(texts) @ self.weights + self.biases)


def fits(
    texts: Sequence[str], labels: np.ndarray, num_classes: int, grid: Sequence[NbsvmSettings], seed: int
) -> Iterator[Nbsvm]:
    """One fitted model for each of ``grid``. Deterministic: ``seed`` is not used."""
    from sklearn.feature_extraction.text import CountVectorizer

    classes = np.unique(labels)
    sought = classes[1:] if len(classes) == 2 else classes
    for (n, least), of_length in groupby(grid, key=lambda settings: (settings.n, settings.min_texts)):
        vectorizer = CountVectorizer(
            ngram_range=(1, n), min_df=least, token_pattern=TOKENS, binary=True, dtype=np.float32
        )
        found = vectorizer.fit_transform(texts)
        for c, alike in groupby(of_length, key=lambda settings: settings.c):
            problems = [one_against_rest(found, labels == label, c) for label in sought]
            biases = np.array([problem.bias for problem in problems])
            for settings in alike:
                weights = np.stack([problem.weights(settings.beta) for problem in problems], axis=1)
                yield Nbsvm(num_classes, classes, vectorizer, weights, biases)


class Problem(NamedTuple):
    """One class against the rest: log-count ratios [V], the weights [V] that the SVM gave them, and its bias."""

    ratio: np.ndarray
    svm: np.ndarray
    bias: float

    def weights(self, beta: float) -> np.ndarray:
        """Weights float32 [V] of the n-grams themselves, interpolated by ``beta``."""
        drawn = (1 - beta) * np.abs(self.svm).mean() + beta * self.svm
        return (self.ratio * drawn).astype(np.float32)


def one_against_rest(found: Any, inside: np.ndarray, c: float) -> Problem:
    """The rows ``inside`` (bool [N]) of ``found`` (sparse 0/1 [N, V]) against the others."""
    from scipy.sparse import diags_array
    from sklearn.svm import LinearSVC

    ratio = log_count_ratio(found, inside).astype(np.float32)
    svm = LinearSVC(C=c, dual=True, random_state=0, max_iter=10_000).fit(found @ diags_array(ratio), inside)
    return Problem(ratio, svm.coef_[0], float(svm.intercept_[0]))


def log_count_ratio(found: Any, inside: np.ndarray) -> np.ndarray:
    """r float64 [V] of the rows ``inside`` (bool [N]) of ``found`` (sparse 0/1 [N, V]) against the others."""
    within = 1.0 + found[inside].sum(axis=0, dtype=np.float64)
    without = 1.0 + found[~inside].sum(axis=0, dtype=np.float64)
    return np.asarray(np.log(within / within.sum()) - np.log(without / without.sum())).ravel()
