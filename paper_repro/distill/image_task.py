"""An image classification task for distillation in the loop: its splits, models, loss and quality."""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import data, seeds, zoo
from paper_repro.data.sources import ImageSource, channel_statistics
from paper_repro.distill.teacher import ModelSpec
from paper_repro.results.schema import Metric
from paper_repro.train import Batch, predict

Rows = Literal["train", "validation", "test"]


class ImageTask:
    """The examples of one task, split, and what all its models are trained for.

    ``label`` is what records call the data set, ``fingerprint`` names the training images' content.
    """

    unit = "images"

    def __init__(self, dataset: str, validation_fraction: float, device: str) -> None:
        self.dataset, self.device, self.label = dataset, device, data.label(dataset)
        train_split, test = (data.load_images(dataset, split) for split in ("train", "test"))
        self.classes = train_split.classes
        self.fingerprint, self.test_fingerprint = train_split.fingerprint, test.fingerprint
        self.split = data.stratified_split(
            train_split.labels, validation_fraction, seeds.derive(0, "validation", dataset=self.label)
        )
        self.rows = {
            "train": self.split.train, "validation": self.split.validation, "test": np.arange(len(test.labels))
        }  # fmt: skip

    def source(
        self, spec: ModelSpec, rows: Rows, *, augment: bool = False, extra: dict[str, Tensor] | None = None
    ) -> ImageSource:
        """The examples of a split as ``spec`` reads them; ``extra`` [N, ...] goes with them into batches."""
        split = "test" if rows == "test" else "train"
        images = data.load_images(self.dataset, split, size=spec.image_size)
        mean, std = channel_statistics(data.load_images(self.dataset, "train", size=spec.image_size).pixels)
        return ImageSource(
            images.pixels, images.labels, self.rows[rows], mean=mean, std=std, augment=augment, device=self.device,
            extra=extra,
        )  # fmt: skip

    def build(self, spec: ModelSpec, seed: int) -> nn.Module:
        """A fresh model; all arms of one repetition start from the same."""
        torch.manual_seed(seeds.derive(seed, "init", dataset=self.label, model=spec.model))
        return zoo.build(spec.model, len(self.classes), **spec.options).to(self.device)

    def task_loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of logits [B, C] with the labels."""
        return F.cross_entropy(logits.float(), batch["label"], label_smoothing=label_smoothing)

    def quality(self, spec: ModelSpec, model: nn.Module, rows: Rows) -> list[Metric]:
        """Accuracy and cross-entropy on a split."""
        source = self.source(spec, rows)
        logits = predict(model, source, 1024, device=self.device)
        labels = source.labels.cpu()
        right = float((logits.argmax(1) == labels).double().mean())
        return [
            Metric(name="accuracy", value=right, unit="fraction", split=rows, n=len(labels)),
            Metric(name="loss", value=float(F.cross_entropy(logits, labels)), unit="nat", split=rows, n=len(labels)),
        ]

    def flops(self, spec: ModelSpec) -> float:
        """FLOPs of one forward pass per image."""
        return zoo.cost(spec.model, len(self.classes), spec.image_size, **spec.options)["flops_per_example"]

    def provenance(self) -> dict[str, Any]:
        """What the data was: fingerprints of the files, and of the indices of the validation split."""
        return {
            "train_fingerprint": self.fingerprint,
            "test_fingerprint": self.test_fingerprint,
            "validation_split_sha256": self.split.sha256,
            "rows": {name: len(rows) for name, rows in self.rows.items()},
        }
