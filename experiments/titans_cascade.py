"""When in Doubt, Summon the Titans (arXiv 2110.10305v1): cascades from distillation.

Which cells exist, how one is computed, what is measured. A task is a data set with one teacher and several students;
every student method is trained with the same recipe, order and initialisation per repetition, so that methods are
compared in pairs. Teachers and students are cached under the key of the cell that trains them.
"""

import time
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro import data, planning, seeds, zoo
from paper_repro.cascade.measure import CascadeSettings, Predictions, as_tensor, measure_cascade, teacher_summary
from paper_repro.config import Config
from paper_repro.data.sources import ImageSource, TextSource, channel_statistics
from paper_repro.distill import losses
from paper_repro.distill.teacher import ModelSpec, Teacher, stored_logits, trained_teacher
from paper_repro.distill.weights import load_model, save_model
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir
from paper_repro.results.schema import Metric
from paper_repro.runner import Cell, Outcome
from paper_repro.timing.inference import time_pair
from paper_repro.train import Loss, TrainConfig, forward, predict, train

PAPER = "titans"


class Method(Config):
    """One way to train a student. The fields that ``kind`` does not use stay at None."""

    name: str
    kind: Literal["distillation", "margin", "class", "abstain", "gatekeeper"]
    a: float | None = None  # weight of the true label
    b: float | None = None  # weight of the teacher
    temperature: float | None = None
    rho: float | None = None  # rho_train: teacher margin above which an example is easy
    alpha: float | None = None  # smoothing of the label of hard examples; for gatekeeper its own alpha
    random_subset: bool = False  # control iii: a random subset as large as the easy one
    seeds: int  # repetitions
    decisive: bool = False  # carries the comparison that the paper rests on: repeated ``Student.decisive_seeds`` times


class Student(Config):
    """A student and how often the decisive methods are repeated with it."""

    spec: ModelSpec
    decisive_seeds: int


class Task(Config):
    """A data set, its teacher and its students."""

    dataset: str
    modality: Literal["image", "text"]
    validation_fraction: float
    in_classes: list[int] | int  # L_in, or how many of the first classes
    teacher: ModelSpec
    students: list[Student]


class TimingPair(Config):
    """Two published architectures timed side by side at random weights and on synthetic input."""

    student: str
    teacher: str
    student_batch: int  # of the throughput measurement; latency is at batch 1
    teacher_batch: int
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    rounds: int


class TitansConfig(Config):
    """One tier."""

    tier: str
    tasks: list[Task]
    methods: list[Method]
    easy_margin: float
    keep_fraction: float
    rho: float
    epsilon: float
    delta: float
    timing: list[TimingPair]


CONFIG = TitansConfig


# ---------------------------------------------------------------------------------------------------------------------
# Which cells exist


def cells(config: TitansConfig, data: str | None = None, seeds: int | None = None) -> list[Cell]:
    """Every cell of a tier: teachers, then students, then the methods that start from a trained student.

    ``data`` (a data set name or a parquet file) replaces the tier's tasks; ``seeds`` caps the repetitions per method.
    """
    found = []
    for task in config.tasks if data is None else [own_task(config, data)]:
        shared: dict[str, Any] = {
            "task": task.model_dump(mode="json", include={"dataset", "modality", "validation_fraction"}),
            "teacher": task.teacher.model_dump(mode="json"),
            "easy_margin": config.easy_margin,
        }
        found.append(_cell(config, task, task.teacher, "teacher", "teacher", shared, seed=0, stage=0))
        chosen = task.in_classes
        shared["in_classes"] = list(range(chosen)) if isinstance(chosen, int) else chosen
        shared["settings"] = config.model_dump(include={"keep_fraction", "rho", "epsilon", "delta"})
        for student in task.students:
            for method in config.methods:
                params = {
                    **shared,
                    "student": student.spec.model_dump(mode="json"),
                    "method": method.model_dump(mode="json", exclude={"seeds", "decisive"}, exclude_none=True),
                }
                repetitions = student.decisive_seeds if method.decisive else method.seeds
                for seed in range(min(repetitions, seeds or repetitions)):
                    stage = 2 if method.kind == "gatekeeper" else 1
                    found.append(_cell(config, task, student.spec, "student", method.name, params, seed, stage))
    # Repetition by repetition, so that a run that is cut short has whole pairs.
    return sorted(found, key=lambda cell: (cell.stage, cell.seed))


def _cell(
    config: TitansConfig, task: Task, spec: ModelSpec, experiment: str, method: str, params: dict[str, Any],
    seed: int, stage: int,
) -> Cell:  # fmt: skip
    return Cell(
        paper=PAPER,
        experiment=experiment,
        tier=config.tier,
        dataset=data.label(task.dataset),
        model=spec.model,
        method=method,
        params=params,
        seed=seed,
        stage=stage,
    )


def data_sets(config: TitansConfig) -> set[str]:
    """What a tier reads."""
    return {task.dataset for task in config.tasks}


def own_task(config: TitansConfig, dataset: str) -> Task:
    """The tier's task of the same modality with its data replaced; L_in becomes the first half of the classes."""
    info = data.describe(dataset)
    template = next((task for task in config.tasks if task.modality == info.modality), None)
    if template is None:
        raise UserError(
            f"The tier '{config.tier}' has no {info.modality} task to take the recipe from; choose another."
        )
    in_classes = list(range((len(info.classes) + 1) // 2))
    return template.model_copy(update={"dataset": data.absolute(dataset), "in_classes": in_classes})


def timing_cells(config: TitansConfig, device: str) -> list[Cell]:
    """One cell per pair of published architectures."""
    return [
        Cell(
            paper=PAPER, experiment="timing", tier=config.tier, dataset="synthetic",
            model=f"{pair.student}|{pair.teacher}", method=device, params=pair.model_dump(mode="json"), seed=0,
        )
        for pair in config.timing
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# How a cell is computed


def compute(cell: Cell, device: str) -> Outcome:
    """Train and measure what ``cell`` names."""
    if cell.experiment == "timing":
        return _compute_timing(cell, device)
    task = _task(cell, device)
    return _compute_teacher(cell, task) if cell.experiment == "teacher" else _compute_student(cell, task)


class TaskData:
    """The examples of one task, split, with the teacher that belongs to them."""

    def __init__(self, cell: Cell, device: str) -> None:
        self.cell, self.device = cell, device
        self._logits: dict[str, Tensor] = {}
        settings = cell.params["task"]
        self.dataset, self.is_image = settings["dataset"], settings["modality"] == "image"
        self.label = cell.dataset  # seeds come from this: for a file of one's own from its content, not from its path
        load = data.load_images if self.is_image else data.load_texts
        self.parts: dict[str, Any] = {split: load(self.dataset, split) for split in ("train", "test")}
        self.classes = self.parts["train"].classes
        labels = self.parts["train"].labels
        groups = data.phrase_groups(self.dataset)
        self.split = data.stratified_split(
            labels, settings["validation_fraction"], seeds.derive(0, "validation", dataset=self.label), groups=groups
        )
        self.rows = {
            "train": self.split.train,
            "validation": self.split.validation,
            "official_train": np.arange(len(labels)),
            "test": np.arange(len(self.parts["test"].labels)),
        }
        self.teacher_spec = ModelSpec.model_validate(cell.params["teacher"])

    def labels(self, rows: str) -> Tensor:
        """True labels [N] of a split."""
        part = self.parts["test" if rows == "test" else "train"]
        return torch.from_numpy(part.labels[self.rows[rows]])

    def source(
        self, spec: ModelSpec, rows: str, *, augment: bool = False, extra: dict[str, Tensor] | None = None
    ) -> ImageSource | TextSource:
        """The examples of a split as ``spec`` reads them."""
        split = "test" if rows == "test" else "train"
        where = self.rows[rows]
        if not self.is_image:
            tokens = data.encode(self.parts[split], zoo.load_tokenizer(spec.tokenizer), spec.max_length)
            return TextSource(
                tokens, self.parts[split].labels, where, max_length=spec.max_length, device=self.device, extra=extra
            )
        images = data.load_images(self.dataset, split, size=spec.image_size)
        mean, std = channel_statistics(data.load_images(self.dataset, "train", size=spec.image_size).pixels)
        return ImageSource(
            images.pixels, images.labels, where, mean=mean, std=std, augment=augment, device=self.device, extra=extra
        )

    def build(self, spec: ModelSpec, seed: int, num_classes: int | None = None) -> nn.Module:
        """A fresh model; all methods of one repetition with the same number of outputs start from the same."""
        torch.manual_seed(seeds.derive(seed, "init", dataset=self.label, model=spec.model))
        model = zoo.build(spec.model, num_classes or len(self.classes), **spec.options)
        return model.to(self.device)

    def weights_path(self, cell: Cell) -> Path:
        """Where the model that ``cell`` trains is cached; new data means a new name."""
        return cache_dir() / "models" / f"{cell.key()}-{self.parts['train'].fingerprint[:12]}.safetensors"

    def teacher_cell(self) -> Cell:
        """The cell that trains this task's teacher."""
        params = {name: self.cell.params[name] for name in ("task", "teacher", "easy_margin")}
        update = {
            "experiment": "teacher", "model": self.teacher_spec.model, "method": "teacher", "params": params, "seed": 0
        }  # fmt: skip
        return self.cell.model_copy(update=update)

    @cached_property
    def teacher(self) -> Teacher:
        """The trained teacher: from the cache, or trained now, resuming where a killed run stopped."""
        return trained_teacher(
            self.build(self.teacher_spec, seed=0),
            self.weights_path(self.teacher_cell()),
            self.source(self.teacher_spec, "train", augment=self.teacher_spec.augment),
            self.teacher_spec.train,
            device=self.device,
            dataset=self.label,
        )

    def teacher_logits(self, rows: Literal["official_train", "test"]) -> Tensor:
        """Teacher logits [N, L] of a whole official split, from the store."""
        if rows not in self._logits:
            fingerprint = self.parts["test" if rows == "test" else "train"].fingerprint
            source = self.source(self.teacher_spec, rows)
            logits = stored_logits(self.teacher.model, self.teacher_spec, source, fingerprint, device=self.device)
            self._logits[rows] = as_tensor(logits)
        return self._logits[rows]

    def cost(self, spec: ModelSpec, model: nn.Module) -> dict[str, float]:
        """Parameters (all, and those that an example touches) and FLOPs per example.

        Means over the first test examples as one batch, texts padded to the longest of them.
        """
        source = self.source(spec, "test")
        count = min(64, len(source))
        batch = source.batch(torch.arange(count), torch.Generator())
        return {
            "params": zoo.parameters(model),
            "active_params": zoo.active_params(model, batch),
            "flops_per_example": zoo.flops(model, batch) / count,
        }

    def protocol(self, recipe: TrainConfig) -> dict[str, Any]:
        """How a model of this task was trained and evaluated."""
        return {**recipe.protocol(), "evaluation_precision": "fp32"}

    def provenance(self) -> dict[str, Any]:
        """What the data was: fingerprints of the files, and of the indices of the validation split."""
        return {
            "train_fingerprint": self.parts["train"].fingerprint,
            "test_fingerprint": self.parts["test"].fingerprint,
            "validation_split_sha256": self.split.sha256,
            "rows": {name: len(rows) for name, rows in self.rows.items()},
        }

    def student_logits(self, cell: Cell, model: nn.Module, rows: str) -> Tensor:
        """Logits of a trained student on a split."""
        source = self.source(ModelSpec.model_validate(cell.params["student"]), rows)
        return predict(model, source, 1024, device=self.device).cpu()


@lru_cache(maxsize=2)
def _task_by_key(cell_json: str, device: str) -> TaskData:
    return TaskData(Cell.model_validate_json(cell_json), device)


def _task(cell: Cell, device: str) -> TaskData:
    """The data of the cell's task, read once per process: cells that differ in student, method or seed share it."""
    params = {name: cell.params[name] for name in ("task", "teacher", "easy_margin")}
    anchor = cell.model_copy(update={"experiment": "", "model": "", "method": "", "params": params, "seed": 0})
    return _task_by_key(anchor.model_dump_json(), device)


def _compute_teacher(cell: Cell, task: TaskData) -> Outcome:
    teacher = task.teacher
    started = time.perf_counter()
    official, test = task.teacher_logits("official_train"), task.teacher_logits("test")
    clocks = {**teacher.clocks, "teacher_s": time.perf_counter() - started}
    easy = cell.params["easy_margin"]
    metrics = teacher_summary(test, task.labels("test"), easy, "test")
    for rows in ("train", "validation"):
        metrics += teacher_summary(official[task.rows[rows]], task.labels(rows), easy, rows)
    return Outcome(
        metrics,
        clocks=clocks,
        cost=task.cost(task.teacher_spec, teacher.model),
        protocol=task.protocol(task.teacher_spec.train),
        data=task.provenance(),
        environments=teacher.environments,
    )


def _compute_student(cell: Cell, task: TaskData) -> Outcome:
    spec = ModelSpec.model_validate(cell.params["student"])
    method = Method.model_validate({**cell.params["method"], "seeds": 1})
    started = time.perf_counter()
    official, test_teacher = task.teacher_logits("official_train"), task.teacher_logits("test")
    teacher_s = time.perf_counter() - started
    in_domain = torch.zeros(len(task.classes), dtype=torch.bool)
    in_domain[cell.params["in_classes"]] = True

    model, clocks = _train_student(cell, task, spec, method, official, in_domain)
    started = time.perf_counter()
    cost = task.cost(spec, model)
    cost["teacher_flops_per_example"] = task.cost(task.teacher_spec, task.teacher.model)["flops_per_example"]
    of = partial(Predictions, in_domain=in_domain, abstains=method.kind == "abstain")
    validation = of(
        task.student_logits(cell, model, "validation"), official[task.rows["validation"]], task.labels("validation")
    )
    test = of(task.student_logits(cell, model, "test"), test_teacher, task.labels("test"))
    settings = CascadeSettings(
        easy_margin=cell.params["easy_margin"],
        student_cost=cost["flops_per_example"],
        teacher_cost=cost["teacher_flops_per_example"],
        **cell.params["settings"],
    )
    metrics, samples = measure_cascade(validation, test, settings)
    clocks = {**clocks, "teacher_s": teacher_s, "eval_s": time.perf_counter() - started}
    recipe = spec.fine_tune if method.kind == "gatekeeper" and spec.fine_tune else spec.train
    return Outcome(
        metrics, samples=samples, clocks=clocks, cost=cost, protocol=task.protocol(recipe), data=task.provenance()
    )


def _train_student(
    cell: Cell, task: TaskData, spec: ModelSpec, method: Method, teacher_logits: Tensor, in_domain: Tensor
) -> tuple[nn.Module, dict[str, float]]:
    """Train, or for Gatekeeper fine-tune the plainly trained student of the same repetition."""
    outputs = int(in_domain.sum()) + 1 if method.kind == "abstain" else None
    model = task.build(spec, cell.seed, outputs)
    logits = teacher_logits[task.rows["train"]]
    loss, easy = training_loss(method, logits, in_domain.to(task.device), cell.seed)
    recipe = spec.train
    if method.kind == "gatekeeper":
        plain = Method(name="ce", kind="distillation", a=1.0, b=0.0, seeds=1)
        model, _ = _train_student(plain_cell(cell, plain), task, spec, plain, teacher_logits, in_domain)
        if spec.fine_tune is None:
            raise UserError(
                f"The student '{spec.model}' has no 'fine_tune' recipe, which '{method.name}' needs; add it."
            )
        recipe = spec.fine_tune
    extra = {"teacher_logits": logits} if easy is None else {"teacher_logits": logits, "easy": easy}
    path = task.weights_path(cell)
    if path.exists():
        load_model(model, path)
        return model.eval(), {}
    result = train(
        model,
        task.source(spec, "train", augment=spec.augment, extra=extra),
        loss,
        recipe,
        seed=cell.seed,
        device=task.device,
        stream_axes={"dataset": task.label, "role": "student"},
    )
    if cell.method == "ce":
        save_model(model, path)  # Gatekeeper starts from it
    return model.eval(), result.clocks


def plain_cell(cell: Cell, plain: Method) -> Cell:
    """The ``ce`` cell of the same task, student and repetition, as ``cells`` makes it."""
    method = plain.model_dump(mode="json", exclude={"seeds", "decisive"}, exclude_none=True)
    return cell.model_copy(update={"method": plain.name, "params": {**cell.params, "method": method}})


def training_loss(method: Method, teacher_logits: Tensor, in_domain: Tensor, seed: int) -> tuple[Loss, Tensor | None]:
    """The loss of ``method`` and, where it needs one, the easy mask over the training examples [N].

    Easiness is decided once, on the clean view of each example that the teacher's logits were computed on.
    """
    easy = None
    if method.kind == "margin":
        assert method.rho is not None
        easy = losses.easy_by_margin(teacher_logits, method.rho)
        if method.random_subset:
            order = torch.randperm(len(easy), generator=seeds.torch_rng(seed, "random subset"))
            easy = easy[order]
    functions: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
        "distillation": lambda z, batch: losses.distillation(
            z, batch["teacher_logits"], batch["label"], a=method.a or 0.0, b=method.b or 0.0,
            temperature=method.temperature or 1.0,
        ),
        "margin": lambda z, batch: losses.margin_based(
            z, batch["teacher_logits"], batch["label"], batch["easy"], alpha=method.alpha or 0.0
        ),
        "class": lambda z, batch: losses.class_specific(
            z, batch["teacher_logits"], batch["label"], in_domain, alpha=method.alpha or 0.0
        ),
        "abstain": lambda z, batch: losses.class_specific_abstain(
            z, batch["teacher_logits"], batch["label"], in_domain
        ),
        "gatekeeper": lambda z, batch: losses.gatekeeper(z, batch["label"], alpha=method.alpha or 0.0),
    }  # fmt: skip
    function = functions[method.kind]
    return lambda model, batch, _: function(forward(model, batch).float(), batch), easy


# ---------------------------------------------------------------------------------------------------------------------
# Timing at the papers' own architectures, and what the paper's own settings would cost


def _compute_timing(cell: Cell, device: str) -> Outcome:
    pair = TimingPair.model_validate(cell.params)
    found = time_pair(
        pair.student, pair.teacher, device=device, student_batch=pair.student_batch, teacher_batch=pair.teacher_batch,
        precision=pair.precision, rounds=pair.rounds,
    )  # fmt: skip
    metrics = [Metric.model_validate(metric) for metric in found.pop("metrics")]
    return Outcome(metrics, **found)


def plan(config: TitansConfig) -> list[dict[str, Any]]:
    """GPU-hours, memory, disk and money of each task of a tier, from the FLOPs of its models. Loads no data.

    A training step costs three forward passes (forward, and twice that backward). The teacher's logits cost one
    forward pass over the train and test examples; the teacher's own training is in its row.
    """
    return [
        _planned(task, role, spec, runs)
        for task in config.tasks
        for role, spec, runs in [
            ("teacher", task.teacher, 1),
            *(("student", s.spec, _repetitions(config, s)) for s in task.students),
        ]
    ]


def _repetitions(config: TitansConfig, student: Student) -> int:
    return sum(student.decisive_seeds if method.decisive else method.seeds for method in config.methods)


def _planned(task: Task, role: str, spec: ModelSpec, runs: int) -> dict[str, Any]:
    info = data.MANIFEST[task.dataset]
    train_rows, test_rows = (info.splits[info.split_name(split)].rows or 0 for split in ("train", "test"))
    cost = zoo.cost(spec.model, size=spec.max_length if task.modality == "text" else spec.image_size, **spec.options)
    seen = spec.train.total_steps(train_rows) * spec.train.global_batch
    flops = runs * cost["flops_per_example"] * (3 * seen + train_rows + test_rows)
    return planning.row(
        task.dataset, role, spec.model, runs=runs, hours=planning.ASSUMPTIONS.hours(flops), params=cost["params"],
        copies_on_disk=3 if role == "teacher" else 1,  # a teacher also has a checkpoint
    )  # fmt: skip
