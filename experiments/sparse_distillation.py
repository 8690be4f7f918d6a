"""Sparse Distillation (arXiv 2110.08536v2): a transformer distilled into a bag of n-grams.

Which cells exist, how one is computed, what is measured. A task is a data set with one teacher and the unlabelled text
of its domain. Teachers are trained (stage 0) and label text (1); learning rates are chosen on validation data (2),
students trained (3); rates of fine-tuning are chosen (4), and students that start from a trained one fine-tuned (5).
"""

import json
import time
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro import baselines, data, planning, seeds, zoo
from paper_repro.config import Config, sha256_key
from paper_repro.data.bag_source import BagSource
from paper_repro.data.corpora import SOURCES, CorpusSpec, corpus_of
from paper_repro.data.ngrams import Vocabulary
from paper_repro.data.ragged import RaggedIds, take
from paper_repro.data.sources import TextSource
from paper_repro.data.text import TextSplit, plain_words
from paper_repro.distill import losses
from paper_repro.distill.ngram_measure import coverage, exported, metric, overlaps, pruned, shorter_ngrams
from paper_repro.distill.ngram_student import NgramSpec, accuracy, cross_entropies
from paper_repro.distill.reader import NgramReader, TokenReader
from paper_repro.distill.teacher import ModelSpec, logits_of_rows
from paper_repro.distill.text_task import TaskSpec, TextTask
from paper_repro.distill.weights import load_model, save_model
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.results.schema import Metric
from paper_repro.runner import Cell, Outcome
from paper_repro.timing.text import TextTiming, time_text_models
from paper_repro.timing.training_step import time_training_step
from paper_repro.train import Loss, TrainConfig, forward, train
from paper_repro.zoo.dan import Dan

PAPER = "sparse"
BATCH = 256  # texts over which a record's cost is a mean
DISSECTED = ("kd", "kd+ft")  # methods of the main student that the ablations without training look at


# ---------------------------------------------------------------------------------------------------------------------
# Configuration


class Recipe(Config):
    """How to train. ``lrs`` are the learning rates to choose from on validation data; ``train.lr`` is not used."""

    train: TrainConfig
    lrs: list[float]


class Method(Config):
    """One way to a student.

    With ``start``: the student of that method, fine-tuned on D_train. Else, with ``corpus_share`` or ``on_train``:
    distilled on that share of the corpus and perhaps on D_train. Else: cross-entropy on D_train.
    """

    name: str
    start: str | None = None
    corpus_share: float = 0.0
    on_train: bool = False
    transfer: bool = False  # the corpus, and the teacher that labels it, are those of the task's ``transfer``
    new_head: bool = False  # draw the head (all but the table) anew before fine-tuning
    ngrams_of: Literal["train", "corpus"] | None = None  # texts whose n-grams are in its table; None: both
    matched: bool | None = None  # as many updates as one that is distilled on D_train and all of the corpus
    rate_of: str | None = None  # the learning rate is the one chosen for this method; None: chosen for this one


class NgramStudent(Config):
    """An n-gram student, trained by the tasks' recipes, its methods, and its data sets (None: all)."""

    spec: NgramSpec
    methods: list[str]
    datasets: list[str] | None = None


class TokenStudent(Config):
    """A student that reads word pieces, trained like the n-gram student; its recipe is its own."""

    spec: ModelSpec
    methods: list[str]
    lrs: list[float]  # to choose from on validation data
    datasets: list[str] | None = None


class Transfer(Config):
    """Domain generalisation: another task's teacher labels this corpus, and its student is tested on this task."""

    teacher: str  # data set of the task whose teacher labels
    corpus: CorpusSpec
    label_length: int  # tokens that it reads of the corpus and of this task's test texts


class Task(Config):
    """A data set, its teacher, the unlabelled text of its domain, and the n-gram student's recipes."""

    dataset: str
    validation_fraction: float
    teacher: ModelSpec
    label_length: int  # tokens that the teacher reads to label a text; may exceed those of its training
    corpus: CorpusSpec | None
    transfer: Transfer | None = None
    scratch: Recipe
    distillation: Recipe
    fine_tuning: Recipe

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(dataset=self.dataset, validation_fraction=self.validation_fraction, teacher=self.teacher)


class StepTiming(Config):
    """Tables of how many rows a training step is timed on; see ``timing.training_step``."""

    vocabs: list[int]
    compared_at: int  # the one of them that torch's own parts are timed on too
    dim: int
    rounds: int
    block_s: float


class SparseConfig(Config):
    """One tier."""

    tier: str
    seeds: int
    labelling_precision: Literal["fp32", "bf16", "fp16"]
    shards: int  # parts in which a text collection is labelled, by as many processes as there are
    tasks: list[Task]
    methods: list[Method]
    students: list[NgramStudent]  # the learning rates of the first serve all
    token_students: list[TokenStudent]
    baselines: dict[str, int]  # name -> seeds; deterministic ones have one
    timing: list[TextTiming]
    step: StepTiming


CONFIG = SparseConfig


class Labels(Config):
    """Texts and the teacher that labels them."""

    teacher: TaskSpec
    corpus: CorpusSpec | None = None  # None: a split of ``dataset``
    dataset: str | None = None
    split: Literal["train", "test"] | None = None
    max_length: int  # tokens
    precision: Literal["fp32", "bf16", "fp16"]
    shards: int

    @property
    def name(self) -> str:
        if self.corpus is not None:
            return Path(self.corpus.name).stem
        assert self.dataset
        return f"{data.label(self.dataset)}-{self.split}"

    def texts(self) -> TextSplit:
        if self.corpus is not None:
            return self.corpus.load()
        assert self.dataset and self.split
        return data.load_texts(self.dataset, self.split)


class Training(Config):
    """All that decides a trained student but the seed: what a cell's key is made of."""

    task: TaskSpec
    student: NgramSpec | ModelSpec
    method: Method
    vocabulary: CorpusSpec | None = None  # C: with D_train it gives the n-grams, but see ``Method.ngrams_of``
    corpus: Labels | None = None  # what is distilled on, of which ``method.corpus_share``
    train: Labels  # the teacher's logits on D_train and, for ``agreement``, ...
    test: Labels  # ... on the test split
    recipe: TrainConfig
    lrs: list[float]
    rate_of: "Training | None" = None  # the training for which the learning rate is chosen; None: this one
    start: "Training | None" = None
    kept: bool = False  # others start from it


# ---------------------------------------------------------------------------------------------------------------------
# Which cells exist


def cells(
    config: SparseConfig, data: str | None = None, seeds: int | None = None, corpus: str | None = None
) -> list[Cell]:
    """Every cell of a tier, in the order of the stages above.

    ``data`` (a data set name or a parquet file) replaces the tier's tasks, ``corpus`` (a corpus name or a parquet file
    with a column text) is its unlabelled text; ``seeds`` caps the repetitions.
    """
    config = config if data is None else own_config(config, data, corpus)
    repetitions = min(config.seeds, seeds or config.seeds)
    found: list[Cell] = []
    for task in config.tasks:
        found.append(_cell(config, "teacher", task, task.teacher.model, "teacher", {"task": task.spec.plain()}))
        for labels in labels_of(config, task):
            params = {"labels": labels.plain()}
            for shard in range(config.shards):
                found.append(_cell(config, "labels", task, task.teacher.model, labels.name, params, shard, stage=1))
        for training in trainings(config, task):
            late = 2 if training.start else 0
            name, method = name_of(training.student), method_name(training)
            if training.rate_of is None and len(training.lrs) > 1:
                for number, lr in enumerate(training.lrs):
                    params = {"training": _single(training, lr).plain()}
                    found.append(_cell(config, "tuning", task, name, method, params, number, stage=2 + late))
            params = {"training": training.plain()}
            for seed in range(repetitions):
                found.append(_cell(config, "student", task, name, method, params, seed, stage=3 + late))
        for name, count in config.baselines.items():
            for seed in range(min(count, repetitions)):
                found.append(_cell(config, "student", task, name, "scratch", {"baseline": task.spec.plain()}, seed, 3))
    return sorted(found, key=lambda cell: (cell.stage, cell.seed))


def data_sets(config: SparseConfig) -> set[str]:
    """What a tier reads: its tasks' data sets and those that their corpora are made of."""
    corpora = [task.corpus for task in config.tasks] + [task.transfer.corpus for task in config.tasks if task.transfer]
    return {task.dataset for task in config.tasks} | {
        SOURCES.get(corpus.name, corpus.name) for corpus in corpora if corpus
    }


def _cell(
    config: SparseConfig, experiment: str, task: Task, model: str, method: str, params: dict[str, Any],
    seed: int = 0, stage: int = 0,
) -> Cell:  # fmt: skip
    return Cell(
        paper=PAPER, experiment=experiment, tier=config.tier, dataset=data.label(task.dataset), model=model,
        method=method, params=params, seed=seed, stage=stage,
    )  # fmt: skip


def name_of(student: NgramSpec | ModelSpec) -> str:
    """What records call a student."""
    return student.name if isinstance(student, NgramSpec) else student.model


def labels_of(config: SparseConfig, task: Task) -> list[Labels]:
    """What the task's teacher labels: its own splits and corpus, then what other tasks want of it."""
    of = _labelling(config, task, task)
    found = [Labels(dataset=task.dataset, split="train", **of), Labels(dataset=task.dataset, split="test", **of)]
    found += [Labels(corpus=task.corpus, **of)] if task.corpus else []
    for other in config.tasks:
        if other.transfer and other.transfer.teacher == task.dataset:
            of = _labelling(config, task, other.transfer)
            found += [Labels(corpus=other.transfer.corpus, **of), Labels(dataset=other.dataset, split="test", **of)]
    return list({labels.key(): labels for labels in found}.values())


def _labelling(config: SparseConfig, teacher: Task, texts: Task | Transfer) -> dict[str, Any]:
    """How the teacher of a task labels the texts of that or another."""
    return {
        "teacher": teacher.spec,
        "max_length": texts.label_length,
        "precision": config.labelling_precision,
        "shards": config.shards,
    }


def trainings(config: SparseConfig, task: Task) -> list[Training]:
    """Every student of a task."""
    methods = {method.name: method for method in config.methods}
    owners: list[NgramStudent | TokenStudent] = [*config.students, *config.token_students]
    return [
        _training(config, task, owner, methods, methods[name])
        for owner in owners
        if owner.datasets is None or task.dataset in owner.datasets
        for name in owner.methods
        if _possible(task, methods[methods[name].start or name])
    ]


def _possible(task: Task, first: Method) -> bool:
    """Whether the task has the text that a chain of methods begins with."""
    if first.transfer:
        return task.transfer is not None
    return task.corpus is not None or not (first.corpus_share or first.ngrams_of)


def _training(
    config: SparseConfig, task: Task, owner: NgramStudent | TokenStudent, methods: dict[str, Method], method: Method
) -> Training:
    recur = partial(_training, config, task, methods=methods)
    main = config.students[0]
    own = isinstance(owner, TokenStudent) or owner is main
    rate_of = None
    if not own or method.rate_of:
        rate_of = recur(owner=owner if own else main, method=methods[method.rate_of or method.name])
    start = recur(owner=owner, method=methods[method.start]) if method.start else None
    first = start.method if start else method
    corpus, labelled = task.corpus, _labelling(config, task, task)
    if first.transfer and task.transfer:
        teacher = next(other for other in config.tasks if other.dataset == task.transfer.teacher)
        corpus, labelled = task.transfer.corpus, _labelling(config, teacher, task.transfer)
    kind = "fine_tuning" if method.start else "distillation" if _distils(method) else "scratch"
    recipe: Recipe = getattr(task, kind)
    return Training(
        task=task.spec,
        vocabulary=task.corpus,
        student=owner.spec,
        method=method,
        corpus=Labels(corpus=corpus, **labelled) if method.corpus_share else None,
        train=Labels(dataset=task.dataset, split="train", **_labelling(config, task, task)),
        test=Labels(dataset=task.dataset, split="test", **labelled),
        recipe=owner.spec.train if isinstance(owner, TokenStudent) else recipe.train,
        lrs=owner.lrs if isinstance(owner, TokenStudent) else recipe.lrs,
        rate_of=rate_of,
        start=start,
        kept=any(methods[name].start == method.name for name in owner.methods),
    )


def method_name(training: Training) -> str:
    """What records call a method: a transfer is named by the data set of the teacher."""
    return training.method.name.replace("from", f"from-{training.test.teacher.dataset}")


def _distils(method: Method) -> bool:
    return method.on_train or method.corpus_share > 0


def own_config(config: SparseConfig, dataset: str, corpus: str | None) -> SparseConfig:
    """The tier with the first of its tasks on other data; what needs unlabelled text needs ``corpus``."""
    if data.describe(dataset).modality != "text":
        raise UserError(f"The data set '{dataset}' holds images; Sparse Distillation needs text.")
    unlabelled = None if corpus is None else corpus_of(data.absolute(corpus))
    changes = {"dataset": data.absolute(dataset), "corpus": unlabelled, "transfer": None}
    everywhere = [student.model_copy(update={"datasets": None}) for student in config.students]
    return config.model_copy(
        update={"tasks": [config.tasks[0].model_copy(update=changes)], "students": everywhere, "token_students": []}
    )


# ---------------------------------------------------------------------------------------------------------------------
# How a cell is computed


def compute(cell: Cell, device: str) -> Outcome:
    """Train, label or measure what ``cell`` names."""
    if cell.experiment == "timing":
        return _compute_timing(cell, device)
    if cell.experiment == "teacher":
        return _compute_teacher(_task(_key(TaskSpec.model_validate(cell.params["task"])), device))
    if cell.experiment == "labels":
        return _compute_labels(cell, device)
    if "baseline" in cell.params:
        return _compute_baseline(cell, device)
    training = Training.model_validate(cell.params["training"])
    return (
        _compute_tuning(training, device) if cell.experiment == "tuning" else _compute_student(cell, training, device)
    )


def _key(config: Config) -> str:
    return config.model_dump_json()


@lru_cache(maxsize=4)
def _task(spec_json: str, device: str) -> "Texts":
    return Texts(TaskSpec.model_validate_json(spec_json), device)


class Texts(TextTask):
    """A task, and what its students read."""

    def __init__(self, spec: TaskSpec, device: str) -> None:
        fingerprint = data.load_texts(spec.dataset, "train").fingerprint
        name = f"{spec.key()}-{fingerprint[:12]}.safetensors"
        super().__init__(spec, data.label(spec.dataset), cache_dir() / "models" / name, device)
        self._corpus_rows: dict[str, np.ndarray] = {}

    @cached_property
    def tests(self) -> set[str]:
        """The test texts, as the student's tokens."""
        return {plain_words(text) for text in self.parts["test"].texts}

    def corpus_rows(self, corpus: CorpusSpec) -> np.ndarray:
        """Rows of a corpus, in seeded random order, without the texts that are also test texts."""
        if (name := corpus.key()) not in self._corpus_rows:
            texts = corpus.load().texts
            order = seeds.numpy_rng(0, "corpus", dataset=self.label).permutation(len(texts))
            kept = [row for row in order if plain_words(texts[row]) not in self.tests]
            self._corpus_rows[name] = np.array(kept, dtype=np.int64)
        return self._corpus_rows[name]


@lru_cache(maxsize=16)  # 200 MB each on IMDB
def _ngram_reader(task_json: str, reads_json: str, corpus_json: str | None, of: str | None, device: str) -> NgramReader:
    """What n-gram students of a task read: the n-grams ``of`` D_train, of C, or of both."""
    task = _task(task_json, device)
    parts = [] if of == "corpus" else [(task.parts["train"], task.split.train)]
    if corpus_json is not None and of != "train":
        corpus = CorpusSpec.model_validate_json(corpus_json)
        parts.append((corpus.load(), np.sort(task.corpus_rows(corpus))))
    return NgramReader(NgramSpec.model_validate_json(reads_json).features(parts), device)


def reader_of(training: Training, device: str) -> NgramReader | TokenReader:
    """How the student of ``training`` reads; students that differ in architecture only share it."""
    student = training.student
    if isinstance(student, ModelSpec):
        return TokenReader(student.tokenizer, student.max_length, device)
    reads = NgramSpec(vocab=student.vocab, dim=1, n=student.n, analyzer=student.analyzer, hashed=student.hashed)
    corpus, of = training.vocabulary, (training.start or training).method.ngrams_of
    return _ngram_reader(_key(training.task), _key(reads), _key(corpus) if corpus else None, of, device)


def fresh(training: Training, seed: int, device: str) -> nn.Module:
    """A new model; all methods of one repetition start from the same."""
    task = _task(_key(training.task), device)
    torch.manual_seed(seeds.derive(seed, "init", dataset=task.label, model=name_of(training.student)))
    return reader_of(training, device).build(training.student, len(task.classes))  # type: ignore[arg-type]


def teacher_logits(labels: Labels, device: str) -> Tensor:
    """The teacher's logits [N, C] on all of the texts, from the store."""
    return _task(_key(labels.teacher), device).logits(
        labels.texts(), labels.shards, labels.max_length, labels.precision
    )


def trained(training: Training, seed: int, device: str) -> tuple[nn.Module, dict[str, float]]:
    """The student of ``training``, from the cache or trained now, and the clocks of training it."""
    task = _task(_key(training.task), device)
    path = cache_dir() / "students" / f"{_name(training)}-{seed}.safetensors"
    if path.exists():
        model = fresh(training, seed, device)
        load_model(model, path)
        return model.eval(), {}
    if training.start is None:
        model = fresh(training, seed, device)
    else:
        model, _ = trained(training.start, seed, device)
        if training.method.new_head:
            assert isinstance(model, Dan)
            torch.manual_seed(seeds.derive(seed, "new head", dataset=task.label))
            for layer in (*model.layers, model.head):
                layer.reset_parameters()
    source, loss = _lesson(training, task, device)
    recipe = training.recipe.model_copy(update={"lr": rate(training, device)})
    if training.method.matched and recipe.epochs is not None:
        whole = len(task.split.train) + (len(task.corpus_rows(training.vocabulary)) if training.vocabulary else 0)
        recipe = recipe.model_copy(update={"epochs": recipe.epochs * whole / len(source)})
    axes: dict[str, int | str] = {"dataset": task.label, "role": "student"}
    result = train(model, source, loss, recipe, seed=seed, device=device, stream_axes=axes)
    if training.kept:
        save_model(model, path)
    return model.eval(), result.clocks


def _name(training: Training) -> str:
    """Of a training in the cache: what decides it, and the texts that it reads."""
    labels = (training.start or training).corpus
    corpora = [training.vocabulary, labels.corpus if labels else None]
    texts = [data.fingerprint(training.task.dataset, "train"), *(c.load().fingerprint for c in corpora if c)]
    return f"{training.key()}-{sha256_key(texts)[:12]}"


def _lesson(training: Training, task: Texts, device: str) -> tuple[BagSource | TextSource, Loss]:
    """What a student is trained on, and its loss: KL to the teacher without labels, or cross-entropy with labels."""
    method, reader = training.method, reader_of(training, device)
    labelled = (task.parts["train"], task.split.train)
    if not _distils(method):
        return reader.source([labelled]), lambda net, batch, _: nn.functional.cross_entropy(
            forward(net, batch), batch["label"]
        )
    parts, logits = [], []
    if method.on_train:
        parts.append(labelled)
        logits.append(teacher_logits(training.train, device)[labelled[1]])
    if training.corpus is not None and training.corpus.corpus is not None:
        rows = task.corpus_rows(training.corpus.corpus)
        rows = rows[: max(1, round(method.corpus_share * len(rows)))]
        parts.append((training.corpus.texts(), rows))
        logits.append(teacher_logits(training.corpus, device)[rows])
    source = reader.source(parts, {"teacher_logits": torch.cat(logits)})
    return source, lambda net, batch, _: losses.distillation(
        forward(net, batch), batch["teacher_logits"], batch["label"], a=0.0, b=1.0
    )


def rate(training: Training, device: str) -> float:
    """The learning rate with the best validation accuracy of seed 0 (among equals the smaller), chosen once."""
    if training.rate_of is not None:
        return rate(training.rate_of, device)
    if len(training.lrs) == 1:
        return training.lrs[0]
    return min(training.lrs, key=lambda lr: (-_tuned(_single(training, lr), device), lr))


def _single(training: Training, lr: float) -> Training:
    return training.model_copy(update={"lrs": [lr], "kept": False})


def _tuned(training: Training, device: str) -> float:
    """Validation accuracy of seed 0 of a training with one learning rate, computed once."""
    path = cache_dir() / "tuning" / f"{_name(training)}.json"
    if not path.exists():
        model, _ = trained(training, 0, device)
        write_atomic(path, json.dumps({"accuracy": _validation(training, model, device)}))
    return float(json.loads(path.read_text())["accuracy"])


def _validation(training: Training, model: nn.Module, device: str) -> float:
    task = _task(_key(training.task), device)
    texts, rows = task.parts["train"], task.split.validation
    logits = reader_of(training, device).logits(model, texts, rows)
    return accuracy(logits, torch.from_numpy(texts.labels[rows]))


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def _compute_teacher(task: "Texts") -> Outcome:
    """Train a teacher. Its quality on the test split is in the records of the students, from its stored logits."""
    teacher = task.teacher
    started = time.perf_counter()
    texts, rows = task.parts["train"], task.split.validation
    logits = logits_of_rows(teacher.model, task.source(texts, rows), task.device, "fp32", torch.arange(len(rows)))
    return Outcome(
        _quality(logits, torch.from_numpy(texts.labels[rows]), "validation"),
        clocks={**teacher.clocks, "eval_s": time.perf_counter() - started},
        cost={"params": zoo.parameters(teacher.model)},
        protocol=task.spec.teacher.train.protocol(),
        data=task.provenance(),
        environments=teacher.environments,
    )


def _compute_labels(cell: Cell, device: str) -> Outcome:
    labels = Labels.model_validate(cell.params["labels"])
    task, texts = _task(_key(labels.teacher), device), labels.texts()
    started = time.perf_counter()
    logits = task.shard_logits(texts, cell.seed, labels.shards, labels.max_length, labels.precision)
    clocks = {"teacher_s": time.perf_counter() - started}
    rows = metric("rows", len(logits), "texts", split=labels.name)
    return Outcome([rows], clocks=clocks, data={"fingerprint": texts.fingerprint})


def _compute_tuning(training: Training, device: str) -> Outcome:
    value = _tuned(training, device)
    rows = len(_task(_key(training.task), device).split.validation)
    return Outcome(
        [metric("accuracy", value, n=rows, split="validation"), metric("lr", training.lrs[0], "1", split="train")],
        protocol=training.recipe.protocol(),
    )


def _compute_student(cell: Cell, training: Training, device: str) -> Outcome:
    started = time.perf_counter()
    task, reader = _task(_key(training.task), device), reader_of(training, device)
    teacher = teacher_logits(training.test, device)
    teacher_s = time.perf_counter() - started
    model, clocks = trained(training, cell.seed, device)
    started = time.perf_counter()
    test = task.parts["test"]
    labels = torch.from_numpy(test.labels)
    logits = reader.logits(model, test, np.arange(len(labels)))
    validation = _validation(training, model, device)
    metrics = [
        *_quality(logits, labels, "test"),
        metric("accuracy", validation, n=len(task.split.validation), split="validation"),
        metric("teacher/accuracy", accuracy(teacher, labels), n=len(labels)),
        metric("agreement", accuracy(logits, teacher.argmax(dim=1)), n=len(labels)),
        metric("lr", rate(training, device), "1", split="train"),
    ]
    if cell.model == "dan" and cell.method in DISSECTED and isinstance(reader, NgramReader):
        metrics += _dissected(model, task, reader, logits, labels)
    return Outcome(
        metrics,
        clocks={**clocks, "teacher_s": teacher_s, "eval_s": time.perf_counter() - started},
        cost=_cost(model, reader, test),
        protocol=training.recipe.protocol(),
        data=task.provenance(),
    )


def _dissected(model: nn.Module, task: "Texts", reader: NgramReader, logits: Tensor, labels: Tensor) -> list[Metric]:
    """The ablations that need no other training."""
    vocabulary, device = reader.features, reader.device
    assert isinstance(vocabulary, Vocabulary) and isinstance(model, Dan)
    texts, rows = task.parts["train"], task.split.train
    train_texts, test_texts = [texts.texts[row] for row in rows], task.parts["test"].texts
    train, test = take(reader.encode(texts), rows), reader.encode(task.parts["test"])
    return [
        *shorter_ngrams(model, vocabulary, test, labels, device),
        *pruned(model, vocabulary, train, test, labels, device),
        *coverage(test_texts, test, cross_entropies(logits, labels), vocabulary.n),
        *overlaps(vocabulary, train_texts, train, test_texts, test),
        *exported(model, vocabulary, task.classes, test_texts, labels),
    ]


def _quality(logits: Tensor, labels: Tensor, split: str) -> list[Metric]:
    return [
        metric("accuracy", accuracy(logits, labels), n=len(labels), split=split),
        metric("cross_entropy", float(cross_entropies(logits, labels).mean()), "nat", len(labels), split),
    ]


def _cost(model: nn.Module, reader: NgramReader | TokenReader, test: TextSplit) -> dict[str, float]:
    """Parameters, those that one example touches, and FLOPs, as means over the first test texts."""
    count = min(BATCH, len(test.labels))
    batch = reader.source([(test, np.arange(count))]).batch(torch.arange(count), torch.Generator())
    params = zoo.parameters(model)
    if isinstance(model, Dan):
        bags = batch["bags"]
        assert isinstance(bags, RaggedIds)
        touched = np.mean([len(bags[i : i + 1].ids.unique()) for i in range(count)])
        active = params - (model.table.num_embeddings - float(touched)) * model.table.embedding_dim
    else:
        active = zoo.active_params(model, batch)
    return {"params": params, "active_params": active, "flops_per_example": zoo.flops(model, batch) / count}


def _compute_baseline(cell: Cell, device: str) -> Outcome:
    task = _task(_key(TaskSpec.model_validate(cell.params["baseline"])), device)
    texts, test = task.parts["train"], task.parts["test"]

    def part(rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [texts.texts[row] for row in rows], texts.labels[rows]

    started = time.perf_counter()
    fitted, chosen, found = baselines.tuned(
        cell.model, *part(task.split.train), *part(task.split.validation), len(task.classes), cell.seed
    )
    train_s = time.perf_counter() - started
    predicted = fitted.predict(test.texts)
    return Outcome(
        [
            metric("accuracy", float((predicted == test.labels).mean()), n=len(predicted)),
            metric("accuracy", max(found), n=len(task.split.validation), split="validation"),
        ],
        clocks={"train_s": train_s},
        protocol={"settings": chosen, "validation_accuracies": found, "input": "real"},
        data=task.provenance(),
    )


def timing_cells(config: SparseConfig, device: str) -> list[Cell]:
    """One cell per timing table, and one for the cost of a training step as the table grows."""
    found = [
        Cell(
            paper=PAPER, experiment="timing", tier=config.tier, dataset=table.dataset, model="table-12", method=device,
            params={"table": table.plain()}, seed=0,
        )
        for table in config.timing
    ]  # fmt: skip
    step = Cell(
        paper=PAPER, experiment="timing", tier=config.tier, dataset="synthetic", model="step", method=device,
        params={"step": config.step.plain()}, seed=0,
    )  # fmt: skip
    return [*found, step]


def _compute_timing(cell: Cell, device: str) -> Outcome:
    if "table" in cell.params:
        found = time_text_models(TextTiming.model_validate(cell.params["table"]), device=device)
    else:
        found = time_training_step(**StepTiming.model_validate(cell.params["step"]).model_dump(), device=device)
    metrics = [Metric.model_validate(one) for one in found.pop("metrics")]
    return Outcome(metrics, **found)


# The paper: 8 batches of 2,048 a second on one 32 GB GPU with a table of 10^9 parameters (section 2.5).
TABLE_PARAMETERS_PER_S = 8 * 2_048 * 1_000_000_000


def plan(config: SparseConfig) -> list[dict[str, Any]]:
    """GPU-hours, memory, disk and money of each task of a tier. Loads no data.

    A teacher's training step costs three forward passes, and labelling one; that is FLOPs. A student's step is bound by
    the memory of its table, so the paper's own rate is taken, which a smaller table is assumed to beat in proportion.
    """
    rows = []
    for task in config.tasks:
        info = data.MANIFEST[task.dataset]
        train_rows, test_rows = (info.splits[info.split_name(split)].rows or 0 for split in ("train", "test"))
        unlabelled = (task.corpus.rows or 0) if task.corpus else 0
        spec = task.teacher
        cost = zoo.cost(spec.model, size=spec.max_length, **spec.options)
        labelling = zoo.cost(spec.model, size=task.label_length, **spec.options)["flops_per_example"]
        seen = spec.train.total_steps(train_rows) * spec.train.global_batch
        flops = cost["flops_per_example"] * 3 * seen + labelling * (train_rows + test_rows + unlabelled)
        hours = planning.ASSUMPTIONS.hours(flops)
        rows.append(planning.row(
            task.dataset, "teacher", spec.model, runs=1, hours=hours, params=cost["params"], copies_on_disk=3
        ))  # fmt: skip
        for student in config.students:
            trained = [t for t in trainings(config, task) if t.student == student.spec]
            if not trained:
                continue
            size = student.spec.vocab * student.spec.dim
            examples = sum(_examples(t, train_rows, unlabelled) * (config.seeds + _grid(t)) for t in trained)
            rows.append(planning.row(
                task.dataset, "student", student.spec.name, runs=len(trained) * config.seeds,
                hours=examples * size / TABLE_PARAMETERS_PER_S / 3600, params=size,
                copies_on_disk=config.seeds * sum(t.kept for t in trained),
                note="; students at the paper's rate of 8 batches of 2,048 a second for 10^9 parameters",
            ))  # fmt: skip
    return rows


def _examples(training: Training, train_rows: int, unlabelled: int) -> int:
    """Examples that one run sees."""
    method = training.method
    rows = train_rows if method.on_train or method.matched or not _distils(method) else 0
    rows += round((1.0 if method.matched else method.corpus_share) * unlabelled)
    return training.recipe.total_steps(rows) * training.recipe.global_batch


def _grid(training: Training) -> int:
    """Runs that choose the learning rate."""
    return len(training.lrs) if training.rate_of is None and len(training.lrs) > 1 else 0
