"""Classifiers as they are deployed: from raw examples (texts, or pixels) to logits, alone or as a cascade.

What a user waits for is in here: tokenising or resizing, batching, the model, and for a cascade the teacher's work on
what the student defers.
"""

import copy
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.cascade.rules import margin
from paper_repro.data.augment import normalise
from paper_repro.data.ragged import take
from paper_repro.data.text import Tokens
from paper_repro.train.predict import DTYPES

BATCH = 32  # examples per forward pass, at most
PIECES = 4096  # word pieces per forward pass, at most: of 512 to 16,384, what MiniLM alone read IMDB fastest with


class Served(Protocol):
    """A deployed classifier of raw examples; ``Student`` of ``distill.export`` is one too."""

    classes: list[str]

    def logits(self, raw: Any) -> np.ndarray:
        """Logits float32 [N, C] of N raw examples."""
        ...


def alike(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of texts in batches for one forward pass each: shortest first, at most ``BATCH`` of them, and at most
    ``PIECES`` word pieces when padded, unless a single text has more."""
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for stop, row in enumerate(order):
        full = stop - start == BATCH or (stop + 1 - start) * lengths[row] > PIECES
        if full and stop > start:
            batches.append(order[start:stop])
            start = stop
    return [*batches, order[start:]] if len(order) else []


def _deployed(model: nn.Module, precision: str, device: str, channels_last: bool = False) -> nn.Module:
    """A copy in evaluation mode, its weights once and for all in ``precision`` and in the memory format of training."""
    model = copy.deepcopy(model).eval().to(device, DTYPES[precision])
    return model.to(memory_format=torch.channels_last) if channels_last else model


class TextModel:
    """A network that reads word pieces, at most ``max_length`` of a text; texts of alike lengths go together."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, max_length: int, classes: list[str], *, precision: str = "fp32",
        device: str = "cpu",
    ) -> None:  # fmt: skip
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self.tokenizer = Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "padding": None}))
        self.tokenizer.enable_truncation(max_length)
        self.model, self.device = _deployed(model, precision, device), torch.device(device)
        self.max_length, self.classes = max_length, classes

    @torch.inference_mode()
    def logits(self, raw: Sequence[str]) -> np.ndarray:
        """Logits float32 [N, C] of N texts."""
        ids = [np.array(one.ids, dtype=np.int32) for one in self.tokenizer.encode_batch_fast(list(raw))]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
        tokens = Tokens(np.concatenate([np.zeros(0, np.int32), *ids]), offsets)
        found = np.empty((len(ids), len(self.classes)), dtype=np.float32)
        for rows in alike(np.diff(offsets)):
            inputs = take(tokens, rows).pad(np.arange(len(rows)), self.max_length)
            found[rows] = self.model(*(one.to(self.device) for one in inputs)).float().cpu().numpy()
        return found


class ImageModel:
    """A network that reads pixels uint8 [N, 3, H, W], averaged over blocks to ``size`` a side (None: as they are)."""

    def __init__(
        self, model: nn.Module, mean: Tensor, std: Tensor, classes: list[str], *, size: int | None = None,
        precision: str = "fp32", channels_last: bool = False, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.model, self.device = _deployed(model, precision, device, channels_last), torch.device(device)
        self.classes, self.size, self.dtype, self.channels_last = classes, size, DTYPES[precision], channels_last
        self.mean, self.std = mean.to(device), std.to(device)

    @torch.inference_mode()
    def logits(self, raw: np.ndarray) -> np.ndarray:
        """Logits float32 [N, C] of N images."""
        found = np.empty((len(raw), len(self.classes)), dtype=np.float32)
        for start in range(0, len(raw), BATCH):
            pixels = torch.from_numpy(raw[start : start + BATCH]).to(self.device)
            if self.size is not None and pixels.shape[-1] != self.size:
                block = pixels.shape[-1] // self.size
                pixels = (F.avg_pool2d(pixels.float(), block) + 0.5).floor().to(torch.uint8)  # as ``data.images``
            inputs = normalise(pixels, self.mean, self.std).to(self.dtype)
            if self.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            found[start : start + BATCH] = self.model(inputs).float().cpu().numpy()
        return found


class Summoning:
    """The student answers where its margin is at least ``rho``; for the rest it summons the teacher."""

    def __init__(self, student: Served, teacher: Served, rho: float) -> None:
        self.student, self.teacher, self.rho, self.classes = student, teacher, rho, student.classes

    def logits(self, raw: Any) -> np.ndarray:
        """Logits float32 [N, C], each row from whoever answered."""
        return self.answers(raw)[0]

    def answers(self, raw: Any) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [N, C] and the rows (int64) that were deferred."""
        found = self.student.logits(raw)
        deferred = np.flatnonzero(margin(torch.from_numpy(found)).numpy() < self.rho)
        if len(deferred):
            hard = raw[deferred] if isinstance(raw, np.ndarray) else [raw[row] for row in deferred]
            found[deferred] = self.teacher.logits(hard)
        return found, deferred


def predicted(served: Served, raw: Any) -> list[str]:
    """The class of each raw example."""
    return [served.classes[best] for best in served.logits(raw).argmax(axis=1).tolist()]
