"""TF-IDF of word n-grams, then logistic regression: what anyone tries first."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from paper_repro.baselines.base import TOKENS, Fitted, logistic_scores
from paper_repro.config import Config


class TfidfLrSettings(Config):
    """``n``: longest n-gram. ``c``: inverse strength of the L2 penalty."""

    n: int = 2
    c: float


class TfidfLr(Fitted):
    """Scores are logits."""

    def __init__(self, num_classes: int, vectorizer: Any, model: Any) -> None:
        super().__init__(num_classes)
        self.vectorizer, self.model = vectorizer, model

    def _scores(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.model.classes_, logistic_scores(self.model, self.vectorizer.transform(texts))


def fits(
    texts: Sequence[str], labels: np.ndarray, num_classes: int, grid: Sequence[TfidfLrSettings], seed: int
) -> Iterator[TfidfLr]:
    """One fitted model for each of ``grid``. Deterministic: lbfgs from zero, so ``seed`` is not used."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    for n, alike in groupby(grid, key=lambda settings: settings.n):
        vectorizer = TfidfVectorizer(ngram_range=(1, n), token_pattern=TOKENS, sublinear_tf=True, dtype=np.float32)
        features = vectorizer.fit_transform(texts)
        for settings in alike:
            model = LogisticRegression(C=settings.c, max_iter=1000).fit(features, labels)
            yield TfidfLr(num_classes, vectorizer, model)
