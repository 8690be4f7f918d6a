"""The n-gram student of a task: what it reads, its model, its predictions with parts of the table switched off."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from paper_repro import zoo
from paper_repro.config import Config, sha256_key
from paper_repro.data.bag_source import BagSource
from paper_repro.data.ngrams import Bags, HashedBuckets, Vocabulary, build_vocabulary
from paper_repro.data.text import TextSplit
from paper_repro.paths import cache_dir
from paper_repro.train import predict
from paper_repro.zoo.dan import Dan

BATCH = 256  # texts per forward pass of an evaluation

Features = Vocabulary | HashedBuckets
TextRows = tuple[TextSplit, np.ndarray]  # some rows of a text collection


class NgramSpec(Config):
    """An n-gram student: its features and its architecture (see ``zoo.dan``)."""

    name: str = "dan"  # what records call it
    vocab: int  # at most so many n-grams, the most frequent; or buckets
    dim: int
    n: int = 4
    analyzer: Literal["sklearn", "whitespace"] = "sklearn"
    hashed: bool = False  # buckets instead of a vocabulary
    hidden: tuple[int, ...] | None = None
    pooling: Literal["mean", "sum", "max", "attention"] = "mean"
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.1
    feature_dropout: float = 0.1

    def build(self, num_classes: int, rows: int) -> Dan:
        """A fresh model with a table of ``rows`` rows, from torch's global generator."""
        options = self.model_dump(include={"dim", "hidden", "pooling", "activation", "dropout", "feature_dropout"})
        model = zoo.build("dan", num_classes, vocab=rows, **options)
        assert isinstance(model, Dan)
        return model

    def features(self, texts: Sequence[TextRows]) -> Features:
        """The most frequent n-grams of ``texts``, cached as a memory-mapped file that processes share; or buckets."""
        if self.hashed:
            return HashedBuckets(self.vocab, self.n, self.analyzer)
        names = [[split.fingerprint, sha256_key(rows.tolist())] for split, rows in texts]
        key = sha256_key({"texts": names, "size": self.vocab, "n": self.n, "analyzer": self.analyzer})
        path = cache_dir() / "ngrams" / f"{key}.ngrams"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                stream = (split.texts[row] for split, rows in texts for row in rows)
                build_vocabulary(stream, self.vocab, n=self.n, analyzer=self.analyzer, threads=1).save(path)
        return Vocabulary.load(path)


def only(bags: Bags, keep: np.ndarray) -> Bags:
    """``bags`` without the n-grams for which ``keep`` (bool [V]) is False."""
    kept = keep[bags.ids]
    return Bags(bags.ids[kept], np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[bags.offsets])


def counts(bags: Bags, size: int) -> np.ndarray:
    """How often each of ``size`` n-grams occurs in ``bags``, int64 [size]."""
    return np.bincount(bags.ids, minlength=size)


def most_frequent(occurrences: np.ndarray, share: float) -> np.ndarray:
    """Bool [V]: the ``share`` of the table with the most ``occurrences`` [V]; among equals the smaller ids."""
    keep = np.zeros(len(occurrences), dtype=bool)
    keep[np.argsort(-occurrences, kind="stable")[: round(share * len(occurrences))]] = True
    return keep


def logits_of(model: Dan, bags: Bags, device: str) -> Tensor:
    """Logits [N, C] on the CPU of all texts of ``bags``."""
    texts = len(bags.offsets) - 1
    source = BagSource(bags, np.zeros(texts, np.int64), np.arange(texts), device=device)
    return predict(model, source, BATCH, device=device)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each row [N], in nats."""
    return F.cross_entropy(logits.double(), labels, reduction="none")
