"""Batches for the trainer: whole data sets in memory, indexed by example, with whatever travels along (teacher logits).

A source is built over the examples it serves; ``extra`` tensors have one row per served example and arrive in the batch
under their own name.
"""

import numpy as np
import torch
from torch import Tensor

from paper_repro.data.augment import normalise, random_flip_crop
from paper_repro.data.text import Tokens


class ImageSource:
    """Batches {index, label, pixels float32 [B, 3, H, W], **extra} of uint8 images held on ``device``."""

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        mean: Tensor,
        std: Tensor,
        augment: bool = False,
        device: str = "cpu",
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        self.pixels = torch.from_numpy(np.ascontiguousarray(pixels[indices])).to(device)
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.mean, self.std, self.augment = mean.to(device), std.to(device), augment
        self.extra = {name: values.to(device) for name, values in (extra or {}).items()}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these rows; ``generator`` draws the augmentation."""
        where = indices.to(self.labels.device)
        pixels = normalise(self.pixels[where], self.mean, self.std)
        if self.augment:
            pixels = random_flip_crop(pixels, generator)
        extra = {name: values[where] for name, values in self.extra.items()}
        return {"index": where, "label": self.labels[where], "pixels": pixels, **extra}


class TextSource:
    """Batches {index, label, input_ids [B, T], attention_mask [B, T], **extra}; T is the longest text of the batch."""

    def __init__(
        self,
        tokens: Tokens,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        max_length: int,
        device: str = "cpu",
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        self.tokens, self.indices, self.max_length, self.device = tokens, indices, max_length, device
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.extra = {name: values.to(device) for name, values in (extra or {}).items()}
        self.lengths = torch.from_numpy(np.diff(tokens.offsets)[indices]).clamp_max(max_length)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these rows; nothing is drawn from ``generator``."""
        where = indices.to(self.device)
        ids, mask = self.tokens.pad(self.indices[indices.cpu().numpy()], self.max_length)
        extra = {name: values[where] for name, values in self.extra.items()}
        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        return {"index": where, "label": self.labels[where], **inputs, **extra}


class Rows:
    """The rows ``indices`` (int64 [B]) of another source, which count from 0 here."""

    def __init__(self, source: "ImageSource | TextSource", indices: Tensor) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these rows; "index" counts within the restriction."""
        return {**self.source.batch(self.indices[indices], generator), "index": indices}


def channel_statistics(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel [3] of uint8 images [N, 3, H, W], in units of 0..1."""
    sample = pixels[:10_000].astype(np.float32) / 255.0
    mean, std = sample.mean(axis=(0, 2, 3)), sample.std(axis=(0, 2, 3))
    return torch.from_numpy(mean), torch.from_numpy(std)
