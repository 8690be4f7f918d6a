"""fastText (Joulin et al. 2017): hashed word n-grams, their mean embedding, softmax; trained by plain SGD.

What its Python package leaves to its user, or gets wrong, is handled here:

- It reads a file in order and never shuffles it: sorted by class, as IMDB is, it learns nothing. We shuffle, once.
- Lines are examples, and the tokens "</s>" and those starting with the label's prefix have a meaning. Line breaks
  become spaces, and "<" is always a token of its own, so that no text can hold "</s>" or our prefix "<label>".
- Runs repeat exactly with one thread only.
- With numpy 2, ``predict`` of one text fails, and that of a list returns the first probability for all labels (seen
  with fasttext-wheel 0.9.2 and numpy 2.4). The function that both wrap returns plain Python numbers, and is right.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.baselines.base import Fitted, encodable, missing
from paper_repro.config import Config
from paper_repro.errors import UserError
from paper_repro.seeds import numpy_rng

PREFIX = "<label>"
# What the authors' own classification scripts do to a text before training, and "<".
REPLACED = {
    "\n": " ", "<br />": " ", '"': " ", ";": " ", ":": " ",
    "'": " ' ", ".": " . ", ",": " , ", "(": " ( ", ")": " ) ", "!": " ! ", "?": " ? ", "<": " < ",
}  # fmt: skip


class FastTextSettings(Config):
    """``n``: longest word n-gram. ``dim``: of the embeddings. ``lr``: of the first step, falling linearly to zero."""

    n: int = 2
    dim: int = 10
    epochs: int
    lr: float


class FastText(Fitted):
    """Scores are logarithms of probabilities."""

    def __init__(self, num_classes: int, model: Any) -> None:
        super().__init__(num_classes)
        self.model = model
        self.classes = np.array([label_of(name) for name in model.labels], dtype=np.int64)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """As in ``Fitted``, without the scores of the other classes."""
        return np.array([label_of(found[0][1]) for found in self._ranked(texts, 1)], dtype=np.int64)

    def _scores(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        column = {label: number for number, label in enumerate(self.classes.tolist())}
        probabilities = np.zeros((len(texts), len(column)))
        for row, ranked in zip(probabilities, self._ranked(texts, len(column)), strict=True):
            for probability, name in ranked:
                row[column[label_of(name)]] = probability
        return self.classes, np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def _ranked(self, texts: Sequence[str], k: int) -> list[list[tuple[float, str]]]:
        predict = self.model.f.predict
        return [predict(line(text), k, 0.0, "strict") for text in texts]


def fits(
    texts: Sequence[str], labels: np.ndarray, num_classes: int, grid: Sequence[FastTextSettings], seed: int
) -> Iterator[FastText]:
    """One fitted model for each of ``grid``, the same for the same seed: one thread trains.

    Raises UserError where the package is missing or training fails.
    """
    try:
        import fasttext
    except ImportError:
        raise missing("fasttext-wheel") from None
    rng = numpy_rng(seed, "fasttext")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.txt")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{PREFIX}{labels[row]} {line(texts[row])}" for row in rng.permutation(len(texts)))
        draws = int(rng.integers(2**31))
        for settings in grid:
            try:
                model = fasttext.train_supervised(
                    str(path), label=PREFIX, wordNgrams=settings.n, dim=settings.dim, epoch=settings.epochs,
                    lr=settings.lr, thread=1, seed=draws, verbose=0,
                )  # fmt: skip
            except (RuntimeError, ValueError) as error:
                raise UserError(f"fastText could not be trained ({error}); lower lr or give other texts.") from None
            yield FastText(num_classes, model)


def line(text: str) -> str:
    """``text`` as one line of lower-case tokens, with its line break."""
    text = encodable(text).lower()
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    return text + "\n"


def label_of(name: str) -> int:
    """The class that fastText's name for it stands for."""
    return int(name.removeprefix(PREFIX))
