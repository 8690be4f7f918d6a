"""What classification tasks on images and on sentences have in common: splits, loss and quality."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import data, seeds, zoo
from paper_repro.data.sources import ImageSource, TextSource
from paper_repro.distill.teacher import ModelSpec
from paper_repro.results.schema import Metric
from paper_repro.train import Batch, predict

Rows = Literal["train", "validation", "test"]


class ClassificationTask(ABC):
    """The examples of one task, split, and what all its models are trained for.

    ``label`` is what records call the data set, ``fingerprint`` names the training examples' content, ``rows`` the
    row numbers of each split.
    """

    unit: str

    def __init__(
        self, dataset: str, parts: dict[str, Any], validation_fraction: float, device: str,
        groups: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.dataset, self.device, self.label = dataset, device, data.label(dataset)
        train, test = parts["train"], parts["test"]
        self.classes = train.classes
        self.fingerprint, self.test_fingerprint = train.fingerprint, test.fingerprint
        self.split = data.stratified_split(
            train.labels, validation_fraction, seeds.derive(0, "validation", dataset=self.label), groups=groups
        )
        self.rows = {
            "train": self.split.train, "validation": self.split.validation, "test": np.arange(len(test.labels))
        }  # fmt: skip

    def chosen(self, rows: Rows, only: np.ndarray | None) -> np.ndarray:
        """Row numbers of a split, or those at the places ``only`` of it."""
        return self.rows[rows] if only is None else self.rows[rows][only]

    @abstractmethod
    def source(
        self, spec: ModelSpec, rows: Rows, *, only: np.ndarray | None = None, extra: dict[str, Tensor] | None = None
    ) -> ImageSource | TextSource:
        """The examples of a split as ``spec`` reads them."""

    def build(self, spec: ModelSpec, seed: int, **axes: int) -> nn.Module:
        """A fresh model; all arms of one repetition start from the same. Other ``axes`` give other weights."""
        torch.manual_seed(seeds.derive(seed, "init", dataset=self.label, model=spec.model, **axes))
        return zoo.build(spec.model, len(self.classes), **self.options(spec)).to(self.device)

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """What ``zoo.build`` is told beside the name."""
        return spec.options

    def task_loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of logits [B, C] with the labels."""
        return F.cross_entropy(logits.float(), batch["label"], label_smoothing=label_smoothing)

    def quality(self, spec: ModelSpec, model: nn.Module, rows: Rows, only: np.ndarray | None = None) -> list[Metric]:
        """Accuracy and cross-entropy on a split, or on the places ``only`` of it."""
        source = self.source(spec, rows, only=only)
        logits, labels = predict(model, source, 1024, device=self.device), source.labels.cpu()
        right = float((logits.argmax(1) == labels).double().mean())
        return [
            Metric(name="accuracy", value=right, unit="fraction", split=rows, n=len(labels)),
            Metric(name="loss", value=float(F.cross_entropy(logits, labels)), unit="nat", split=rows, n=len(labels)),
        ]

    def provenance(self) -> dict[str, Any]:
        """What the data was: fingerprints of the files, and of the indices of the validation split."""
        return {
            "train_fingerprint": self.fingerprint,
            "test_fingerprint": self.test_fingerprint,
            "validation_split_sha256": self.split.sha256,
            "rows": {name: len(rows) for name, rows in self.rows.items()},
        }
