"""How a student reads texts: as n-grams or as word pieces, encoded once per process and text collection."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro import data, zoo
from paper_repro.data.bag_source import BagSource
from paper_repro.data.ngrams import Bags
from paper_repro.data.ragged import join, take
from paper_repro.data.sources import TextSource
from paper_repro.data.text import TextSplit, Tokens
from paper_repro.distill.ngram_student import Features, NgramSpec, logits_of
from paper_repro.distill.teacher import ModelSpec, logits_of_rows
from paper_repro.zoo.dan import Dan

TextRows = tuple[TextSplit, np.ndarray]  # rows (int64 [B]) of a text collection


class NgramReader:
    """Reads texts as the n-grams of ``features``."""

    def __init__(self, features: Features, device: str) -> None:
        self.features, self.device = features, device
        self._known: dict[str, Bags] = {}

    def encode(self, texts: TextSplit) -> Bags:
        """The n-grams of all ``texts``."""
        if texts.fingerprint not in self._known:
            self._known[texts.fingerprint] = self.features.transform(texts.texts, threads=torch.get_num_threads())
        return self._known[texts.fingerprint]

    def source(self, parts: Sequence[TextRows], extra: dict[str, Tensor] | None = None) -> BagSource:
        """Rows of text collections, one after another, for the trainer."""
        bags = join([take(self.encode(texts), rows) for texts, rows in parts])
        labels = np.concatenate([texts.labels[rows] for texts, rows in parts])
        return BagSource(bags, labels, np.arange(len(labels)), device=self.device, extra=extra)

    def build(self, student: NgramSpec, classes: int) -> nn.Module:
        """A fresh model."""
        return student.build(classes, self.features.size).to(self.device)

    def logits(self, model: nn.Module, texts: TextSplit, rows: np.ndarray) -> Tensor:
        """Logits [B, C] on rows of ``texts``."""
        assert isinstance(model, Dan)
        return logits_of(model, take(self.encode(texts), rows), self.device)


class TokenReader:
    """Reads texts as word pieces, cut to ``max_length``."""

    def __init__(self, tokenizer: str, max_length: int, device: str) -> None:
        self.tokenizer, self.max_length, self.device = tokenizer, max_length, device

    def encode(self, texts: TextSplit) -> Tokens:
        """The tokens of all ``texts``."""
        return data.encode(texts, zoo.load_tokenizer(self.tokenizer), self.max_length)

    def source(self, parts: Sequence[TextRows], extra: dict[str, Tensor] | None = None) -> TextSource:
        """Rows of text collections, one after another, for the trainer."""
        tokens = join([take(self.encode(texts), rows) for texts, rows in parts])
        labels = np.concatenate([texts.labels[rows] for texts, rows in parts])
        return TextSource(
            tokens, labels, np.arange(len(labels)), max_length=self.max_length, device=self.device, extra=extra
        )

    def build(self, student: ModelSpec, classes: int) -> nn.Module:
        """A fresh model."""
        return zoo.build(student.model, classes, **student.options).to(self.device)

    def logits(self, model: nn.Module, texts: TextSplit, rows: np.ndarray) -> Tensor:
        """Logits [B, C] on rows of ``texts``."""
        return logits_of_rows(model, self.source([(texts, rows)]), self.device, "fp32", torch.arange(len(rows)))
