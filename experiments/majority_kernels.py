"""Majority Kernels (arXiv 2402.05033v2): train k kernels per layer through a random mixture, deploy their mean.

Which cells exist, how one is computed, what is measured. An arm is a way of training one small model; all deploy the
same plain model. Repetition s of all arms has the same training examples, first weights and order of examples, so that
arms are compared in pairs. Learning rate and weight decay are chosen per arm from the same candidates on validation
data (stage 0), then, for arms that have one, how strong it is (1), and the rates once more at that strength (2); then
the arms are trained for the record (3).
The paper's method section could not be read: ``kernels`` is a declared reading of it, and the arms ablate each choice.
"""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from paper_repro import data, kernels, planning, seeds, zoo
from paper_repro.config import Config, sha256_key
from paper_repro.distill.classification_task import ClassificationTask
from paper_repro.distill.image_task import ImageTask, pooled
from paper_repro.distill.kd import Distillation
from paper_repro.distill.sentence_task import SentenceTask
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.kernels.selection import select
from paper_repro.kernels.sharpness import kernel_weights, rise_under_noise, top_eigenvalue
from paper_repro.kernels.simplex import similarity, with_norms
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.results.schema import Metric
from paper_repro.runner import Cell, Outcome
from paper_repro.timing.majority_step import time_majority_steps
from paper_repro.train import (
    Batch,
    Diverged,
    Step,
    TrainResult,
    forward,
    predict,
    rank_and_world,
    train,
    training_seconds,
)

PAPER = "majority"
Modality = Literal["image", "text"]
TASKS: dict[Modality, type[ImageTask] | type[SentenceTask]] = {"image": ImageTask, "text": SentenceTask}
Method = Literal["plain", "majority", "noise", "dropout", "stopped", "swa", "ema", "distilled", "selected"]
LAYERS: dict[str, kernels.Layers] = {
    "kernels": kernels.are_kernels,
    "kernels and norms": with_norms,
    "kernels and embeddings": lambda name, module: (
        kernels.are_kernels(name, module) or isinstance(module, nn.Embedding)
    ),
    "hidden": lambda name, module: kernels.are_kernels(name, module) and name != "head",
}
PROBE = 128  # training examples on which curvature is measured
NOISE = 0.1  # of the weights' standard deviation: for the rise of the loss
SELECTION = 256  # training examples on which neurons are selected, at most
CHOICES = {"rate": 0, "strength": 1, "rate again": 2}  # what is chosen on validation data, and its stage
FINE_TUNING_RATE = 0.1  # of the learning rate, after a selection


class Arm(Config):
    """A way of training the small model.

    ``strengths`` are candidates for what the method has one of: standard deviation of the noise, probability of
    dropout, share of the steps (stopped: plain training, annealed by then), share of training that is averaged (swa),
    decay (ema), weight of the penalty (majority with ``penalty``), temperature (distilled). ``k``: copies of a kernel,
    or members of the ensemble. ``paired``: the kernels' learning rate is raised, and their weight decay lowered, so
    that the mean of the copies moves as far as a plain kernel does (see ``kernels.pairing``); ``as_mean_of``: lowered,
    so that a kernel moves as far as the mean of so many.
    ``init_scale``: factor on the kernels' first weights. ``durations``: shares of the task's steps, each a run of its
    own. ``mapped``: at all sizes. ``sharpness``: measured after training, at the main size. ``traced``: repetitions of
    which spread and sharpness are followed all along.
    ``fine_tune``: share of the steps that follows a selection.
    """

    name: str
    method: Method = "plain"
    k: int = 1
    law: kernels.Law = "dirichlet"
    granularity: kernels.Granularity = "layer"
    copies: Literal["independent", "identical"] = "independent"
    scale: kernels.Scale = "none"
    layers: Literal["kernels", "kernels and norms", "kernels and embeddings", "hidden"] = "kernels"
    penalty: bool = False
    paired: bool = False
    as_mean_of: int = 1
    init_scale: float = 1.0
    strengths: list[float] = Field(default_factory=list)
    fine_tune: float = 0.0
    rate_of: str | None = None  # the arm whose rates are taken; None: chosen for this one
    durations: list[float] = Field(default_factory=lambda: [1.0])
    mapped: bool = False
    sharpness: bool | None = None
    traced: int = 0


class Rate(Config):
    """A candidate."""

    lr: float
    weight_decay: float


class Task(Config):
    """A data set, a small model, and the arms. ``sizes``: training examples, the first of which is the main one; all
    runs take the same number of steps, so that fewer examples are seen more often.

    ``wide``: options of the model from which neurons are selected.
    """

    name: str
    dataset: str
    modality: Modality
    validation_fraction: float
    student: ModelSpec
    wide: dict[str, Any]
    sizes: list[int]
    rates: list[Rate]
    tuning_seeds: int  # repetitions on which candidates are compared: the first
    seeds: int  # repetitions for the record: those after them, as a model that was chosen flatters its arm
    arms: list[Arm]


class TimingModel(Config):
    """Training steps of an architecture; see ``time_majority_steps``."""

    model: str
    options: dict[str, Any] = Field(default_factory=dict)
    batches: list[int]
    ks: list[int]
    optimizer: Literal["sgd", "adamw"]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    rounds: int
    block_s: float = 0.3  # seconds of a timed block, at least


class MajorityConfig(Config):
    """One tier."""

    tier: str
    tasks: list[Task]
    timing: list[TimingModel]


CONFIG = MajorityConfig


class Where(Config):
    """The examples of a run."""

    dataset: str
    modality: Modality
    validation_fraction: float


class Run(Config):
    """All that decides a trained model but the seed: what a cell's key is made of."""

    where: Where
    size: int
    student: ModelSpec
    wide: dict[str, Any] | None = None
    arm: Arm
    duration: float
    rates: list[Rate]
    tuning_seeds: int
    rate_of: "Run | None" = None  # the run for which rates are chosen; None: this one


class Settings(Config):
    """What is chosen on validation data."""

    rate: Rate
    strength: float | None = None


# ---------------------------------------------------------------------------------------------------------------------
# Which cells exist


def cells(config: MajorityConfig, data: str | None = None, seeds: int | None = None) -> list[Cell]:
    """Every cell of a tier, in the order of the stages above and repetition by repetition.

    ``data`` (a data set name or a parquet file) replaces the tier's tasks; ``seeds`` caps the repetitions.
    """
    found: list[Cell] = []
    for task in config.tasks if data is None else [own_task(config, data)]:
        for arm in task.arms:
            for size in task.sizes if arm.mapped else task.sizes[:1]:
                found += _cells_of_arm(config, task, arm, size, seeds)
    return sorted(found, key=lambda cell: (cell.stage, cell.seed))


def _cells_of_arm(config: MajorityConfig, task: Task, arm: Arm, size: int, seeds: int | None) -> Iterator[Cell]:
    def cell(run: Run, seed: int, **more: Any) -> Cell:
        return Cell(
            paper=PAPER, experiment="tuning" if "choice" in more else "student", tier=config.tier,
            dataset=data.label(task.dataset), model=task.student.model, method=method_name(task, run),
            params={"run": run.plain()} | more, seed=seed, stage=CHOICES.get(more.get("choice", ""), len(CHOICES)),
        )  # fmt: skip

    whole = _run(task, arm, size, 1.0)
    for choice in _choices(whole):
        candidates = whole.arm.strengths if choice == "strength" else whole.rates
        yield from (cell(whole, number, choice=choice) for number in range(len(candidates)))
    for duration in arm.durations:
        run = _run(task, arm, size, duration)
        for number in range(min(task.seeds, seeds or task.seeds)):
            main = size == task.sizes[0]
            measured = {"sharpness": main and arm.sharpness, "traced": main and duration == 1 and number < arm.traced}
            yield cell(run, task.tuning_seeds + number, **{name: True for name, wanted in measured.items() if wanted})


def data_sets(config: MajorityConfig) -> set[str]:
    """What a tier reads."""
    return {task.dataset for task in config.tasks}


def own_task(config: MajorityConfig, dataset: str) -> Task:
    """The tier's first task of the same modality with its data replaced, at its first size only, or at all examples
    where there are fewer. An MLP is passed over, as it reads images of one size."""
    modality = data.describe(dataset).modality
    fit = (task for task in config.tasks if task.modality == modality and "in_features" not in task.student.options)
    template = next(fit, None)
    if template is None:
        raise UserError(f"The tier '{config.tier}' has no {modality} task to take the recipe from; choose another.")
    name = data.absolute(dataset)
    where = Where(dataset=name, modality=modality, validation_fraction=template.validation_fraction)
    size = min(template.sizes[0], len(_examples(where, "cpu").rows["train"]))
    student = pooled(template.student, name) if modality == "image" else template.student
    return template.model_copy(update={"dataset": name, "student": student, "sizes": [size]})


def timing_cells(config: MajorityConfig, device: str) -> list[Cell]:
    """One cell per architecture and batch."""
    return [
        Cell(
            paper=PAPER, experiment="timing", tier=config.tier, dataset="synthetic", model=one.model,
            method=f"{device}-batch{batch}", params={**one.model_copy(update={"batches": [batch]}).plain()}, seed=0,
        )
        for one in config.timing
        for batch in one.batches
    ]  # fmt: skip


def method_name(task: Task, run: Run) -> str:
    """What records call a run: its arm, its duration if not the whole, its number of examples if not the first."""
    part = "" if run.duration == 1 else f":{run.duration:g}"
    return run.arm.name + part + ("" if run.size == task.sizes[0] else f"@{run.size}")


def _run(task: Task, arm: Arm, size: int, duration: float) -> Run:
    owner = arm
    if arm.rate_of is not None:
        found = [one for one in task.arms if one.name == arm.rate_of]
        if not found or found[0].rate_of is not None or (arm.mapped and not found[0].mapped):
            raise UserError(
                f"The arm '{arm.name}' takes the rates of '{arm.rate_of}', which has none of its own at all its sizes; "
                "mend its configuration."
            )
        owner = found[0]
    run = Run(
        where=Where(dataset=task.dataset, modality=task.modality, validation_fraction=task.validation_fraction),
        size=size, student=task.student, wide=task.wide if arm.method == "selected" else None,
        arm=arm.model_copy(update={"mapped": False, "durations": [], "rate_of": None, "sharpness": None, "traced": 0}),
        duration=duration, rates=task.rates, tuning_seeds=task.tuning_seeds,
    )  # fmt: skip
    if owner is arm and duration == 1:
        return run
    return run.model_copy(update={"rate_of": _run(task, owner, size, 1.0)})


def _choices(run: Run) -> list[str]:
    """What is chosen for ``run`` itself, in order."""
    rates, strengths = run.rate_of is None and len(run.rates) > 1, len(run.arm.strengths) > 1
    return [name for name, wanted in zip(CHOICES, (rates, strengths, rates and strengths), strict=True) if wanted]


# ---------------------------------------------------------------------------------------------------------------------
# How a cell is computed


def compute(cell: Cell, device: str) -> Outcome:
    """Train and measure what ``cell`` names."""
    if cell.experiment == "timing":
        return _compute_timing(cell, device)
    run = Run.model_validate(cell.params["run"])
    if cell.experiment == "tuning":
        return _compute_tuning(run, cell.params["choice"], cell.seed, device)
    return _compute_student(
        run, cell.seed, device, sharp="sharpness" in cell.params, traced="traced" in cell.params
    )  # fmt: skip


@lru_cache(maxsize=2)
def _examples_by_json(where_json: str, device: str) -> ImageTask | SentenceTask:
    where = Where.model_validate_json(where_json)
    return TASKS[where.modality](where.dataset, where.validation_fraction, device)


def _examples(where: Where, device: str) -> ImageTask | SentenceTask:
    """The data of a run, read once per process."""
    return _examples_by_json(where.model_dump_json(), device)


def subset(task: ClassificationTask, size: int, seed: int) -> np.ndarray:
    """The places in the training split that repetition ``seed`` learns from: the same for all arms."""
    total = len(task.rows["train"])
    if size > total:
        raise UserError(f"'{task.label}' has {total} examples for training, not {size}; choose smaller sizes.")
    return np.sort(seeds.numpy_rng(seed, "subset", dataset=task.label).permutation(total)[:size])


def settings_of(run: Run, device: str, before: str | None = None) -> Settings:
    """The rate and the strength with the best validation accuracy, chosen in turn; see ``CHOICES``. Among equals the
    first. ``before``: as they are before that choice is made."""
    owner = run.rate_of
    if owner is not None and owner.arm == run.arm:  # a shorter run
        return settings_of(owner, device)
    rate = run.rates[0] if owner is None else settings_of(owner, device).rate
    chosen = Settings(rate=rate, strength=next(iter(run.arm.strengths), None))
    for choice in _choices(run):
        if choice == before:
            break
        chosen = max(_candidates(run, choice, chosen), key=lambda one: _tuned(run, one, device))
    return chosen


def _candidates(run: Run, choice: str, chosen: Settings) -> list[Settings]:
    if choice == "strength":
        return [chosen.model_copy(update={"strength": strength}) for strength in run.arm.strengths]
    return [chosen.model_copy(update={"rate": rate}) for rate in run.rates]


def _tuned(run: Run, settings: Settings, device: str) -> float:
    """Mean validation accuracy of a whole run with these settings over its tuning repetitions, each computed once."""
    task, strengths = _examples(run.where, device), [] if settings.strength is None else [settings.strength]
    arm = run.arm.model_copy(update={"name": "", "strengths": strengths})
    named = run.model_copy(
        update={"tuning_seeds": 0, "rate_of": None, "rates": [settings.rate], "duration": 1.0, "arm": arm}
    )
    total = 0.0
    more = {"selection": SELECTION} if arm.method == "selected" else {}
    for seed in range(run.tuning_seeds):
        key = sha256_key({"run": named.plain(), "data": task.fingerprint, "seed": seed} | more)
        path = cache_dir() / "tuning" / f"majority-{key}.json"
        if not path.exists():
            model = fit(named, settings, seed, device).model
            found = {one.name: one.value for one in task.quality(run.student, model, "validation")}
            write_atomic(path, json.dumps(found))
        total += json.loads(path.read_text())["accuracy"]
    return total / run.tuning_seeds


def _compute_tuning(run: Run, choice: str, number: int, device: str) -> Outcome:
    settings = _candidates(run, choice, settings_of(run, device, before=choice))[number]
    metrics = [
        Metric(name="accuracy", value=_tuned(run, settings, device), unit="fraction", split="validation"),
        *_of_settings(settings),
    ]
    return Outcome(metrics, protocol=run.student.train.protocol())


class Fit(NamedTuple):
    """A trained model, plain and in evaluation mode; what training it took; and what was followed."""

    model: nn.Module
    running: nn.Module  # the same with the norms' statistics of training
    trained: nn.Module  # before folding
    seconds: float
    examples: float  # of training, each of a forward and a backward pass, weighted by the model's FLOPs
    runs: int  # of an optimiser, until the model is there
    trace: dict[str, list[float | None]]
    diverged: bool = False


def fit(run: Run, settings: Settings, seed: int, device: str, traced: bool = False) -> Fit:
    """The model of ``run`` in repetition ``seed``. One whose training diverges deploys what it began with: a run that
    fails is a result, and dropping it would flatter its arm."""
    task = _examples(run.where, device)
    only = subset(task, run.size, seed)
    try:
        return _fit(run, settings, seed, task, only, traced)
    except Diverged:
        model = task.build(run.student, seed).eval()
        recipe = run.student.train
        examples = recipe.total_steps(run.size) * recipe.global_batch * run.duration
        return Fit(recalibrated(model, task, run.student, only), model, model, 0.0, examples, 1, {}, diverged=True)


def _fit(
    run: Run, settings: Settings, seed: int, task: ImageTask | SentenceTask, only: np.ndarray, traced: bool
) -> Fit:
    arm = run.arm
    if arm.method == "distilled":
        return _distilled(run, settings, seed, task, only)
    if arm.method == "selected":
        return _selected(run, settings, seed, task, only)
    model = task.build(_spec(run, settings), seed)
    prepare(model, run, settings, seed, task)
    follow = Trace(model, task, run.student, only) if traced else None
    average = _average(arm, settings, model)
    share = settings.strength or 1.0 if arm.method == "stopped" else 1.0
    result = _train(model, run, settings, seed, task, only, share=share, follow=follow, average=average)
    model = (model if average is None else average.model.module).eval()
    folded = kernels.fold(model)
    return Fit(
        recalibrated(folded, task, run.student, only), folded, model, training_seconds(result.clocks),
        result.examples, 1,
        {} if follow is None else follow.found,
    )  # fmt: skip


def _spec(run: Run, settings: Settings) -> ModelSpec:
    options = run.student.options | ({"dropout": settings.strength} if run.arm.method == "dropout" else {})
    return run.student.model_copy(update={"options": options})


def prepare(model: nn.Module, run: Run, settings: Settings, seed: int, task: ClassificationTask) -> None:
    """What an arm does to a fresh model before training, in place."""
    arm, layers = run.arm, LAYERS[run.arm.layers]
    with torch.no_grad():
        for name, module in model.named_modules():
            if arm.init_scale != 1 and kernels.are_kernels(name, module):
                module.get_parameter("weight").mul_(arm.init_scale)
    if arm.method == "noise":
        kernels.add_noise(model, settings.strength or 0.0, layers=layers)
    if arm.method == "majority":
        number = count(1)
        fresh = None
        if arm.copies == "independent":
            fresh = lambda: task.build(run.student, seed, copy=next(number))  # noqa: E731
        recipe = run.student.train
        raised = kernels.pairing(arm.law, arm.k, recipe.optimizer) if arm.paired else 1.0
        kernels.expand(
            model, arm.k, law=arm.law, granularity=arm.granularity, fresh=fresh, scale=arm.scale,
            lr_scale=raised / kernels.pairing(arm.law, arm.as_mean_of, recipe.optimizer), layers=layers,
        )  # fmt: skip
        one_each = arm.granularity in ("network", "layer") and arm.layers != "kernels and norms" and not arm.penalty
        if (
            arm.k > 1
            and one_each
            and recipe.optimizer != "sparse_adam"
            and recipe.grad_clip is None
            and rank_and_world()[1] == 1
        ):
            kernels.fuse(model)


class Average(NamedTuple):
    """An average of a model's weights after each step from ``start`` (a share of training) on."""

    model: AveragedModel
    start: float


def _average(arm: Arm, settings: Settings, model: nn.Module) -> Average | None:
    if arm.method not in ("swa", "ema"):
        return None
    strength = settings.strength or 0.0
    if arm.method == "swa":
        return Average(AveragedModel(model), 1 - strength)
    return Average(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(strength)), 0.0)


def _train(
    model: nn.Module, run: Run, settings: Settings, seed: int, task: ImageTask | SentenceTask, only: np.ndarray, *,
    member: int = 0, share: float = 1.0, teacher: Tensor | None = None, follow: "Trace | None" = None,
    average: Average | None = None,
) -> TrainResult:  # fmt: skip
    """Train ``model`` in place for ``share`` of the run's steps; see ``fit``."""
    recipe, rate, arm = run.student.train, settings.rate, run.arm
    steps = max(1, round(recipe.total_steps(run.size) * run.duration * share))
    recipe = recipe.model_copy(
        update={"epochs": None, "steps": steps, "lr": rate.lr, "weight_decay": rate.weight_decay}
    )
    how: dict[str, Any] = {"augment": True} if run.student.augment else {}
    source = task.source(run.student, "train", only=only, **how)
    axes: dict[str, int | str] = {"dataset": task.label, "member": member}
    kd = Distillation(temperature=settings.strength or 1.0)

    def loss(net: nn.Module, batch: Batch, step: Step) -> Tensor:
        with step.clock("probe_s"):
            if follow is not None:
                follow.look(model, step)
        if average is not None and step.number > average.start * step.total:
            average.model.update_parameters(model)
        kernels.draw(model, step.number, seed=seed)
        logits = forward(net, batch)
        value = task.task_loss(logits, batch)
        if arm.penalty:
            value = value + (settings.strength or 0.0) * similarity(model, step.number, seed=seed)
        if teacher is not None:
            value = kd.add(value, logits, teacher[batch["index"]], step.number, step.total)
        return value

    result = train(model, source, loss, recipe, seed=seed, device=task.device, stream_axes=axes)
    if average is not None:
        average.model.update_parameters(model)
    if follow is not None:
        follow.note(model, result.steps)
    return result


def _distilled(run: Run, settings: Settings, seed: int, task: ImageTask | SentenceTask, only: np.ndarray) -> Fit:
    """A student of the mean logits of ``k`` plain members; the student starts as the plain model of this seed does."""
    source, total, seconds, examples = task.source(run.student, "train", only=only), 0, 0.0, 0
    logits = torch.zeros(len(only), len(task.classes))
    for member in range(1, run.arm.k + 1):
        model = task.build(run.student, seed, copy=member)
        result = _train(model, _plain(run), settings, seed, task, only, member=member)
        logits += predict(recalibrated(model.eval(), task, run.student, only), source, 1024, device=task.device)
        seconds, examples = seconds + training_seconds(result.clocks), examples + result.examples
    student = task.build(run.student, seed)
    result = _train(student, run, settings, seed, task, only, teacher=(logits / run.arm.k).to(task.device))
    student.eval()
    seconds, examples, total = seconds + training_seconds(result.clocks), examples + result.examples, run.arm.k + 1
    return Fit(recalibrated(student, task, run.student, only), student, student, seconds, examples, total, {})


def _selected(run: Run, settings: Settings, seed: int, task: ImageTask | SentenceTask, only: np.ndarray) -> Fit:
    """The best neurons of a wider model, trained on afterwards where the arm says so."""
    wide_spec = run.student.model_copy(update={"options": run.student.options | (run.wide or {})})
    wide = task.build(wide_spec, seed)
    result = _train(wide, run, settings, seed, task, only)
    weight = task.flops(wide_spec) / task.flops(run.student)
    seconds, examples, runs = training_seconds(result.clocks), weight * result.examples, 1
    batches = _batches(task, run.student, only, SELECTION)
    model = select(recalibrated(wide.eval(), task, run.student, only), task.build(run.student, seed), batches)
    if run.arm.fine_tune:
        low = settings.rate.model_copy(update={"lr": settings.rate.lr * FINE_TUNING_RATE})
        settings = settings.model_copy(update={"rate": low})
        after = _train(model, run, settings, seed, task, only, member=1, share=run.arm.fine_tune)
        seconds, examples, runs = seconds + training_seconds(after.clocks), examples + after.examples, 2
    model.eval()
    return Fit(recalibrated(model, task, run.student, only), model, model, seconds, examples, runs, {})


def _plain(run: Run) -> Run:
    return run.model_copy(update={"arm": Arm(name="plain")})


def _batches(task: ImageTask | SentenceTask, spec: ModelSpec, only: np.ndarray, limit: int) -> list[Batch]:
    """The first ``limit`` examples in batches as large as in training."""
    source, generator = task.source(spec, "train", only=only), torch.Generator().manual_seed(0)
    places = torch.arange(min(limit, len(only))).split(spec.train.global_batch)
    return [source.batch(one, generator) for one in places]


def recalibrated(model: nn.Module, task: ImageTask | SentenceTask, spec: ModelSpec, only: np.ndarray) -> nn.Module:
    """The model with norms re-estimated on training examples, if it has any (``kernels.recalibrated``). All arms get
    this."""
    return kernels.recalibrated(
        model, lambda: [batch["pixels"] for batch in _batches(task, spec, only, kernels.RECALIBRATION)]
    )


class Trace:
    """Spread of the copies and sharpness of their mean at ``LOOKS`` points of training."""

    LOOKS = 6

    def __init__(self, model: nn.Module, task: ImageTask | SentenceTask, spec: ModelSpec, only: np.ndarray) -> None:
        self.task, self.spec, self.only = task, spec, only
        self.found: dict[str, list[float | None]] = {"step": [], "spread": [], "top_eigenvalue": [], "train_loss": []}
        self.found |= {f"spread/{layer}": [] for layer in kernels.spread(model)}

    def look(self, model: nn.Module, step: Step) -> None:
        """Before a step, if it is one of those."""
        if step.number in {step.total * i // self.LOOKS for i in range(self.LOOKS)}:
            self.note(model, step.number)
            model.train()

    def note(self, model: nn.Module, step: int) -> None:
        folded = recalibrated(kernels.fold(model.eval()), self.task, self.spec, self.only)
        sharp = sharpness(folded, self.task, self.spec, self.only, iterations=10)
        spread = kernels.spread(model)
        self.found["step"].append(float(step))
        self.found["spread"].append(float(np.mean(list(spread.values()))) if spread else 0.0)
        for layer, value in spread.items():
            self.found[f"spread/{layer}"].append(value)
        self.found["top_eigenvalue"].append(sharp["top_eigenvalue"])
        self.found["train_loss"].append(sharp["loss"])


def sharpness(
    model: nn.Module, task: ImageTask | SentenceTask, spec: ModelSpec, only: np.ndarray, iterations: int = 20
) -> dict[str, float]:
    """The loss of a plain model on the first ``PROBE`` training examples, its largest curvature in the kernels' weights
    and its rise under noise of ``NOISE`` of their standard deviation."""
    source = task.source(spec, "train", only=only)
    batch = source.batch(torch.arange(min(PROBE, len(only))), torch.Generator().manual_seed(0))
    model = kernels.fold(model)  # a copy: nothing that is kept here changes

    def loss() -> Tensor:
        return task.task_loss(forward(model, batch), batch)

    return {
        "loss": float(loss().detach()),
        "top_eigenvalue": top_eigenvalue(kernel_weights(model), loss, iterations=iterations),
        "rise": rise_under_noise(model, loss, sigma=NOISE),
    }


def _compute_student(run: Run, seed: int, device: str, sharp: bool, traced: bool) -> Outcome:
    task, settings = _examples(run.where, device), settings_of(run, device)
    found = fit(run, settings, seed, device, traced)
    only = subset(task, run.size, seed)
    quality = [
        *task.quality(run.student, found.model, "train", only=only),
        *task.quality(run.student, found.model, "validation"),
        *task.quality(run.student, found.model, "test"),
    ]
    if found.running is not found.model:
        quality += [
            one.model_copy(update={"name": f"{one.name}_running"})
            for one in task.quality(run.student, found.running, "test")
        ]
    flops = task.flops(run.student)
    spread = kernels.spread(found.trained)
    metrics = [
        *quality,
        *_of_settings(settings),
        *structure(found, task.build(run.student, seed), task, run.student),
        *(_of_sharpness(sharpness(found.model, task, run.student, only)) if sharp else []),
        Metric.of_training("seconds", found.seconds, "s"),
        Metric.of_training("optimizer_runs", found.runs, "runs"),
        Metric.of_training("diverged", found.diverged, "1"),
        Metric.of_training("training_flops", 3 * flops * found.examples, "FLOP"),
        *([Metric.of_training("spread", float(np.mean(list(spread.values()))), "1")] if spread else []),
        *(Metric.of_training(f"spread/{layer}", value, "1") for layer, value in spread.items()),
    ]
    return Outcome(
        metrics,
        samples=found.trace,
        clocks={"train_s": found.seconds},
        cost={"params": zoo.parameters(found.model), "flops_per_example": flops},
        protocol={**run.student.train.protocol(), "evaluation_precision": "fp32"},
        data={**task.provenance(), "size": run.size},
    )


def structure(found: Fit, plain: nn.Module, task: ImageTask | SentenceTask, spec: ModelSpec) -> list[Metric]:
    """What C2 says: keys and shapes of the deployed model that differ from the plain one's, its parameters over the
    plain one's, and the largest difference of its logits to those of the model before folding."""
    mine, theirs = ({name: value.shape for name, value in m.state_dict().items()} for m in (found.running, plain))
    differ = sum(mine.get(name) != theirs.get(name) for name in mine.keys() | theirs.keys())
    few = torch.arange(min(8, len(task.rows["validation"])))
    batch = task.source(spec, "validation").batch(few, torch.Generator().manual_seed(0))
    with torch.no_grad():
        gap = (forward(found.trained.eval(), batch) - forward(found.running, batch)).abs().max()
    return [
        Metric.of_training("different_keys", differ, "keys"),
        Metric.of_training("parameter_ratio", zoo.parameters(found.model) / zoo.parameters(plain), "1"),
        Metric.of_training("folding_difference", float(gap), "1"),
    ]


def _of_sharpness(found: dict[str, float]) -> list[Metric]:
    curvature = math.log(max(abs(found["top_eigenvalue"]), 1e-12))
    return [
        Metric(name="log_top_eigenvalue", value=curvature, unit="1", split="train", n=PROBE),
        Metric(name="rise_under_noise", value=found["rise"], unit="nat", split="train", n=PROBE),
    ]


def _of_settings(settings: Settings) -> list[Metric]:
    strength = [] if settings.strength is None else [Metric.of_training("strength", settings.strength, "1")]
    return [
        Metric.of_training("lr", settings.rate.lr, "1"),
        Metric.of_training("weight_decay", settings.rate.weight_decay, "1"),
        *strength,
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Timing at full-size architectures, and what larger settings would cost


def _compute_timing(cell: Cell, device: str) -> Outcome:
    one = TimingModel.model_validate(cell.params)
    found = time_majority_steps(
        one.model, one.options, batch=one.batches[0], ks=one.ks, optimizer=one.optimizer, precision=one.precision,
        rounds=one.rounds, block_s=one.block_s, device=device,
    )  # fmt: skip
    metrics = [Metric.model_validate(metric) for metric in found.pop("metrics")]
    return Outcome(metrics, **found)


def plan(config: MajorityConfig) -> list[dict[str, Any]]:
    """GPU-hours, memory, disk and money of each arm of a tier, from the FLOPs of its models. Loads no data."""
    rows = []
    for task in config.tasks:
        size = task.student.image_size if task.modality == "image" else task.student.max_length
        cost = zoo.cost(task.student.model, size=size, **task.student.options)
        seen = task.student.train.total_steps(task.sizes[0]) * task.student.train.global_batch
        for arm in task.arms:
            choices = _choices(_run(task, arm, task.sizes[0], 1.0))
            tuned = sum(len(arm.strengths if choice == "strength" else task.rates) for choice in choices)
            sizes = len(task.sizes) if arm.mapped else 1
            runs = sizes * (tuned * task.tuning_seeds + math.ceil(sum(arm.durations) * task.seeds))
            flops = runs * 3 * cost["flops_per_example"] * seen * (arm.k + 1 if arm.method == "distilled" else 1)
            rows.append(
                planning.row(
                    task.dataset,
                    arm.name,
                    task.student.model,
                    runs=runs,
                    hours=planning.ASSUMPTIONS.hours(flops),
                    params=cost["params"] * (arm.k if arm.method == "majority" else 1),
                    copies_on_disk=0,
                )
            )
    return rows
