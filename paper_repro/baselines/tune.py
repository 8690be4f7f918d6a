"""The baselines by name: fit one, or choose its settings on a validation split."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from paper_repro.baselines import fast_text, nbsvm, static, tfidf_lr
from paper_repro.baselines.base import Fitted
from paper_repro.baselines.fast_text import FastTextSettings
from paper_repro.baselines.nbsvm import NbsvmSettings
from paper_repro.baselines.static import StaticSettings
from paper_repro.baselines.tfidf_lr import TfidfLrSettings
from paper_repro.config import Config
from paper_repro.errors import UserError

BASELINES = {
    "tfidf-lr": "TF-IDF of words and word pairs, logistic regression (scikit-learn)",
    "nbsvm": "linear SVM on log-count ratios of 1- to 3-grams (Wang and Manning 2012; scikit-learn)",
    "fasttext": "mean of hashed word and bigram embeddings, softmax (Joulin et al. 2017; fastText)",
    "model2vec": "MiniLM-L6 folded into one vector per wordpiece, logistic regression (model2vec, scikit-learn)",
}
SEEDED = frozenset({"fasttext"})  # the others give the same result for every seed

# Four settings each. What the grids span was seen on validation splits of IMDB and TREC, never on a test split.
GRIDS: dict[str, tuple[Config, ...]] = {
    # All that logistic regression has: weak penalties suit many classes with few texts (TREC), stronger ones IMDB.
    "tfidf-lr": tuple(TfidfLrSettings(c=c) for c in (3, 10, 30, 100)),
    # The authors' C = 1 and a tenth of it, plain and half interpolated: their beta = 0.25, for two classes, costs ten
    # points and more with fifty.
    "nbsvm": tuple(NbsvmSettings(c=c, beta=beta) for c in (0.1, 1) for beta in (0.5, 1)),
    # fastText's default 5 epochs and its tutorial's 25, at the upper half of the learning rates that it advises (0.1 to
    # 1): at 0.1 five epochs are not enough anywhere. Bigrams, as in its own classification scripts.
    "fasttext": tuple(FastTextSettings(epochs=epochs, lr=lr) for epochs in (5, 25) for lr in (0.5, 1)),
    # model2vec's default 256 components and all 384; vectors of length 1 want a weak penalty.
    "model2vec": tuple(StaticSettings(dims=dims, c=c) for dims in (256, 384) for c in (10, 100)),
}
_FITS: dict[str, Callable[[Sequence[str], np.ndarray, int, Sequence[Any], int], Iterator[Fitted]]] = {
    "tfidf-lr": tfidf_lr.fits,
    "nbsvm": nbsvm.fits,
    "fasttext": fast_text.fits,
    "model2vec": static.fits,
}


def fit(name: str, texts: Sequence[str], labels: np.ndarray, num_classes: int, settings: Config, seed: int) -> Fitted:
    """The baseline ``name`` fitted to texts [N] and labels (integers [N], 0 to num_classes - 1).

    The same for the same seed, and for all seeds unless it is in ``SEEDED``. Raises UserError for an unknown name, no
    texts, texts without a word, labels that do not fit, fewer than two classes among them, a library that is missing.
    """
    return next(_fits(name, texts, labels, num_classes, [settings], seed))


def tuned(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    validation_texts: Sequence[str],
    validation_labels: np.ndarray,
    num_classes: int,
    seed: int,
) -> tuple[Fitted, Config, list[float]]:
    """The best of ``GRIDS[name]`` by validation accuracy (of equals the first), its settings, all accuracies in order.

    It stays as fitted to ``texts``: validation examples are not added, as they are not for any student. Raises
    UserError as ``fit`` does, and for an empty validation split.
    """
    if not len(validation_texts):
        raise UserError("There are no validation texts to choose a baseline's settings by; cut a larger split.")
    grid = GRIDS.get(name, ())
    accuracies: list[float] = []
    for fitted in _fits(name, texts, labels, num_classes, grid, seed):
        accuracy = float(np.mean(fitted.predict(validation_texts) == np.asarray(validation_labels)))
        if accuracy > max(accuracies, default=-1.0):
            best, settings = fitted, grid[len(accuracies)]
        accuracies.append(accuracy)
    return best, settings, accuracies


def _fits(
    name: str, texts: Sequence[str], labels: np.ndarray, num_classes: int, grid: Sequence[Config], seed: int
) -> Iterator[Fitted]:
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1, cutoff=0.0)
        raise UserError(f"There is no baseline '{name}'; did you mean '{near[0]}'?")
    labels = np.asarray(labels)
    _check(texts, labels, num_classes)
    return _FITS[name](texts, labels, num_classes, grid, seed)


def _check(texts: Sequence[str], labels: np.ndarray, num_classes: int) -> None:
    if len(texts) != len(labels):
        raise UserError(f"There are {len(texts)} texts but {len(labels)} labels; give one label for each text.")
    if not len(texts):
        raise UserError("There are no texts to fit a baseline to; give at least two classes of them.")
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= num_classes:
        raise UserError(f"Labels go from {found[0]} to {found[-1]}; they must lie between 0 and {num_classes - 1}.")
    if len(found) < 2:
        raise UserError(f"All texts are of class {found[0]}; give texts of at least two classes.")
    if not any(any(character.isalnum() for character in text) for text in texts):
        raise UserError("None of the texts holds a word; give texts with words in them.")
