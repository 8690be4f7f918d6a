"""A text classification task: its splits, its teacher, and the teacher's logits on any text."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paper_repro import data, seeds, zoo
from paper_repro.config import Config, sha256_key
from paper_repro.data.sources import TextSource
from paper_repro.data.text import TextSplit
from paper_repro.distill.teacher import ModelSpec, Teacher, stored_logits, trained_teacher


class TaskSpec(Config):
    """What decides a task's teacher."""

    dataset: str
    validation_fraction: float
    teacher: ModelSpec


class TextTask:
    """The examples of one task, split, with the teacher that belongs to them.

    ``label`` is what records call the data set, ``weights`` where the teacher's weights are cached. Logits stay in
    memory: opening stored ones has the teacher check some rows, which takes longer than training some students.
    """

    def __init__(self, spec: TaskSpec, label: str, weights: Path, device: str) -> None:
        self.spec, self.label, self.weights, self.device = spec, label, weights, device
        self.parts = {split: data.load_texts(spec.dataset, split) for split in ("train", "test")}
        self.classes = self.parts["train"].classes
        self._shards: dict[str, np.ndarray] = {}
        self.split = data.stratified_split(
            self.parts["train"].labels, spec.validation_fraction, seeds.derive(0, "validation", dataset=label),
            groups=data.phrase_groups(spec.dataset),
        )  # fmt: skip

    @cached_property
    def teacher(self) -> Teacher:
        """The trained teacher: from the cache, or trained now, resuming where a killed run stopped."""
        spec = self.spec.teacher
        torch.manual_seed(seeds.derive(0, "init", dataset=self.label, model=spec.model))
        model = zoo.build(spec.model, len(self.classes), **spec.options)
        source = self.source(self.parts["train"], self.split.train)
        return trained_teacher(model, self.weights, source, spec.train, device=self.device, dataset=self.label)

    def source(self, texts: TextSplit, rows: np.ndarray, max_length: int | None = None) -> TextSource:
        """These rows of ``texts`` as the teacher reads them, cut to ``max_length`` (None: as in its training)."""
        spec = self.spec.teacher
        length = max_length or spec.max_length
        tokens = data.encode(texts, zoo.load_tokenizer(spec.tokenizer), length)
        return TextSource(tokens, texts.labels, rows, max_length=length, device=self.device)

    def shard_logits(self, texts: TextSplit, shard: int, of: int, max_length: int, precision: str) -> np.ndarray:
        """The teacher's logits [n, C] on one of ``of`` equal parts of ``texts``, from the store."""
        total = len(texts.texts)
        start, stop = shard * total // of, (shard + 1) * total // of
        name = sha256_key({"data": texts.fingerprint, "rows": [start, stop]})
        known = f"{name} {max_length} {precision}"
        if known not in self._shards:
            source = self.source(texts, np.arange(start, stop), max_length)
            reads = self.spec.teacher.model_copy(update={"max_length": max_length})
            self._shards[known] = stored_logits(
                self.teacher.model, reads, source, name, device=self.device, precision=precision
            )
        return self._shards[known]

    def logits(self, texts: TextSplit, shards: int, max_length: int, precision: str) -> Tensor:
        """The teacher's logits [N, C] on all of ``texts``."""
        parts = [self.shard_logits(texts, shard, shards, max_length, precision) for shard in range(shards)]
        return torch.from_numpy(np.concatenate(parts))

    def provenance(self) -> dict[str, Any]:
        """What the data was: fingerprints of the files, and of the indices of the validation split."""
        return {
            "train_fingerprint": self.parts["train"].fingerprint,
            "test_fingerprint": self.parts["test"].fingerprint,
            "validation_split_sha256": self.split.sha256,
            "rows": {
                "train": len(self.split.train),
                "validation": len(self.split.validation),
                "test": len(self.parts["test"].labels),
            },
        }
