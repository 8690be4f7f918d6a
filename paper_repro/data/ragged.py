"""Texts of different lengths end to end: joining collections, taking rows, batches that the trainer can cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T", bound=Any)  # a dataclass with ids and offsets, as Bags (n-grams) and Tokens (word pieces)


def join(parts: Sequence[T]) -> T:
    """The texts of all ``parts``, one after another."""
    starts = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    ids = np.concatenate([part.ids for part in parts])
    return replace(parts[0], ids=ids, offsets=np.concatenate([np.zeros(1, np.int64), *offsets]))


def take(encoded: T, rows: np.ndarray) -> T:
    """The texts ``rows`` (int64 [B]) of ``encoded``, in that order."""
    starts = encoded.offsets[rows]
    lengths = encoded.offsets[rows + 1] - starts
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return replace(encoded, ids=encoded.ids[positions], offsets=offsets)


@dataclass(frozen=True)
class RaggedIds:
    """``ids`` (int64 [total]) and ``offsets`` (int64 [B + 1]) of a batch of B texts as tensors.

    Has of a tensor what the trainer asks of one: a length, slices of whole texts, and a device.
    """

    ids: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, part: slice) -> "RaggedIds":
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise IndexError("a ragged batch is sliced without steps")
        offsets = self.offsets[start : max(start, stop) + 1]
        return RaggedIds(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "RaggedIds":
        """The same on ``device``."""
        ids, offsets = (value.to(device, non_blocking=non_blocking) for value in (self.ids, self.offsets))
        return RaggedIds(ids, offsets)
