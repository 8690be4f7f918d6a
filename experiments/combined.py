"""The four papers combined (ours): which technique pays off on one task and machine, and do they add up?

Which cells exist, how one is computed, what is measured. An arm is a way to one small deployed model: trained plainly,
distilled (all of training or its first half), with majority kernels, as an n-gram student, or several of these at once.
Every arm is measured alone and as the student of a cascade that summons the teacher for what it is not sure of; an
n-gram student in such a cascade is what we call Sparse Titans. Teachers are trained, and learning rates of arms without
one chosen (stage 0); teachers label (1); the other rates are chosen (2); students are trained for the record (3).
"""

import json
import math
import tempfile
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from paper_repro import data, kernels, planning, seeds, zoo
from paper_repro.cascade.calibration import calibrate_threshold
from paper_repro.cascade.curves import at_fraction, deferral_curve, operating_point
from paper_repro.cascade.measure import CURVE_FRACTIONS
from paper_repro.cascade.rules import margin
from paper_repro.cascade.served import Summoning
from paper_repro.config import Config, sha256_key
from paper_repro.data.corpora import SOURCES, corpus_of
from paper_repro.distill.image_task import pooled
from paper_repro.distill.kd import Distillation
from paper_repro.distill.ngram_student import NgramSpec, accuracy
from paper_repro.distill.taught import PARTS, Part, Reads, Taught, TaughtSpec, taught
from paper_repro.distill.teacher import ModelSpec
from paper_repro.distill.weights import load_model, save_model
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.results.schema import Metric
from paper_repro.runner import Cell, Outcome
from paper_repro.timing.served import time_served
from paper_repro.train import (
    Batch,
    Diverged,
    Step,
    TrainConfig,
    TrainResult,
    forward,
    rank_and_world,
    train,
    training_seconds,
)

PAPER = "combined"
OWN_SHARDS = 2
FIRST = 1  # repetition for the record: 0 chooses learning rates, and a model that was chosen flatters its arm
MOST_EPOCHS = 20.0  # over own data, however small it is (our choice, as are the next two)
LENGTHS = (32, 64, 128, 256, 512)  # word pieces
COVERED = 0.9  # share of the training texts
# What the calibration can promise follows from how many examples it has: it needs 3.1 / epsilon of them when the
# student makes no mistake that the teacher does not (delta 0.1), so with fewer than 8 / epsilon it keeps hardly any.
PROVABLE, MOST_LOST = 8.0, 0.1


# ---------------------------------------------------------------------------------------------------------------------
# Configuration


class Student(Config):
    """A small model and how it is trained, whatever the technique. ``lrs``: to choose from on validation data."""

    spec: ModelSpec | NgramSpec
    recipe: TrainConfig | None = None  # of an n-gram student; others bring theirs
    lrs: list[float] = Field(min_length=1)

    @property
    def train(self) -> TrainConfig:
        """The recipe."""
        recipe = self.spec.train if isinstance(self.spec, ModelSpec) else self.recipe
        assert recipe is not None, "checked in run_of"
        return recipe

    @property
    def name(self) -> str:
        """What records call its architecture."""
        return self.spec.model if isinstance(self.spec, ModelSpec) else self.spec.name


class Arm(Config):
    """A technique, or several at once: ``student`` names one of the task's; ``kd`` distils the teacher's stored logits;
    ``corpus`` adds the task's unlabelled text, on which only the teacher's word counts; ``k`` > 1 majority kernels.
    ``epochs``: instead of the recipe's. ``timed``: its cascade with the teacher is timed, and its student alone, which
    stands for all arms of that student and vocabulary: what weights hold does not change their speed."""

    name: str
    student: str
    kd: Distillation | None = None
    corpus: bool = False
    k: int = Field(default=1, ge=1)
    epochs: float | None = None
    timed: bool = False


class Task(Config):
    """A data set with its teacher, the students to choose from, and the arms."""

    taught: TaughtSpec
    students: dict[str, Student]
    arms: list[Arm]
    timed_examples: int  # test examples on which deployed models are timed ...
    timed_singles: int  # ... and of those, one by one
    rounds: int = 6
    block_s: float = 0.3  # seconds of a timed block, at least


class CombinedConfig(Config):
    """One tier. ``epsilon``, ``delta``: a cascade may lose more than epsilon of the teacher's accuracy with
    probability delta at most (see ``cascade.calibration``). ``timed_seeds``: repetitions whose models are timed."""

    tier: str
    seeds: int
    timed_seeds: int
    epsilon: float
    delta: float
    tasks: list[Task]


CONFIG = CombinedConfig


class Run(Config):
    """All that decides a trained student but the seed: what a cell's key is made of."""

    taught: TaughtSpec
    student: Student
    arm: Arm

    @property
    def reads(self) -> Reads:
        """How the student reads."""
        return Reads(spec=self.student.spec, corpus=self.arm.corpus)

    @property
    def taught_parts(self) -> list[Part]:
        """The parts whose labels by the teacher the student is trained with."""
        return [] if self.arm.kd is None else ["train", "corpus"] if self.arm.corpus else ["train"]


# ---------------------------------------------------------------------------------------------------------------------
# Which cells exist


def cells(
    config: CombinedConfig, data: str | None = None, seeds: int | None = None, corpus: str | None = None
) -> list[Cell]:
    """Every cell of a tier, in the order of the stages above and repetition by repetition.

    ``data`` (a data set name or a parquet file) replaces the tier's tasks, ``corpus`` (a corpus name or a parquet file
    with a column text) is its unlabelled text; ``seeds`` caps the repetitions.
    """
    config = config if data is None else own_config(config, data, corpus)
    repetitions = min(config.seeds, seeds or config.seeds)
    promise = {"epsilon": config.epsilon, "delta": config.delta}
    found: list[Cell] = []
    for task in config.tasks:
        spec = task.taught
        shared = {"taught": spec.plain()}
        found.append(_cell(config, "teacher", spec, spec.teacher.model, "teacher", shared))
        for part in PARTS if spec.corpus else PARTS[:-1]:
            for shard in range(spec.shards):
                params: dict[str, Any] = {**shared, "part": part}
                found.append(_cell(config, "labels", spec, spec.teacher.model, part, params, shard, stage=1))
        for arm in task.arms:
            run = run_of(task, arm)
            if len(run.student.lrs) > 1:
                for number, lr in enumerate(run.student.lrs):
                    params = {"run": _single(run, lr).plain()}
                    stage = 0 if arm.kd is None else 2
                    found.append(_cell(config, "tuning", spec, run.student.name, arm.name, params, number, stage))
            for seed in range(FIRST, FIRST + repetitions):
                kept = arm.timed and seed < FIRST + config.timed_seeds
                params = {"run": run.plain(), "promise": promise, "kept": kept}
                found.append(_cell(config, "student", spec, run.student.name, arm.name, params, seed, 3))
    return sorted(found, key=lambda cell: (cell.stage, cell.seed))


def timing_cells(config: CombinedConfig, device: str) -> list[Cell]:
    """One cell per task and timed repetition."""
    promise = {"epsilon": config.epsilon, "delta": config.delta}
    return [
        _cell(config, "timing", task.taught, "all", device, {"task": task.plain(), "promise": promise}, seed)
        for task in config.tasks
        for seed in range(FIRST, FIRST + config.timed_seeds)
    ]


def data_sets(config: CombinedConfig) -> set[str]:
    """What a tier reads."""
    corpora = [task.taught.corpus for task in config.tasks if task.taught.corpus]
    return {task.taught.dataset for task in config.tasks} | {SOURCES.get(one.name, one.name) for one in corpora}


def run_of(task: Task, arm: Arm) -> Run:
    """The run of an arm. Raises UserError for one that cannot be."""
    if arm.student not in task.students:
        raise UserError(f"The arm '{arm.name}' names '{arm.student}', which its task lacks; mend its configuration.")
    student = task.students[arm.student]
    ngrams = isinstance(student.spec, NgramSpec)
    if arm.corpus and (arm.kd is None or arm.kd.task_weight or task.taught.corpus is None):
        raise UserError(
            f"The arm '{arm.name}' trains on unlabelled text, so it needs a corpus and 'kd' with task_weight 0; mend "
            "its configuration."
        )
    if (ngrams and arm.k > 1) or (ngrams and student.recipe is None):
        raise UserError(
            f"The arm '{arm.name}' is of an n-gram student, which needs a recipe and has no majority kernels; mend its "
            "configuration."
        )
    return Run(taught=task.taught, student=student, arm=arm.model_copy(update={"timed": False}))


class Thrift(Config):
    """What own data is to cost less than in full: ``share`` of the examples that students are trained on, ``teacher``
    of those of the teacher; ``limit`` as in ``TaughtSpec``; the ``longest`` text, in word pieces, that networks read;
    ``timed`` and ``singles``: test examples that deployed models are timed on, and those of them one by one."""

    share: float = 1.0
    teacher: float = 1.0
    limit: int | None = None
    longest: int = LENGTHS[-1]
    timed: int | None = None
    singles: int | None = None


def own_config(
    config: CombinedConfig, dataset: str, corpus: str | None = None, thrift: Thrift | None = None
) -> CombinedConfig:
    """The tier on other data: its first task of the same modality, without what needs unlabelled text that is not
    there. Everything is trained for as many examples as on the task's own data, but for ``MOST_EPOCHS`` at most, or for
    what ``thrift`` leaves. Networks read as many word pieces as nearly all texts have, and students see images at their
    task's size where that divides theirs. Cascades promise what the examples allow.
    """
    thrift = thrift or Thrift()
    info = data.describe(dataset)
    template = next((task for task in config.tasks if task.taught.modality == info.modality), None)
    if template is None:
        raise UserError(
            f"The tier '{config.tier}' has no {info.modality} task to take the recipe from; choose another."
        )
    unlabelled = None if corpus is None else corpus_of(data.absolute(corpus))
    if unlabelled is not None and info.modality != "text":
        raise UserError("Unlabelled text goes with text, not with images; leave --corpus out.")
    limit = thrift.limit
    own, like = (
        training_rows(dataset, template, limit),
        training_rows(template.taught.dataset, template, template.taught.limit),
    )

    def longer(recipe: TrainConfig, share: float) -> TrainConfig:
        return recipe.model_copy(update={"epochs": _epochs(recipe.epochs, like / own, share)})

    def changed(spec: ModelSpec, share: float) -> ModelSpec:
        updates: dict[str, Any] = {"train": longer(spec.train, share)}
        if info.modality == "text":
            updates["max_length"] = min(spec.max_length, length_of(dataset, spec.tokenizer), thrift.longest)
            return spec.model_copy(update=updates)
        return pooled(spec.model_copy(update=updates), dataset)

    students = {}
    for name, student in template.students.items():
        spec = changed(student.spec, thrift.share) if isinstance(student.spec, ModelSpec) else student.spec
        recipe = longer(student.recipe, thrift.share) if student.recipe else None
        students[name] = student.model_copy(update={"spec": spec, "recipe": recipe})
    teacher, labels = template.taught.teacher, template.taught.label_length
    if labels is not None:
        labels = min(labels, length_of(dataset, teacher.tokenizer), thrift.longest)
    subject = template.taught.model_copy(
        update={
            "dataset": data.absolute(dataset), "corpus": unlabelled, "limit": limit, "shards": OWN_SHARDS,
            "teacher": changed(teacher, thrift.teacher), "label_length": labels,
        }
    )  # fmt: skip
    arms = [
        arm.model_copy(update={"epochs": _epochs(arm.epochs, like / own, thrift.share)})
        for arm in template.arms
        if unlabelled is not None or not arm.corpus
    ]
    task = template.model_copy(
        update={
            "taught": subject, "students": students, "arms": arms,
            "timed_examples": thrift.timed or template.timed_examples,
            "timed_singles": thrift.singles or template.timed_singles,
        }
    )  # fmt: skip
    fraction = subject.validation_fraction
    held_out = training_rows(dataset, template, None) * fraction / (1 - fraction)
    epsilon = max(config.epsilon, math.ceil(1000 * PROVABLE / min(held_out, limit or held_out)) / 1000)
    return config.model_copy(update={"tasks": [task], "epsilon": min(epsilon, MOST_LOST)})


def _epochs(epochs: float | None, longer: float, share: float) -> float | None:
    return None if epochs is None else share * max(min(epochs * longer, MOST_EPOCHS), 1e-3)


def training_rows(dataset: str, task: Task, limit: int | None) -> float:
    """Training examples that are left when validation and the limit are taken."""
    rows = rows_of(dataset, "train") * (1 - task.taught.validation_fraction)
    return min(rows, limit or rows)


def rows_of(dataset: str, split: str) -> int:
    """Examples of a split. The data need not be here, as those of a template are not, where the manifest knows."""
    info = data.MANIFEST.get(dataset) or data.describe(dataset)
    return info.splits[info.split_name(split)].rows or len(data.load(dataset, split))


@lru_cache(maxsize=4)
def length_of(dataset: str, tokenizer: str) -> int:
    """The shortest of ``LENGTHS`` word pieces that holds all of ``COVERED`` of the training texts, or the longest."""
    tokens = data.encode(data.load_texts(dataset, "train"), zoo.load_tokenizer(tokenizer), LENGTHS[-1])
    wanted = np.quantile(np.diff(tokens.offsets), COVERED)
    return next((length for length in LENGTHS if length >= wanted), LENGTHS[-1])


def _cell(
    config: CombinedConfig, experiment: str, spec: TaughtSpec, model: str, method: str, params: dict[str, Any],
    seed: int = 0, stage: int = 0,
) -> Cell:  # fmt: skip
    return Cell(
        paper=PAPER, experiment=experiment, tier=config.tier, dataset=data.label(spec.dataset), model=model,
        method=method, params=params, seed=seed, stage=stage,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# How a cell is computed


def compute(cell: Cell, device: str) -> Outcome:
    """Train, label or measure what ``cell`` names."""
    if cell.experiment == "timing":
        return _compute_timing(Task.model_validate(cell.params["task"]), cell.params["promise"], cell.seed, device)
    if cell.experiment in ("teacher", "labels"):
        task = taught(TaughtSpec.model_validate(cell.params["taught"]), device)
        return _compute_teacher(task) if cell.experiment == "teacher" else _compute_labels(task, cell)
    run = Run.model_validate(cell.params["run"])
    if cell.experiment == "tuning":
        return _compute_tuning(run, device)
    return _compute_student(run, cell.params["promise"], cell.seed, device, cell.params["kept"])


def _compute_teacher(task: Taught) -> Outcome:
    teacher = task.teacher
    return Outcome(
        [Metric.of_training("seconds", training_seconds(teacher.clocks), "s")],
        clocks=teacher.clocks,
        cost={"params": zoo.parameters(teacher.model)},
        protocol=task.spec.teacher.train.protocol(),
        data=task.task.provenance(),
        environments=teacher.environments,
    )


def _compute_labels(task: Taught, cell: Cell) -> Outcome:
    part: Part = cell.params["part"]
    rows = len(task.shard(part, cell.seed))
    return Outcome([Metric.of_training("rows", rows, task.task.unit)], data=task.task.provenance())


def rate(run: Run, device: str) -> float:
    """The learning rate with the best validation accuracy of repetition 0 (among equals the smaller), chosen once."""
    lrs = run.student.lrs
    return lrs[0] if len(lrs) == 1 else min(lrs, key=lambda lr: (-_tuned(_single(run, lr), device), lr))


def _single(run: Run, lr: float) -> Run:
    return run.model_copy(update={"student": run.student.model_copy(update={"lrs": [lr]})})


def _tuned(run: Run, device: str) -> float:
    """Validation accuracy of repetition 0 of a run with one learning rate, computed once; 0 where it diverges."""
    path = cache_dir() / "tuning" / f"combined-{_name(run, device)}.json"
    if not path.exists():
        task = taught(run.taught, device)
        try:
            model, _ = trained(run, 0, device)
            right = accuracy(task.logits(run.reads, model, "validation"), task.labels("validation"))
        except Diverged:
            right = 0.0
        write_atomic(path, json.dumps({"accuracy": right}))
    return float(json.loads(path.read_text())["accuracy"])


def _name(run: Run, device: str) -> str:
    """Of a run in the cache: what decides it, and the data's content."""
    fingerprint = taught(run.taught, device).task.fingerprint
    return sha256_key({"run": run.plain(), "data": fingerprint, "device": torch.device(device).type})


def _compute_tuning(run: Run, device: str) -> Outcome:
    rows = taught(run.taught, device).size("validation")
    return Outcome(
        [
            Metric(name="accuracy", value=_tuned(run, device), unit="fraction", split="validation", n=rows),
            Metric.of_training("lr", run.student.lrs[0], "1"),
        ],
        protocol=run.student.train.protocol(),
    )


def trained(run: Run, seed: int, device: str) -> tuple[nn.Module, TrainResult]:
    """The student of ``run``, trained now, folded and in evaluation mode, and what happened."""
    task, arm, reads = taught(run.taught, device), run.arm, run.reads
    changes: dict[str, Any] = {"lr": rate(run, device)}
    recipe = run.student.train.model_copy(update=changes | ({"epochs": arm.epochs} if arm.epochs else {}))
    extra = None
    if arm.kd is not None:
        extra = {"teacher_logits": torch.cat([task.teacher_logits(part) for part in run.taught_parts])}
    source = task.lesson(reads, extra)
    model = task.build(reads, seed)
    if arm.k > 1:
        number = count(1)
        kernels.expand(
            model, arm.k, fresh=lambda: task.build(reads, seed, copy=next(number)),
            lr_scale=kernels.pairing("dirichlet", arm.k, recipe.optimizer),
        )  # fmt: skip
        if recipe.grad_clip is None and rank_and_world()[1] == 1:
            kernels.fuse(model)
    axes: dict[str, int | str] = {"dataset": task.label, "role": "student"}
    result = train(model, source, training_loss(arm, model, seed), recipe, seed=seed, device=device, stream_axes=axes)
    some = seeds.numpy_rng(seed, "norms", dataset=task.label).permutation(len(source))[: kernels.RECALIBRATION]
    batches = torch.from_numpy(some).split(recipe.global_batch)
    model = kernels.recalibrated(  # in all arms, so that they differ in nothing else
        kernels.fold(model.eval()), lambda: [source.batch(rows, torch.Generator())["pixels"] for rows in batches]
    )
    return model, result


def training_loss(arm: Arm, model: nn.Module, seed: int) -> Any:
    """Cross-entropy with the labels and, in the arm's window, the distance to the teacher. Unlabelled text has no
    cross-entropy, so an arm with a corpus gives it no weight."""

    def loss(net: nn.Module, batch: Batch, step: Step) -> Tensor:
        kernels.draw(model, step.number, seed=seed)
        logits = forward(net, batch).float()
        value = logits.new_zeros(()) if arm.corpus else F.cross_entropy(logits, batch["label"])
        return value if arm.kd is None else arm.kd.add(value, logits, batch["teacher_logits"], step.number, step.total)

    return loss


def deployed(run: Run, seed: int, device: str) -> tuple[nn.Module, TrainResult | None]:
    """``trained``. A run that diverges deploys what it began with: it is a result, and without it its arm would look
    better than it is."""
    try:
        return trained(run, seed, device)
    except Diverged:
        return taught(run.taught, device).build(run.reads, seed).eval(), None


def kept(run: Run, seed: int, device: str) -> nn.Module:
    """The trained student from the cache, or trained now and kept there: deployed models are timed."""
    task, path = taught(run.taught, device), _weights_path(run, seed, device)
    if not path.exists():
        model, _ = deployed(run, seed, device)
        save_model(model, path)
        return model
    model = task.build(run.reads, seed)
    load_model(model, path)
    return model.eval()


def _weights_path(run: Run, seed: int, device: str) -> Path:
    return cache_dir() / "students" / f"combined-{_name(run, device)}-{seed}.safetensors"


def threshold(run: Run, model: nn.Module, promise: dict[str, float], device: str) -> float:
    """The margin below which the student summons the teacher, calibrated on validation data for ``promise``."""
    task = taught(run.taught, device)
    logits, teacher, labels = (
        task.logits(run.reads, model, "validation"), task.teacher_logits("validation"), task.labels("validation")
    )  # fmt: skip
    return calibrate_threshold(
        margin(logits),
        _right(logits, labels),
        _right(teacher, labels),
        epsilon=promise["epsilon"],
        delta=promise["delta"],
    )


def _right(logits: Tensor, labels: Tensor) -> np.ndarray:
    return (logits.argmax(dim=1) == labels).numpy()


def _compute_student(run: Run, promise: dict[str, float], seed: int, device: str, keep: bool) -> Outcome:
    task = taught(run.taught, device)
    task.lesson(run.reads)  # reading the data is not part of training; nor is opening logits
    teacher, labels = task.teacher_logits("test"), task.labels("test")
    model, result = deployed(run, seed, device)
    if keep:
        save_model(model, _weights_path(run, seed, device))
    logits = task.logits(run.reads, model, "test")
    student_right, teacher_right = _right(logits, labels), _right(teacher, labels)
    rho = threshold(run, model, promise, device)
    score = margin(logits).numpy()
    sure = score >= rho
    fraction, summoned = operating_point(sure, student_right, teacher_right)
    curve = deferral_curve(score, student_right, teacher_right)
    validation = accuracy(task.logits(run.reads, model, "validation"), task.labels("validation"))

    def of_test(name: str, value: float, unit: str = "fraction") -> Metric:
        return Metric(name=name, value=float(value), unit=unit, split="test", n=len(labels))

    metrics = [
        of_test("accuracy", student_right.mean()),
        Metric(name="accuracy", value=validation, unit="fraction", split="validation", n=task.size("validation")),
        of_test("teacher_accuracy", teacher_right.mean()),
        of_test("cascade/threshold", rho, "probability"),
        of_test("cascade/deferred", 1 - fraction),
        of_test("cascade/accuracy", summoned),
        of_test("cascade/lost", teacher_right.mean() - summoned),
        of_test("cascade/missed", (sure & ~student_right & teacher_right).mean()),  # lost is missed less gained
        of_test("cascade/gained", (sure & student_right & ~teacher_right).mean()),
        Metric.of_training("diverged", float(result is None), "1"),
        Metric.of_training("teacher_training_seconds", training_seconds(task.teacher.clocks), "s"),
        Metric.of_training("labelling_seconds", task.labelling_s(run.taught_parts), "s"),
        Metric.of_training("lr", rate(run, device), "1"),
    ]
    if result is not None:
        metrics += [
            Metric.of_training("seconds", training_seconds(result.clocks), "s"),
            Metric.of_training("steps", result.steps, "steps"),
            Metric.of_training("examples", result.examples, task.task.unit),
        ]
    return Outcome(
        metrics,
        samples={
            "curve/fraction": CURVE_FRACTIONS.tolist(),
            "curve/accuracy": at_fraction(curve, CURVE_FRACTIONS).tolist(),
        },
        clocks={} if result is None else result.clocks,
        cost={"params": zoo.parameters(model), "teacher_params": zoo.parameters(task.teacher.model)},
        protocol=run.student.train.protocol(),
        data=task.task.provenance(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Deployed models, timed; and what a tier would cost


def _compute_timing(task: Task, promise: dict[str, float], seed: int, device: str) -> Outcome:
    """The teacher; each architecture of a student, whose weights do not matter (an n-gram student's vocabulary does, so
    one that also read the corpus is another); and each timed arm's cascade."""
    subject = taught(task.taught, device)
    teacher = subject.served_teacher()
    served: dict[str, Any] = {"teacher": teacher}
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="served-", dir=cache_dir()) as folder:
        for number, arm in enumerate(arm for arm in task.arms if arm.timed):
            run = run_of(task, arm)
            model = kept(run, seed, device)
            student = subject.served(run.reads, model, Path(folder) / str(number))
            wider = arm.corpus and isinstance(run.student.spec, NgramSpec)
            served.setdefault(f"{arm.student}+corpus" if wider else arm.student, student)
            served[f"{arm.name}+teacher"] = Summoning(student, teacher, threshold(run, model, promise, device))
        places = seeds.numpy_rng(seed, "timed examples", dataset=subject.label).permutation(subject.size("test"))
        raw = subject.raw("test", places[: task.timed_examples])
        found = time_served(
            served, raw, singles=task.timed_singles, rounds=task.rounds, block_s=task.block_s, device=device, seed=seed
        )
    metrics = [Metric.model_validate(metric) for metric in found.pop("metrics")]
    return Outcome(metrics, data=subject.task.provenance(), **found)


def plan(config: CombinedConfig) -> list[dict[str, Any]]:
    """GPU-hours, memory, disk and money of each task of a tier, from the FLOPs of its networks. Loads no data.

    A training step costs three forward passes, labelling one. N-gram students are left out: they compute next to
    nothing, and ``plan sparse`` says what their tables cost.
    """
    rows = []
    for task in config.tasks:
        spec = task.taught
        info = data.MANIFEST[spec.dataset]
        train_rows, test_rows = (info.splits[info.split_name(split)].rows or 0 for split in ("train", "test"))
        unlabelled = (spec.corpus.rows or 0) if spec.corpus else 0
        costs = {"teacher": spec.teacher} | {
            name: one.spec for name, one in task.students.items() if isinstance(one.spec, ModelSpec)
        }
        cost = {
            name: zoo.cost(
                one.model, size=one.max_length if spec.modality == "text" else one.image_size, **one.options
            )
            for name, one in costs.items()
        }  # fmt: skip
        seen = spec.teacher.train.total_steps(train_rows) * spec.teacher.train.global_batch
        flops = cost["teacher"]["flops_per_example"] * (3 * seen + train_rows + test_rows + unlabelled)
        rows.append(_planned(task, "teacher", spec.teacher.model, 1, flops, cost["teacher"]["params"]))
        for arm in task.arms:
            if arm.student in cost:
                recipe = task.students[arm.student].train
                recipe = recipe.model_copy(update={"epochs": arm.epochs}) if arm.epochs else recipe
                runs = config.seeds + len(task.students[arm.student].lrs)
                seen = recipe.total_steps(train_rows + (unlabelled if arm.corpus else 0)) * recipe.global_batch
                flops = runs * 3 * seen * cost[arm.student]["flops_per_example"]
                name = task.students[arm.student].name
                rows.append(_planned(task, arm.name, name, runs, flops, cost[arm.student]["params"]))
    return rows


def _planned(task: Task, role: str, model: str, runs: int, flops: float, params: float) -> dict[str, Any]:
    return planning.row(
        task.taught.dataset, role, model, runs=runs, hours=planning.ASSUMPTIONS.hours(flops), params=params,
        copies_on_disk=2,
    )  # fmt: skip
