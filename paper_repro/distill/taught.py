"""A classification task with one teacher, of texts or of images, and students of any kind that it teaches."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from pydantic import Field
from torch import Tensor, nn

from paper_repro import data, seeds
from paper_repro.cascade.served import ImageModel, Served, TextModel
from paper_repro.config import Config, sha256_key
from paper_repro.data.corpora import CorpusSpec
from paper_repro.data.sources import ImageSource, TextSource, channel_statistics
from paper_repro.data.text import TextSplit, plain_words
from paper_repro.distill import export
from paper_repro.distill.image_task import ImageTask
from paper_repro.distill.ngram_student import NgramSpec
from paper_repro.distill.reader import NgramReader, TokenReader
from paper_repro.distill.sentence_task import SentenceTask
from paper_repro.distill.teacher import ModelSpec, Teacher, stored_logits, trained_teacher
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.train import Source, predict
from paper_repro.zoo.dan import Dan

Modality = Literal["image", "text"]
Part = Literal["train", "validation", "test", "corpus"]
PARTS: tuple[Part, ...] = ("train", "validation", "test", "corpus")
BATCH = 1024  # images per forward pass of a student's evaluation


class TaughtSpec(Config):
    """A data set, its teacher, and unlabelled text of its domain. ``limit``: of the training, validation and test
    examples at most so many each are used, the first in a seeded order; None: all. ``shards``: pieces in which the
    teacher labels a part, by as many processes as there are."""

    dataset: str
    modality: Modality
    validation_fraction: float
    teacher: ModelSpec
    label_length: int | None = None  # tokens that the teacher reads to label; None: as in its training
    corpus: CorpusSpec | None = None
    limit: int | None = Field(default=None, gt=0)
    shards: int = Field(default=1, ge=1)

    @property
    def read_length(self) -> int:
        """Tokens that the trained teacher reads, to label and deployed."""
        return self.label_length or self.teacher.max_length


class Reads(Config):
    """How a student reads, and whether it is trained on the corpus too."""

    spec: ModelSpec | NgramSpec
    corpus: bool = False


def taught(spec: TaughtSpec, device: str) -> "Taught":
    """The task, read once per process."""
    return _by_json(spec.model_dump_json(), device)


@lru_cache(maxsize=4)
def _by_json(spec_json: str, device: str) -> "Taught":
    spec = TaughtSpec.model_validate_json(spec_json)
    return TaughtTexts(spec, device) if spec.modality == "text" else TaughtImages(spec, device)


class Taught(ABC):
    """What does not depend on the modality: the rows of each part, the teacher, and its stored logits."""

    def __init__(self, spec: TaughtSpec, task: ImageTask | SentenceTask) -> None:
        self.spec, self.task, self.device = spec, task, task.device
        self.label, self.classes = task.label, task.classes
        self._shards: dict[tuple[Part, int], np.ndarray] = {}
        if spec.limit is not None:
            for part, rows in task.rows.items():
                order = seeds.numpy_rng(0, "limit", dataset=self.label, part=part).permutation(len(rows))
                task.rows[part] = np.sort(rows[order[: spec.limit]])

    @cached_property
    def teacher_name(self) -> str:
        """Of all that decides the trained teacher."""
        decides = self.spec.model_copy(update={"corpus": None, "label_length": None, "shards": 1})
        return sha256_key({"teacher": decides.plain(), "data": self.task.fingerprint, "device": self.device})

    @cached_property
    def teacher(self) -> Teacher:
        """The trained teacher: from the cache, or trained now by one process, resuming where a killed run stopped."""
        spec, path = self.spec.teacher, cache_dir() / "models" / f"{self.teacher_name}.safetensors"
        how: dict[str, Any] = {"augment": True} if spec.augment else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = trained_teacher(
                self.task.build(spec, seed=0, teacher=1), path, self.task.source(spec, "train", **how), spec.train,
                device=self.device, dataset=self.label,
            )  # fmt: skip
        found.model.to(self.device)
        return found

    @property
    def reads(self) -> ModelSpec:
        """How the teacher reads what it labels."""
        return self.spec.teacher.model_copy(update={"max_length": self.spec.read_length})

    def as_teacher(self, part: Part, places: np.ndarray) -> ImageSource | TextSource:
        """The examples at ``places`` of a part as the teacher reads them."""
        assert part != "corpus"
        return self.task.source(self.reads, part, only=places)

    def size(self, part: Part) -> int:
        """Examples of a part."""
        return 0 if part == "corpus" else len(self.task.rows[part])

    def name_of(self, part: Part) -> str:
        """Of the content of a part."""
        assert part != "corpus"
        fingerprint = self.task.test_fingerprint if part == "test" else self.task.fingerprint
        return sha256_key({"data": fingerprint, "rows": sha256_key(self.task.rows[part].tolist())})

    def shard(self, part: Part, number: int) -> np.ndarray:
        """The teacher's logits [n, C] on one of ``spec.shards`` equal pieces of a part, from the store."""
        if (part, number) not in self._shards:
            places = np.array_split(np.arange(self.size(part)), self.spec.shards)[number]
            self._shards[part, number] = self._labelled(part, number, places)
        return self._shards[part, number]

    def _labelled(self, part: Part, number: int, places: np.ndarray) -> np.ndarray:
        if not len(places):  # fewer examples than shards
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        model, source, clock = self.teacher.model, self.as_teacher(part, places), self._clock_path(part, number)
        name = sha256_key({"part": self.name_of(part), "shard": [number, self.spec.shards]})
        clock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(clock.with_suffix(".lock")):  # of several processes one computes
            started = time.perf_counter()
            logits = stored_logits(
                model, self.reads, source, name, device=self.device, precision=self.reads.train.precision
            )
            if not clock.exists():  # computed now, and not opened
                write_atomic(clock, json.dumps({"seconds": time.perf_counter() - started}))
        return logits

    def _clock_path(self, part: Part, number: int) -> Path:
        reads = [self.teacher_name, self.reads.max_length, self.name_of(part), number, self.spec.shards]
        return cache_dir() / "labelling" / f"{sha256_key(reads)}.json"

    def labelling_s(self, parts: Iterable[Part]) -> float:
        """Seconds that the teacher took to label these parts, whenever that was."""
        paths = [self._clock_path(part, number) for part in parts for number in range(self.spec.shards)]
        return float(sum(json.loads(path.read_text())["seconds"] for path in paths if path.exists()))

    def teacher_logits(self, part: Part) -> Tensor:
        """The teacher's logits [N, C] on all of a part."""
        pieces = [self.shard(part, number) for number in range(self.spec.shards)]
        return torch.from_numpy(np.concatenate(pieces))

    def labels(self, part: Part) -> Tensor:
        """True labels [N] of a part."""
        return torch.from_numpy(self._labels("test" if part == "test" else "train")[self.task.rows[part]])

    def build(self, student: Reads, seed: int, **axes: int) -> nn.Module:
        """A fresh model; all ways of training it start, in one repetition, from the same. Other ``axes``, others."""
        return self.task.build(_network(student), seed, **axes)

    @abstractmethod
    def _labels(self, split: str) -> np.ndarray: ...

    @abstractmethod
    def lesson(self, student: Reads, extra: dict[str, Tensor] | None = None) -> Source:
        """The training examples, and then the corpus, as ``student`` reads them; ``extra`` goes into batches."""

    @abstractmethod
    def logits(self, student: Reads, model: nn.Module, part: Part) -> Tensor:
        """A student's logits [N, C] on a part."""

    @abstractmethod
    def served(self, student: Reads, model: nn.Module, folder: Path) -> Served:
        """A trained student as it is deployed: from raw examples to logits. ``folder``, which must not exist yet, is
        where an n-gram student is exported to and read from."""

    @abstractmethod
    def served_teacher(self) -> Served:
        """The teacher, likewise."""

    @abstractmethod
    def raw(self, part: Part, places: np.ndarray) -> Any:
        """Examples as they come: texts, or pixels uint8 [n, 3, H, W]."""


def _network(student: Reads) -> ModelSpec:
    assert isinstance(student.spec, ModelSpec), "n-grams are of texts"
    return student.spec


class TaughtImages(Taught):
    """Of images. Students see them as they are: augmentation would need the teacher's logits on every view."""

    def __init__(self, spec: TaughtSpec, device: str) -> None:
        self.images = ImageTask(spec.dataset, spec.validation_fraction, device)
        super().__init__(spec, self.images)

    def _labels(self, split: str) -> np.ndarray:
        return data.load_images(self.spec.dataset, split).labels

    def lesson(self, student: Reads, extra: dict[str, Tensor] | None = None) -> Source:
        return self.images.source(_network(student), "train", extra=extra)

    def logits(self, student: Reads, model: nn.Module, part: Part) -> Tensor:
        assert part != "corpus"
        return predict(model, self.images.source(_network(student), part), BATCH, device=self.device)

    def served(self, student: Reads, model: nn.Module, folder: Path) -> Served:
        return self._image_model(_network(student), model)

    def served_teacher(self) -> Served:
        return self._image_model(self.spec.teacher, self.teacher.model)

    def _image_model(self, spec: ModelSpec, model: nn.Module) -> Served:
        mean, std = channel_statistics(data.load_images(self.spec.dataset, "train", size=spec.image_size).pixels)
        return ImageModel(
            model, mean, std, self.classes, size=spec.image_size, precision=spec.train.precision,
            channels_last=spec.train.channels_last, device=self.device,
        )  # fmt: skip

    def raw(self, part: Part, places: np.ndarray) -> Any:
        assert part != "corpus"
        pixels = data.load_images(self.spec.dataset, "test" if part == "test" else "train").pixels
        return np.ascontiguousarray(pixels[self.task.rows[part][places]])


class TaughtTexts(Taught):
    """Of texts: students read word pieces or n-grams."""

    def __init__(self, spec: TaughtSpec, device: str) -> None:
        self.sentences = SentenceTask(spec.dataset, spec.validation_fraction, device)
        super().__init__(spec, self.sentences)
        self._readers: dict[str, NgramReader | TokenReader] = {}

    def _labels(self, split: str) -> np.ndarray:
        return self.sentences.parts[split].labels

    @cached_property
    def corpus(self) -> tuple[TextSplit, np.ndarray]:
        """The unlabelled texts, and which of them are not also texts of the test or the validation part."""
        assert self.spec.corpus is not None
        texts, (train, validation) = self.spec.corpus.load(), self.rows("validation")
        held_out = {plain_words(text) for text in self.sentences.parts["test"].texts}
        held_out |= {plain_words(train.texts[row]) for row in validation}
        kept = [row for row, text in enumerate(texts.texts) if plain_words(text) not in held_out]
        return texts, np.array(kept, dtype=np.int64)

    def size(self, part: Part) -> int:
        if part == "corpus":
            return 0 if self.spec.corpus is None else len(self.corpus[1])
        return super().size(part)

    def name_of(self, part: Part) -> str:
        if part != "corpus":
            return super().name_of(part)
        texts, rows = self.corpus
        return sha256_key({"data": texts.fingerprint, "rows": sha256_key(rows.tolist())})

    def as_teacher(self, part: Part, places: np.ndarray) -> ImageSource | TextSource:
        if part != "corpus":
            return super().as_teacher(part, places)
        texts, rows = self.corpus
        tokens = data.encode(texts, self.sentences.tokenizer(self.reads.tokenizer), self.reads.max_length)
        return TextSource(tokens, texts.labels, rows[places], max_length=self.reads.max_length, device=self.device)

    def rows(self, part: Part) -> tuple[TextSplit, np.ndarray]:
        """A part as rows of a collection of texts."""
        if part == "corpus":
            return self.corpus
        return self.sentences.parts["test" if part == "test" else "train"], self.task.rows[part]

    def lessons(self, student: Reads) -> list[tuple[TextSplit, np.ndarray]]:
        """The texts that a student is trained on."""
        return [self.rows("train"), *([self.rows("corpus")] if student.corpus else [])]

    def reader(self, student: Reads) -> NgramReader | TokenReader:
        """What reads for a student: word pieces, or the n-grams that are most frequent in what it is trained on."""
        if student.key() not in self._readers:
            spec = student.spec
            self._readers[student.key()] = (
                TokenReader(spec.tokenizer, spec.max_length, self.device)
                if isinstance(spec, ModelSpec)
                else NgramReader(spec.features(self.lessons(student)), self.device)
            )
        return self._readers[student.key()]

    def build(self, student: Reads, seed: int, **axes: int) -> nn.Module:
        reader = self.reader(student)
        if isinstance(student.spec, ModelSpec):
            return super().build(student, seed, **axes)
        assert isinstance(reader, NgramReader)
        torch.manual_seed(seeds.derive(seed, "init", dataset=self.label, model=student.spec.name, **axes))
        return reader.build(student.spec, len(self.classes))

    def lesson(self, student: Reads, extra: dict[str, Tensor] | None = None) -> Source:
        return self.reader(student).source(self.lessons(student), extra)

    def logits(self, student: Reads, model: nn.Module, part: Part) -> Tensor:
        return self.reader(student).logits(model, *self.rows(part))

    def served(self, student: Reads, model: nn.Module, folder: Path) -> Served:
        if isinstance(student.spec, ModelSpec):
            return self._text_model(student.spec, model)
        reader = self.reader(student)
        assert isinstance(reader, NgramReader) and isinstance(model, Dan)
        export.export_student(model, reader.features, self.classes, folder)
        return export.Student.load(folder)

    def served_teacher(self) -> Served:
        return self._text_model(self.reads, self.teacher.model)

    def _text_model(self, spec: ModelSpec, model: nn.Module) -> Served:
        tokenizer = self.sentences.tokenizer(spec.tokenizer)
        return TextModel(
            model, tokenizer, spec.max_length, self.classes, precision=spec.train.precision, device=self.device
        )

    def raw(self, part: Part, places: np.ndarray) -> Any:
        texts, rows = self.rows(part)
        return [texts.texts[row] for row in rows[places]]
