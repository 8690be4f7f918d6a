"""An image classification task: its splits, models, loss and quality."""

import numpy as np
from torch import Tensor

from paper_repro import data, zoo
from paper_repro.data.sources import ImageSource, channel_statistics
from paper_repro.distill.classification_task import ClassificationTask, Rows
from paper_repro.distill.teacher import ModelSpec


class ImageTask(ClassificationTask):
    """The labelled images of one data set."""

    unit = "images"

    def __init__(self, dataset: str, validation_fraction: float, device: str) -> None:
        parts = {split: data.load_images(dataset, split) for split in ("train", "test")}
        super().__init__(dataset, parts, validation_fraction, device, data.phrase_groups(dataset))

    def source(
        self, spec: ModelSpec, rows: Rows, *, only: np.ndarray | None = None, extra: dict[str, Tensor] | None = None,
        augment: bool = False,
    ) -> ImageSource:  # fmt: skip
        """The examples of a split as ``spec`` reads them; ``extra`` [N, ...] goes with them into batches."""
        split = "test" if rows == "test" else "train"
        images = data.load_images(self.dataset, split, size=spec.image_size)
        mean, std = channel_statistics(data.load_images(self.dataset, "train", size=spec.image_size).pixels)
        return ImageSource(
            images.pixels, images.labels, self.chosen(rows, only), mean=mean, std=std, augment=augment,
            device=self.device, extra=extra,
        )  # fmt: skip

    def flops(self, spec: ModelSpec) -> float:
        """FLOPs of one forward pass per image."""
        return zoo.cost(spec.model, len(self.classes), spec.image_size, **spec.options)["flops_per_example"]


def pooled(spec: ModelSpec, dataset: str) -> ModelSpec:
    """``spec`` for other images: with its ``image_size`` where theirs can be averaged to it, else as they are."""
    height, width = data.load_images(dataset, "test").pixels.shape[2:]
    if spec.image_size is None or (height == width and height % spec.image_size == 0):
        return spec
    return spec.model_copy(update={"image_size": None})
