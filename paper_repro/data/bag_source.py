"""Batches of n-gram ids for the trainer: ragged, never padded."""

import numpy as np
import torch
from torch import Tensor

from paper_repro.data.ngrams import Bags
from paper_repro.data.ragged import RaggedIds, take


class BagSource:
    """Batches {index, label, bags RaggedIds, **extra} of the rows ``indices`` of ``bags``.

    ``extra`` tensors have one row per served example and arrive in the batch under their own name.
    """

    def __init__(
        self,
        bags: Bags,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        device: str = "cpu",
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        self.bags, self.indices, self.device = bags, indices, device
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.extra = {name: values.to(device) for name, values in (extra or {}).items()}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor | RaggedIds]:
        """The batch of these rows; nothing is drawn from ``generator``."""
        where = indices.to(self.labels.device)
        chosen = take(self.bags, self.indices[indices.cpu().numpy()])
        ids, offsets = torch.from_numpy(chosen.ids.astype(np.int64)), torch.from_numpy(chosen.offsets)
        bags = RaggedIds(ids, offsets).to(self.device)
        extra = {name: values[where] for name, values in self.extra.items()}
        return {"index": where, "label": self.labels[where], "bags": bags, **extra}
