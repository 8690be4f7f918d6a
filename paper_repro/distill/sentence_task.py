"""A text classification task without a teacher: its splits, models, loss and quality."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from paper_repro import data, zoo
from paper_repro.data.sources import TextSource
from paper_repro.data.wordpiece import own_wordpieces
from paper_repro.distill.classification_task import ClassificationTask, Rows
from paper_repro.distill.teacher import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OWN = re.compile(r"wordpiece-(\d+)")  # a tokenizer trained on the data set's own texts


class SentenceTask(ClassificationTask):
    """The labelled texts of one data set.

    A model's ``tokenizer`` "wordpiece-4096" is one of 4,096 pieces trained on the texts of the training file (their
    labels are not looked at); others are those of ``zoo.load_tokenizer``.
    """

    unit = "texts"

    def __init__(self, dataset: str, validation_fraction: float, device: str) -> None:
        self.parts = {split: data.load_texts(dataset, split) for split in ("train", "test")}
        super().__init__(dataset, self.parts, validation_fraction, device, data.phrase_groups(dataset))
        self.tokenizer = cache(self._tokenizer)

    def _tokenizer(self, name: str) -> "Tokenizer":
        size, train = OWN.fullmatch(name), self.parts["train"]
        return own_wordpieces(train.texts, train.fingerprint, int(size[1])) if size else zoo.load_tokenizer(name)

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """With the size of the vocabulary where it is one of our own; others are what the model was made for."""
        if not OWN.fullmatch(spec.tokenizer):
            return spec.options
        return {**spec.options, "vocab_size": self.tokenizer(spec.tokenizer).get_vocab_size()}

    def source(
        self, spec: ModelSpec, rows: Rows, *, only: np.ndarray | None = None, extra: dict[str, Tensor] | None = None
    ) -> TextSource:
        """The examples of a split as ``spec`` reads them; ``extra`` [N, ...] goes with them into batches."""
        texts = self.parts["test" if rows == "test" else "train"]
        tokens = data.encode(texts, self.tokenizer(spec.tokenizer), spec.max_length)
        return TextSource(
            tokens, texts.labels, self.chosen(rows, only), max_length=spec.max_length, device=self.device, extra=extra
        )

    def flops(self, spec: ModelSpec) -> float:
        """FLOPs of one forward pass per text of ``max_length`` tokens: an upper bound, as most are shorter."""
        return zoo.cost(spec.model, len(self.classes), spec.max_length, **self.options(spec))["flops_per_example"]
