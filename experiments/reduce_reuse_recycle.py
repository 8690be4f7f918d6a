"""Reduce, Reuse, Recycle (arXiv 2211.00683v1): distillation as a way to train faster.

Which cells exist, how one is computed, what is measured. An arm is a way of training; it is run to the end of its
schedule for each of several durations, so that its runs make a curve of quality over wall-clock, and two arms a
speed-up at equal quality (``iso_quality``). All arms of a repetition start from the same weights and see the same
examples in the same order. Teachers are trained (stage 0), label the training set where an arm reads logits from a
cache (1), learning rates are chosen on validation data (2), students trained (3), and language models fine-tuned (4),
one that was not pretrained among them: what they score is the floor.
"""

import json
import time
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from paper_repro import data, planning, zoo
from paper_repro.config import Config, sha256_key
from paper_repro.distill.glue import fine_tune, load_glue
from paper_repro.distill.image_task import ImageTask
from paper_repro.distill.kd import Distillation
from paper_repro.distill.masked_lm_task import MaskedLmTask
from paper_repro.distill.pool import TeacherPool
from paper_repro.distill.teacher import ModelSpec, Teacher, stored_logits, trained_teacher
from paper_repro.distill.weights import load_model, save_model
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.results.schema import Metric
from paper_repro.runner import Cell, Outcome
from paper_repro.timing.kd_step import time_kd_steps
from paper_repro.timing.memory import peak_memory
from paper_repro.train import (
    Diverged,
    Loss,
    Step,
    TrainConfig,
    TrainResult,
    forward,
    predict,
    rank_and_world,
    train,
    training_seconds,
)
from paper_repro.zoo.text import MaskedLm

PAPER = "recycle"
Modality = Literal["image", "masked_lm"]
TASKS: dict[Modality, type[ImageTask] | type[MaskedLmTask]] = {"image": ImageTask, "masked_lm": MaskedLmTask}
PASSES = 3  # of a teacher over the training images, when the time that takes is measured
MEASURES: dict[Modality, str] = {"image": "accuracy", "masked_lm": "loss"}  # by which learning rates are chosen


class Arm(Config):
    """A way of training a student.

    ``teachers``: names of the task's teachers, asked in the loop, or with ``cached`` one whose logits on the training
    set are computed once, on clean images. ``draw``: of how many of them a step asks (None: all). ``everywhere``: a
    masked language model's student and teacher are compared at all positions, not only at those to be predicted.
    """

    name: str
    kd: Distillation | None = None
    teachers: list[str] = Field(default_factory=list)
    draw: int | None = None
    cached: bool = False
    label_smoothing: float = 0.0
    augment: bool = False
    everywhere: bool = False
    rate_of: str | None = None  # the arm whose chosen learning rate is taken; None: chosen for this one
    durations: list[float] | None = None  # None: the task's
    seeds: int  # repetitions


class FineTuning(Config):
    """One recipe for all arms and tasks. ``limit``: of a task's training examples so many are used; None: all."""

    train: TrainConfig
    limit: int | None = None


class Glue(Config):
    """Fine-tuning on GLUE's tasks of the students of one duration, and of the first arm's before any training."""

    arms: list[str]
    duration: float
    seeds: int
    tasks: list[str]
    recipe: FineTuning


class Task(Config):
    """A data set, its student, the teachers to choose from, and the arms. Durations are epochs of images, and
    optimiser steps of a language model, whose text nobody reads twice.
    """

    dataset: str
    modality: Modality
    validation_fraction: float
    student: ModelSpec  # its ``train`` gets the duration and the learning rate of the run
    durations: list[float]
    lrs: list[float]  # to choose from on validation data ...
    tuned_at: float  # ... in runs of this duration ...
    tuning_seeds: int  # ... of so many repetitions
    teachers: dict[str, ModelSpec]
    arms: list[Arm]
    glue: Glue | None = None


class TimingPair(Config):
    """Training steps of an architecture with teachers of another; see ``time_kd_steps``."""

    student: str
    teacher: str
    batch: int
    draws: list[int]
    ensembles: list[int]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    rounds: int
    block_s: float = 0.3  # seconds of a timed block, at least


class RecycleConfig(Config):
    """One tier."""

    tier: str
    tasks: list[Task]
    timing: list[TimingPair]


CONFIG = RecycleConfig


class Where(Config):
    """The examples of a run."""

    dataset: str
    modality: Modality
    validation_fraction: float


class TeacherSpec(Config):
    """What decides a trained teacher. ``seed``: of first weights that no student has, and of the order of examples."""

    where: Where
    spec: ModelSpec
    seed: int = 0


class Run(Config):
    """All that decides a trained student but the seed: what a cell's key is made of."""

    where: Where
    student: ModelSpec
    duration: float
    arm: Arm
    teachers: list[TeacherSpec]
    lrs: list[float]
    tuning_seeds: int
    rate_of: "Run | None" = None  # the run for which the learning rate is chosen; None: this one


# ---------------------------------------------------------------------------------------------------------------------
# Which cells exist


def cells(config: RecycleConfig, data: str | None = None, seeds: int | None = None) -> list[Cell]:
    """Every cell of a tier, in the order of the stages above and repetition by repetition.

    ``data`` (a data set name or a parquet file) replaces the tier's tasks; ``seeds`` caps the repetitions.
    """
    found: list[Cell] = []
    for task in config.tasks if data is None else [own_task(config, data)]:
        read = {arm.teachers[0] for arm in task.arms if arm.cached}
        for name, spec in task.teachers.items():
            params = {"teacher": _teacher(task, spec).plain()}
            found.append(_cell(config, "teacher", task, spec.model, name, params))
            if name in read:
                found.append(_cell(config, "labels", task, spec.model, name, params, stage=1))
        for arm in task.arms:
            found += _cells_of_arm(config, task, arm, seeds)
    return sorted(found, key=lambda cell: (cell.stage, cell.seed))


def _cells_of_arm(config: RecycleConfig, task: Task, arm: Arm, seeds: int | None) -> list[Cell]:
    def of_run(experiment: str, run: Run, seed: int, stage: int) -> Cell:
        return _cell(config, experiment, task, run.student.model, method_name(run), {"run": run.plain()}, seed, stage)

    found: list[Cell] = []
    if arm.rate_of is None and len(task.lrs) > 1:
        for number, lr in enumerate(task.lrs):
            tuned = _run(task, arm, task.tuned_at).model_copy(update={"lrs": [lr]})
            found.append(of_run("tuning", tuned, number, 2))
    for duration in arm.durations or task.durations:
        run = _run(task, arm, duration)
        found += [of_run("student", run, seed, 3) for seed in range(min(arm.seeds, seeds or arm.seeds))]
    if task.glue is not None and arm.name in task.glue.arms:
        recipe = task.glue.recipe.plain()
        for duration in (0.0, task.glue.duration) if arm.name == task.glue.arms[0] else (task.glue.duration,):
            run = _run(task, arm, duration)
            for name, seed in product(task.glue.tasks, range(min(task.glue.seeds, seeds or task.glue.seeds))):
                cell = of_run("glue", run, seed, 4)
                params = cell.params | {"recipe": recipe}
                found.append(cell.model_copy(update={"dataset": name, "params": params}))
    return found


def data_sets(config: RecycleConfig) -> set[str]:
    """What a tier reads."""
    tasks = {name for task in config.tasks if task.glue is not None for name in task.glue.tasks}
    return {task.dataset for task in config.tasks} | tasks


def own_task(config: RecycleConfig, dataset: str) -> Task:
    """The tier's task of the same modality with its data replaced; of text, a language model without GLUE."""
    modality = "image" if data.describe(dataset).modality == "image" else "masked_lm"
    template = next((task for task in config.tasks if task.modality == modality), None)
    if template is None:
        raise UserError(f"The tier '{config.tier}' has no {modality} task to take the recipe from; choose another.")
    return template.model_copy(update={"dataset": data.absolute(dataset), "glue": None})


def timing_cells(config: RecycleConfig, device: str) -> list[Cell]:
    """One cell per pair of architectures."""
    return [
        Cell(
            paper=PAPER, experiment="timing", tier=config.tier, dataset="synthetic",
            model=f"{pair.student}|{pair.teacher}", method=device, params=pair.plain(), seed=0,
        )
        for pair in config.timing
    ]  # fmt: skip


def method_name(run: Run) -> str:
    """What records call a run: its arm and duration."""
    return f"{run.arm.name}@{run.duration:g}"


def _run(task: Task, arm: Arm, duration: float) -> Run:
    arms = {one.name: one for one in task.arms}
    unknown = [name for name in arm.teachers if name not in task.teachers]
    unknown += [] if arm.rate_of is None or arm.rate_of in arms else [arm.rate_of]
    if unknown:
        raise UserError(f"The arm '{arm.name}' names '{unknown[0]}', which its task lacks; mend its configuration.")
    if (arm.kd is None) != (not arm.teachers) or (arm.cached and (len(arm.teachers) > 1 or arm.augment)):
        raise UserError(
            f"The arm '{arm.name}' needs 'kd' and teachers together, and a cached one a single teacher and no "
            "augmentation; mend its configuration."
        )
    owner = None if arm.rate_of is None else _run(task, arms[arm.rate_of], task.tuned_at)
    return Run(
        where=_where(task),
        student=task.student,
        duration=duration,
        arm=arm.model_copy(update={"seeds": 0, "durations": None, "rate_of": None}),
        teachers=[_teacher(task, task.teachers[name]) for name in arm.teachers],
        lrs=task.lrs,
        tuning_seeds=task.tuning_seeds,
        rate_of=owner or (None if duration == task.tuned_at else _run(task, arm, task.tuned_at)),
    )


def _where(task: Task) -> Where:
    return Where(dataset=task.dataset, modality=task.modality, validation_fraction=task.validation_fraction)


def _teacher(task: Task, spec: ModelSpec) -> TeacherSpec:
    return TeacherSpec(where=_where(task), spec=spec)


def _cell(
    config: RecycleConfig, experiment: str, task: Task, model: str, method: str, params: dict[str, Any],
    seed: int = 0, stage: int = 0,
) -> Cell:  # fmt: skip
    return Cell(
        paper=PAPER, experiment=experiment, tier=config.tier, dataset=data.label(task.dataset), model=model,
        method=method, params=params, seed=seed, stage=stage,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# How a cell is computed


def compute(cell: Cell, device: str) -> Outcome:
    """Train and measure what ``cell`` names."""
    if cell.experiment == "timing":
        return _compute_timing(cell, device)
    if cell.experiment in ("teacher", "labels"):
        spec = TeacherSpec.model_validate(cell.params["teacher"])
        return _compute_teacher(spec, device) if cell.experiment == "teacher" else _compute_labels(spec, device)
    run = Run.model_validate(cell.params["run"])
    if cell.experiment == "glue":
        return _compute_glue(run, FineTuning.model_validate(cell.params["recipe"]), cell.dataset, cell.seed, device)
    return _compute_tuning(run, device) if cell.experiment == "tuning" else _compute_student(run, cell.seed, device)


@lru_cache(maxsize=2)
def _examples_by_json(where_json: str, device: str) -> ImageTask | MaskedLmTask:
    where = Where.model_validate_json(where_json)
    return TASKS[where.modality](where.dataset, where.validation_fraction, device)


def _examples(where: Where, device: str) -> ImageTask | MaskedLmTask:
    """The data of a run, read once per process."""
    return _examples_by_json(where.model_dump_json(), device)


@lru_cache(maxsize=8)
def _trained_by_json(spec_json: str, device: str) -> Teacher:
    teacher = TeacherSpec.model_validate_json(spec_json)
    task, spec = _examples(teacher.where, device), teacher.spec
    name = sha256_key({"teacher": teacher.plain(), "data": task.fingerprint})
    found = trained_teacher(
        task.build(spec, teacher.seed, teacher=1),
        cache_dir() / "models" / f"{name}.safetensors",
        task.source(spec, "train", augment=spec.augment),
        spec.train,
        device=device,
        dataset=task.label,
        loss=task.task_loss,
        seed=teacher.seed,
    )
    found.model.to(device)
    if spec.train.channels_last:
        found.model.to(memory_format=torch.channels_last)
    return found


def _trained(teacher: TeacherSpec, device: str) -> Teacher:
    """The trained teacher: from the cache, or trained now, resuming where a killed run stopped."""
    return _trained_by_json(teacher.model_dump_json(), device)


@lru_cache(maxsize=8)
def _test_quality_by_json(spec_json: str, device: str) -> list[Metric]:
    spec = TeacherSpec.model_validate_json(spec_json)
    return _examples(spec.where, device).quality(spec.spec, _trained(spec, device).model, "test")


def _test_quality(spec: TeacherSpec, device: str) -> list[Metric]:
    """How good a teacher is on the test split, computed once per process."""
    return _test_quality_by_json(spec.model_dump_json(), device)


def _compute_teacher(spec: TeacherSpec, device: str) -> Outcome:
    task, teacher = _examples(spec.where, device), _trained(spec, device)
    started = time.perf_counter()
    return Outcome(
        [
            *task.quality(spec.spec, teacher.model, "validation"),
            *_test_quality(spec, device),
            Metric.of_training("seconds", training_seconds(teacher.clocks), "s"),
        ],
        clocks={**teacher.clocks, "eval_s": time.perf_counter() - started},
        cost={"params": zoo.parameters(teacher.model), "flops_per_example": task.flops(spec.spec)},
        protocol=_protocol(spec.spec.train),
        data=task.provenance(),
        environments=teacher.environments,
    )


def _labels(spec: TeacherSpec, device: str) -> np.ndarray:
    """The teacher's logits [N, C] on the clean training images, from the store."""
    task, teacher = _image_task(spec.where, device), _trained(spec, device)
    name = sha256_key({"data": task.fingerprint, "rows": task.split.sha256})
    source, precision = task.source(spec.spec, "train"), spec.spec.train.precision
    return stored_logits(teacher.model, spec.spec, source, name, device=device, precision=precision)


def _image_task(where: Where, device: str) -> ImageTask:
    task = _examples(where, device)
    if not isinstance(task, ImageTask):  # what a language model is to predict is drawn anew for every batch
        raise UserError("Logits of a masked language model cannot be cached; ask its teacher in the loop.")
    return task


def _labelling_s(spec: TeacherSpec, device: str) -> float:
    """Seconds of a clean pass of the teacher over the training images: the median of ``PASSES``, taken once."""
    task, teacher = _image_task(spec.where, device), _trained(spec, device)
    name = sha256_key({"teacher": spec.plain(), "data": task.fingerprint, "device": device})
    path = cache_dir() / "labelling" / f"{name}.json"
    if not path.exists():
        source = task.source(spec.spec, "train")
        passes = []
        for _ in range(PASSES):
            started = time.perf_counter()
            predict(teacher.model, source, 256, device=device, precision=spec.spec.train.precision)
            passes.append(time.perf_counter() - started)
        write_atomic(path, json.dumps({"seconds": passes}))
    return float(np.median(json.loads(path.read_text())["seconds"]))


def _compute_labels(spec: TeacherSpec, device: str) -> Outcome:
    seconds, rows = _labelling_s(spec, device), len(_labels(spec, device))
    metrics = [Metric.of_training("rows", rows, "images"), Metric.of_training("seconds", seconds, "s")]
    return Outcome(metrics, clocks={"teacher_s": seconds}, data=_examples(spec.where, device).provenance())


def rate(run: Run, device: str) -> float:
    """The learning rate with the best validation quality (among equals the smaller), chosen once."""
    owner = run.rate_of or run
    if len(owner.lrs) == 1:
        return owner.lrs[0]
    sign = -1 if run.where.modality == "image" else 1

    def loss(lr: float) -> float:
        return sign * _tuned(owner.model_copy(update={"lrs": [lr]}), device)[MEASURES[run.where.modality]]

    return min(owner.lrs, key=lambda lr: (loss(lr), lr))


def _tuned(run: Run, device: str) -> dict[str, float]:
    """Mean validation quality of a run with one learning rate over its tuning repetitions, each computed once.

    A rate with which one of them diverges has the worst.
    """
    task, found = _examples(run.where, device), []
    for seed in range(run.tuning_seeds):
        named = run.model_copy(update={"tuning_seeds": 0})
        name = sha256_key({"run": named.plain(), "data": task.fingerprint, "seed": seed})
        path = cache_dir() / "tuning" / f"recycle-{name}.json"
        if not path.exists():
            try:
                model = trained(run, seed, device)[0]
                quality = {metric.name: metric.value for metric in task.quality(run.student, model, "validation")}
            except Diverged:
                quality = {"accuracy": 0.0, "loss": float("inf")}
            write_atomic(path, json.dumps(quality))
        found.append(json.loads(path.read_text()))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _compute_tuning(run: Run, device: str) -> Outcome:
    units = {"accuracy": "fraction", "loss": "nat"}
    metrics = [
        Metric(name=name, value=value, unit=units[name], split="validation")
        for name, value in _tuned(run, device).items()
    ]
    return Outcome([*metrics, Metric.of_training("lr", run.lrs[0], "1")], protocol=_protocol(run.student.train))


def trained(run: Run, seed: int, device: str) -> tuple[nn.Module, TrainResult, TeacherPool | None]:
    """The student of ``run``, trained now; what happened; and whom it asked in the loop."""
    task, arm = _examples(run.where, device), run.arm
    pool: TeacherPool | None = None
    how: dict[str, Any] = {name: True for name in ("augment", "everywhere") if getattr(arm, name)}
    if arm.cached:
        how["extra"] = {"teacher_logits": torch.from_numpy(_labels(run.teachers[0], device).copy())}
    elif arm.teachers:
        models = [_trained(spec, device).model for spec in run.teachers]
        pool = TeacherPool(models, arm.draw, seed=seed, rank=rank_and_world()[0])
    model = task.build(run.student, seed)
    source = task.source(run.student, "train", **how)
    axes: dict[str, int | str] = {"dataset": task.label, "role": "student"}
    recipe = recipe_of(run, rate(run, device))
    result = train(model, source, training_loss(arm, task, pool), recipe, seed=seed, device=device, stream_axes=axes)
    return model.eval(), result, pool


def recipe_of(run: Run, lr: float) -> TrainConfig:
    """The student's recipe with the run's duration and learning rate."""
    in_epochs = run.where.modality == "image"
    return run.student.train.model_copy(
        update={
            "epochs": run.duration if in_epochs else None,
            "steps": None if in_epochs else round(run.duration),
            "lr": lr,
        }
    )


def training_loss(arm: Arm, task: ImageTask | MaskedLmTask, pool: TeacherPool | None) -> Loss:
    """The task's loss and, in the arm's window, the distance to its teachers."""

    def loss(model: nn.Module, batch: dict[str, Any], step: Step) -> Tensor:
        logits = forward(model, batch)
        value = task.task_loss(logits, batch, arm.label_smoothing)
        if arm.kd is None or not arm.kd.window.active(step.number, step.total):
            return value
        if pool is None:
            teacher = batch["teacher_logits"]
        else:
            with step.clock("teacher_s"):
                teacher = forward(pool.at(step.number), batch)
        return arm.kd.add(value, logits, teacher, step.number, step.total)

    return loss


def _compute_student(run: Run, seed: int, device: str) -> Outcome:
    task, lr = _examples(run.where, device), rate(run, device)
    for spec in run.teachers:  # loading them is not part of training; nor is the first opening of stored logits,
        _trained(spec, device)  # which has the teacher check some rows
        if run.arm.cached:
            _labels(spec, device)
    task.source(run.student, "train")  # nor is reading the data
    cpu = time.process_time()
    with peak_memory(torch.device(device)) as peak:
        model, result, pool = trained(run, seed, device)
    cpu = time.process_time() - cpu
    if run.where.modality == "masked_lm":
        save_model(model, _student_path(run, seed, device))
    started = time.perf_counter()
    metrics = [*task.quality(run.student, model, "validation"), *task.quality(run.student, model, "test")]
    asked = 0 if pool is None or run.arm.kd is None else run.arm.kd.window.steps(result.steps) * pool.asked
    where = {"everywhere": True} if run.arm.everywhere else {}
    student_flops, batch = task.flops(run.student, **where), run.student.train.global_batch
    teacher_flops = float(np.mean([task.flops(spec.spec, **where) for spec in run.teachers])) if asked else 0.0
    teachers_s = sum(training_seconds(_trained(spec, device).clocks) for spec in run.teachers)
    metrics += [
        Metric.of_training("seconds", training_seconds(result.clocks), "s"),
        Metric.of_training("teacher_seconds", result.clocks.get("teacher_s", 0.0), "s"),
        Metric.of_training("cpu_seconds", cpu, "s"),
        Metric.of_training("steps", result.steps, "steps"),
        Metric.of_training("examples", result.examples, task.unit),
        Metric.of_training("teacher_passes", asked, "batches"),
        Metric.of_training(
            "training_flops", batch * (3 * student_flops * result.steps + teacher_flops * asked), "FLOP"
        ),
        Metric.of_training("lr", lr, "1"),
        Metric.of_training("teacher_training_seconds", teachers_s, "s"),
        Metric.of_training("labelling_seconds", _labelling_s(run.teachers[0], device) if run.arm.cached else 0.0, "s"),
        *(Metric.of_training("training_memory_bytes", one, "byte") for one in peak),
        *_of_teachers([_test_quality(spec, device) for spec in run.teachers]),
    ]
    return Outcome(
        metrics,
        clocks={**result.clocks, "eval_s": time.perf_counter() - started},
        cost={
            "params": zoo.parameters(model),
            "flops_per_example": student_flops,
            "teacher_params": sum(zoo.parameters(_trained(spec, device).model) for spec in run.teachers),
        },
        protocol=_protocol(run.student.train),
        data=task.provenance(),
    )


def _student_path(run: Run, seed: int, device: str) -> Path:
    """Where a trained student is cached: fine-tuning starts from it."""
    name = sha256_key({"run": run.plain(), "data": _examples(run.where, device).fingerprint})
    return cache_dir() / "students" / f"{name}-s{seed}.safetensors"


def _compute_glue(run: Run, recipe: FineTuning, name: str, seed: int, device: str) -> Outcome:
    task, path = _examples(run.where, device), _student_path(run, seed, device)
    assert isinstance(task, MaskedLmTask)
    model = task.build(run.student, seed)
    if run.duration and path.exists():
        load_model(model, path)
    elif run.duration:
        model = trained(run, seed, device)[0]
        save_model(model, path)
    assert isinstance(model, MaskedLm)
    started = time.perf_counter()
    parts = {split: load_glue(name, split) for split in ("train", "validation")}
    metrics = fine_tune(
        parts, model.encoder_state(), run.student, name, recipe.train, seed, device,
        tokenizer=task.tokenizer(run.student), limit=recipe.limit,
    )  # fmt: skip
    return Outcome(
        metrics,
        clocks={"train_s": time.perf_counter() - started},
        protocol={**_protocol(recipe.train), "fine_tuning_limit": recipe.limit},
        data=task.provenance(),
    )


def _of_teachers(qualities: list[list[Metric]]) -> list[Metric]:
    """The mean quality of a student's teachers, each metric under the name "teacher_...". None for no teachers."""
    return [
        same[0].model_copy(update={"name": f"teacher_{same[0].name}", "value": float(np.mean([m.value for m in same]))})
        for same in zip(*qualities, strict=True)
    ]


def _protocol(recipe: TrainConfig) -> dict[str, Any]:
    return {
        **recipe.protocol(),
        "evaluation_precision": "fp32",
        "teacher": "eval mode, no gradients, the student's batch and precision",
    }


# ---------------------------------------------------------------------------------------------------------------------
# Timing at the papers' own architectures, and what the paper's own settings would cost


def _compute_timing(cell: Cell, device: str) -> Outcome:
    pair = TimingPair.model_validate(cell.params)
    found = time_kd_steps(
        pair.student, pair.teacher, batch=pair.batch, draws=pair.draws, ensembles=pair.ensembles,
        precision=pair.precision, rounds=pair.rounds, block_s=pair.block_s, device=device,
    )  # fmt: skip
    metrics = [Metric.model_validate(metric) for metric in found.pop("metrics")]
    return Outcome(metrics, **found)


def plan(config: RecycleConfig) -> list[dict[str, Any]]:
    """GPU-hours, memory, disk and money of each task of a tier, from the FLOPs of its models. Loads no data.

    A training step costs three forward passes of the student, and one of each teacher that it asks.
    """
    return [row for task in config.tasks for row in _planned(task)]


def _planned(task: Task) -> list[dict[str, Any]]:
    info = data.MANIFEST[task.dataset]
    examples = (info.splits[info.split_name("train")].rows or 0) * (1 - task.validation_fraction)
    costs = {spec.key(): _cost(task, spec) for spec in (task.student, *task.teachers.values())}
    rows = []
    for name, spec in task.teachers.items():
        seen = spec.train.total_steps(int(examples)) * spec.train.global_batch
        cost = costs[spec.key()]
        rows.append(_row(task, f"teacher {name}", spec.model, 1, 3 * cost["flops_per_example"] * seen, cost["params"]))
    student, each = costs[task.student.key()], examples if task.modality == "image" else task.student.train.global_batch
    for arm in task.arms:
        asked = [costs[task.teachers[name].key()]["flops_per_example"] for name in arm.teachers if not arm.cached]
        passes = 0.0 if arm.kd is None else arm.kd.window.steps(1000) / 1000
        teacher = passes * float(np.mean(asked)) * (arm.draw or len(asked)) if asked else 0.0
        durations = arm.durations or task.durations
        flops = arm.seeds * sum(durations) * each * (3 * student["flops_per_example"] + teacher)
        rows.append(_row(task, arm.name, task.student.model, arm.seeds * len(durations), flops, student["params"]))
    return rows


def _cost(task: Task, spec: ModelSpec) -> dict[str, float]:
    size = spec.image_size if task.modality == "image" else spec.max_length
    return zoo.cost(spec.model, size=size, **spec.options)


def _row(task: Task, role: str, model: str, runs: int, flops: float, params: float) -> dict[str, Any]:
    return planning.row(
        task.dataset, role, model, runs=runs, hours=planning.ASSUMPTIONS.hours(flops), params=params, copies_on_disk=1
    )
