"""What every baseline is once it is fitted, and what several of them share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_repro.errors import UserError

# Words with their apostrophe ("don't") and single punctuation marks: scikit-learn's own pattern drops what is shorter
# than two characters, and with it "n't", "!" and "?".
TOKENS = r"\w+(?:'\w+)?|[^\w\s]"
UNSEEN = -1e4  # the score of a class without a training example: finite, and below all others


class Fitted(ABC):
    """A fitted baseline."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Classes int64 [N]; of equal scores the first class wins."""
        return self.scores(texts).argmax(1).astype(np.int64)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [N, C], the highest for the predicted class; what they mean is the baseline's own."""
        scores = np.full((len(texts), self.num_classes), UNSEEN)
        if texts:
            classes, columns = self._scores(texts)
            scores[:, classes] = columns
        return scores

    @abstractmethod
    def _scores(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The classes [K] that training has seen, and their scores [N, K], N > 0."""


def two_columns(decision: np.ndarray) -> np.ndarray:
    """Scores [N, 2] from those of the second class [N, 1], which scikit-learn gives for two classes; else unchanged.

    The softmax of the two is the logistic function of the one.
    """
    return np.hstack([-decision / 2, decision / 2]) if decision.shape[1] == 1 else decision


def logistic_scores(model: Any, features: Any) -> np.ndarray:
    """Logits [N, K] of a scikit-learn LogisticRegression, up to a constant per text."""
    return two_columns(model.decision_function(features).reshape(features.shape[0], -1))


def encodable(text: str) -> str:
    """``text`` with "?" for lone surrogates, which C++ and Rust libraries refuse."""
    return text.encode("utf-8", "replace").decode()


def missing(package: str) -> UserError:
    """The one sentence for a library that is not installed."""
    return UserError(
        f"This baseline needs {package}, which is not installed; run 'pip install paper_repro[baselines]'."
    )
