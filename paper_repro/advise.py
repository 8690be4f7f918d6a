"""Which technique pays off on a user's own data and machine, by how much, and at what cost (beyond the papers).

A short version of the combined experiment: every technique on the same data, teacher and machine, each trained for the
same share of its full recipe. The share follows from step times measured first, so that all of it takes about as long
as was asked for. It is part of what a record is named by: a busy machine makes advice slower, or the share smaller, but
never silently worse.
"""

import json
import math
import os
import re
import shlex
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments import combined
from paper_repro import data, runner
from paper_repro.config import Config, sha256_key
from paper_repro.distill.taught import Reads, Taught, taught
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.plots.combined_cells import PLAIN, TEACHER, techniques
from paper_repro.plots.source import Results
from paper_repro.stats import proportion_interval
from paper_repro.train import Source, TrainConfig, forward, train, training_seconds

SEEDS, TIMED_SEEDS = 3, 1
LIMITS = (10_000, 5_000, 2_500)  # examples of each part that are used at most
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)  # of the full recipe
LEAST_OF_TEACHER = 0.2  # of its recipe: what an untrained teacher teaches says nothing about distillation
LONGEST, TIMED, SINGLES = 128, 64, 24  # word pieces; test examples that are timed, and those one by one
STEPS = 8  # of each model, timed for the plan
CONTENTION, KERNELS = 1.15, 1.3  # what two processes cost each other, and majority kernels a step (our estimates)
STARTING = 45.0  # seconds for starting processes and reading data (our estimate)


class Budget(NamedTuple):
    """What one example may cost: ``seconds``, of an example alone or, for ``alone`` False, among many."""

    seconds: float
    alone: bool
    text: str


def parse_budget(text: str) -> Budget:
    """ "2ms/example": an example alone may take so long; "500/s": so many a second, in batches. Raises UserError."""
    each = re.fullmatch(r"\s*([\d.]+)\s*(us|µs|ms|s)\s*/\s*(?:example|text|image)\s*", text)
    match = each or re.fullmatch(r"\s*([\d.]+)\s*/\s*s\s*", text)
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:  # as of "1.2.3"
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"The budget '{text}' is not understood; write it as '2ms/example' or as '500/s'.")
    if each:
        return Budget(value * {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}[each[2]], True, text.strip())
    return Budget(1 / value, False, text.strip())


class Option(Config):
    """One technique as it was measured here. Intervals are of 95 %.

    ``accuracy`` with what seeds and the size of the test set leave open; ``gain``: accuracy over plain training's,
    paired by seed, on this test set. ``alone_s``, ``among_s``: seconds of an example alone and among many, at the upper
    limits of what was measured, the teacher's for texts as long as it reads in full; of a cascade a mean over what it
    keeps and what it defers. ``training_s``: of one model here, with its teacher and labels; ``full_s``: of what
    ``command`` does, on one core (see ``full_seconds``).
    """

    name: str
    accuracy: float
    low: float
    high: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    deferred: float | None
    alone_s: float
    among_s: float
    weights_bytes: float
    training_s: float
    full_s: float
    fits: bool
    command: str


class Advice(Config):
    """Techniques, those within the budget first and by accuracy; ``notes`` say what to know before believing it."""

    options: list[Option]
    notes: list[str]


def advise(
    dataset: str, budget: Budget | None, results: Path, *, minutes: float = 10.0, tier: str = "cpu",
    device: str = "cpu", say: Callable[[str], None] = lambda text: None,
) -> Advice:  # fmt: skip
    """Measure every technique on ``dataset`` (a name or a parquet file) in about ``minutes``; see ``Advice``.

    Records go to ``results`` and are not computed again. ``say`` is told what will be done. Raises UserError for data
    that cannot be used, for too little time, and when a run fails.
    """
    started = time.monotonic()
    full = runner.load_config(combined.PAPER, tier)
    short = full.model_copy(update={"seeds": min(full.seeds, SEEDS), "timed_seeds": TIMED_SEEDS})
    say("Reading the data and measuring step times ...")
    thrift = _remembered(short, dataset, minutes, device, started)
    config = combined.own_config(short, dataset, thrift=thrift)
    say(
        f"{data.label(dataset)}: every technique is trained for {thrift.share:.0%} of its full recipe, the teacher for "
        f"{thrift.teacher:.0%}, on at most {thrift.limit:,} examples, {config.seeds} times; this takes about "
        f"{minutes:g} minutes."
    )
    cells, timing = combined.cells(config), combined.timing_cells(config, device)
    for stage, workers in ((cells, None), (timing, 1)):
        if failed := runner.run_cells(stage, results, device, workers).failed:
            raise UserError(f"{failed[0]} failed; its record in {results} says why.")
    found = Results.open(results, combined.PAPER, tier).of_keys({cell.key() for cell in (*cells, *timing)})
    asked = [f"--data {shlex.quote(dataset)}", *([f"--device {device}"] if device != "cpu" else [])]
    command = " ".join(["paper-repro run combined --tier", tier, *asked])
    advice = _advice(found, combined.own_config(full, dataset), config, thrift, budget, command)
    advice.notes.append(f"This took {(time.monotonic() - started) / 60:.1f} minutes.")
    return advice


# ---------------------------------------------------------------------------------------------------------------------
# How much fits into the time


def _remembered(
    config: combined.CombinedConfig, dataset: str, minutes: float, device: str, started: float
) -> combined.Thrift:
    """What was planned the first time: step times vary, and with another plan nothing that was computed would count."""
    asked = [data.fingerprint(dataset, "train"), config.plain(), minutes, device]
    path = cache_dir() / "advice" / f"{sha256_key(asked)}.json"
    if not path.exists():
        write_atomic(path, _planned(config, dataset, minutes, device, started).model_dump_json())
    return combined.Thrift.model_validate(json.loads(path.read_text(encoding="utf-8")))


def _planned(
    config: combined.CombinedConfig, dataset: str, minutes: float, device: str, started: float
) -> combined.Thrift:
    """The largest share, and then the most examples, that fit into what is left of the time."""
    workers = (os.cpu_count() or 1) if device == "cpu" else 1
    step: dict[str, float] | None = None
    for share, limit in product(SHARES, LIMITS):
        thrift = combined.Thrift(
            share=share, teacher=max(share, LEAST_OF_TEACHER), limit=limit, longest=LONGEST, timed=TIMED,
            singles=SINGLES,
        )  # fmt: skip
        task = combined.own_config(config, dataset, thrift=thrift).tasks[0]
        if step is None:
            subject = taught(task.taught, device)
            step, sizes = _step_times(task, subject, device), {p: len(rows) for p, rows in subject.task.rows.items()}
        needed = planned_seconds(task, sizes, step, config.seeds, workers)
        left = 60 * minutes - (time.monotonic() - started)
        if needed <= left:
            return thrift
    raise UserError(
        f"Even {SHARES[-1]:.0%} of the full recipes takes about {needed / 60:.1f} minutes here; give --minutes "
        f"{math.ceil((needed + 60 * minutes - left) / 60)} or fewer or shorter examples."
    )


def _step_times(task: combined.Task, subject: Taught, device: str) -> dict[str, float]:
    """Seconds per example of a training step of the teacher and of each student, on one thread as in the runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        spec = task.taught.teacher
        found = {
            TEACHER: _step_time(subject.task.build(spec, 0), subject.task.source(spec, "train"), spec.train, device)
        }
        for name, student in task.students.items():
            reads = Reads(spec=student.spec)
            found[name] = _step_time(subject.build(reads, 0), subject.lesson(reads), student.train, device)
    finally:
        torch.set_num_threads(before)
    return found


def _step_time(model: Any, source: Source, recipe: TrainConfig, device: str) -> float:
    few = recipe.model_copy(update={"epochs": None, "steps": STEPS})

    def loss(net: Any, batch: Any, _: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(forward(net, batch).float(), batch["label"])

    seconds = [training_seconds(train(model, source, loss, few, seed=0, device=device).clocks) for _ in range(2)]
    return min(seconds) / (STEPS * recipe.global_batch)  # the first pays for what comes once


def planned_seconds(
    task: combined.Task, sizes: dict[str, int], step: dict[str, float], seeds: int, workers: int
) -> float:
    """Seconds that a task takes: stage by stage, as the teacher cannot be shared out, and then the timings.

    ``sizes``: examples of each part; ``step``: seconds per example of a training step of the teacher and of each
    student, of which a forward pass is a third.
    """
    limit = task.taught.limit or max(sizes.values())
    rows, held_out, test = (min(limit, sizes[part]) for part in ("train", "validation", "test"))

    forward_s = step[TEACHER] / 3
    teacher = _examples(task.taught.teacher.train, rows) * step[TEACHER]
    labels = (rows + held_out + test) * forward_s
    early, late = 0.0, 0.0
    for arm in task.arms:
        student, per_example = task.students[arm.student], step[arm.student]
        one = _examples(_recipe(task, arm), rows) * per_example * (KERNELS if arm.k > 1 else 1.0)
        one += (2 * held_out + test) * per_example / 3  # evaluation
        choices = len(student.lrs) if len(student.lrs) > 1 else 0
        early += choices * one if arm.kd is None else 0.0
        late += (seeds + (0 if arm.kd is None else choices)) * one
    cascades = sum(arm.timed for arm in task.arms)
    timing = (task.rounds + 1) * (task.timed_examples + task.timed_singles) * forward_s * (1 + cascades)
    shared = max(teacher, (teacher + early) / workers) + (labels + late) / workers
    return STARTING + CONTENTION * shared + timing


# ---------------------------------------------------------------------------------------------------------------------
# What follows


def _advice(
    found: Results, full: combined.CombinedConfig, config: combined.CombinedConfig, thrift: combined.Thrift,
    budget: Budget | None, command: str,
) -> Advice:  # fmt: skip
    """``full`` and ``config``: the tier on the user's data, in full and as it was run."""
    rows = {row["technique"]: row for row in techniques(found).to_dict("records")}
    teacher = rows[TEACHER]
    labelling_s = max(row["labelling_s"] for row in rows.values())  # of the training examples, where any arm reads them
    read, to_read = (each.tasks[0].taught.read_length for each in (config, full))
    longer = to_read / read if config.tasks[0].taught.modality == "text" else 1.0
    options = []
    for name, row in rows.items():
        gain, gain_low, gain_high, deferred = (
            None if np.isnan(row[what]) else row[what] for what in ("gain", "gain_low", "gain_high", "deferred")
        )
        alone, among = _seconds(row, longer if name == TEACHER else 1.0)
        if deferred is not None:  # few examples are timed; how many are deferred is known from all of the test set
            most = proportion_interval(round(deferred * row["n_test"]), row["n_test"]).high
            student_s, teacher_s = _seconds(rows[row["arm"]]), _seconds(teacher, longer)
            alone, among = (s + most * t for s, t in zip(student_s, teacher_s, strict=True))
        options.append(
            Option(
                name=name,
                accuracy=row["accuracy"],
                low=row["low"],
                high=row["high"],
                gain=gain,
                gain_low=None if gain_low is None else max(gain_low, -1.0),  # a t interval of few seeds knows no limits
                gain_high=None if gain_high is None else min(gain_high, 1.0),
                deferred=deferred,
                alone_s=alone,
                among_s=among,
                weights_bytes=row["weights_bytes"],
                training_s=row["student_s"] + row["teacher_s"] + row["labelling_s"],
                full_s=full_seconds(
                    full, config, row["arm"], student_s=row["student_s"], teacher_s=teacher["teacher_s"],
                    labelling_s=labelling_s,
                ),
                fits=budget is None or (alone if budget.alone else among) <= budget.seconds,
                command=f"{command} --only=-{row['arm']}-s",
            )
        )  # fmt: skip
    options.sort(key=lambda option: (not option.fits, -option.accuracy))
    notes = _notes(options, budget, thrift, config, int(teacher["n_test"]))
    if longer > 1:
        notes.append(
            f"The teacher read the first {read} word pieces of a text here and reads {to_read} in full: it may be more "
            "accurate then, and its times are scaled up in proportion."
        )
    return Advice(options=options, notes=notes)


def _seconds(row: dict[str, Any], longer: float = 1.0) -> tuple[float, float]:
    """Of an example alone and among many, so many times as ``longer``, at the upper limits of what was measured."""
    return longer * row["latency_s/high"], longer / row["throughput_per_s/low"]


def full_seconds(
    full: combined.CombinedConfig, short: combined.CombinedConfig, arm: str, *, student_s: float, teacher_s: float,
    labelling_s: float,
) -> float:  # fmt: skip
    """Seconds on one core of an arm in ``full``, from those of the ``short`` run: of one student, of the teacher, and
    of labelling the training examples.

    All of it that the command does: the teacher, which plain training is measured against, too; its labels of
    validation and test examples, and for a distilled student of the training examples; all candidates of the learning
    rate and all seeds. Time grows with the examples of training and the length of texts, which for attention is too
    little.
    """
    (task, was), kept = (config.tasks[0] for config in (full, short)), short.tasks[0].taught.limit
    rows = combined.training_rows(task.taught.dataset, task, None)
    used = combined.training_rows(was.taught.dataset, was, kept)

    def longer(now: TrainConfig, before: TrainConfig) -> float:
        return _examples(now, rows) / _examples(before, used)

    teacher = task.taught.teacher
    text = task.taught.modality == "text"
    trained = teacher.max_length / was.taught.teacher.max_length if text else 1.0
    reads = task.taught.read_length / was.taught.read_length if text else 1.0
    total = teacher_s * trained * longer(teacher.train, was.taught.teacher.train)
    if arm == TEACHER:
        return total
    one, before = (next(one for one in each.arms if one.name == arm) for each in (task, was))
    now, then = (_recipe(each, each_arm) for each, each_arm in ((task, one), (was, before)))
    fraction = task.taught.validation_fraction
    held_out = rows * fraction / (1 - fraction) + combined.rows_of(task.taught.dataset, "test")
    total += labelling_s / used * reads * (held_out + (0 if one.kd is None else rows))
    lrs = task.students[one.student].lrs
    runs = full.seeds + (len(lrs) if len(lrs) > 1 else 0)
    return total + runs * student_s * longer(now, then)


def _examples(recipe: TrainConfig, rows: float) -> int:
    """That training on ``rows`` examples sees."""
    return recipe.total_steps(int(rows)) * recipe.global_batch


def _recipe(task: combined.Task, arm: combined.Arm) -> TrainConfig:
    recipe = task.students[arm.student].train
    return recipe.model_copy(update={"epochs": arm.epochs} if arm.epochs else {})


def _notes(
    options: list[Option], budget: Budget | None, thrift: combined.Thrift, config: combined.CombinedConfig, n_test: int
) -> list[str]:
    fitting = [option for option in options if option.fits]
    if fitting:
        best = fitting[0]
        close = [option.name for option in fitting[1:] if option.high >= best.low]
        alike = (option for option in fitting if option.name == best.name or option.name in close)
        fastest = min(alike, key=lambda option: (option.among_s, option.training_s))  # arms of one student share a time
        notes = [f"Most accurate within the budget: {best.name}."]
        if close:
            notes.append(f"Not told apart from it here: {', '.join(close)}; of these {fastest.name} is the fastest.")
    else:
        assert budget is not None
        notes = [f"Nothing keeps to {budget.text}; the fastest is {recommended(options, budget).name}."]
    teacher, plain = (next((o for o in options if o.name == name), None) for name in (TEACHER, PLAIN))
    if teacher and plain and teacher.accuracy <= plain.accuracy:
        notes.append(
            "The teacher is no better than plain training of the small model, so distillation and cascades cannot pay "
            "here; it may need more than this short training."
        )
    if thrift.share < 1:
        notes.append(
            f"Students were trained for {thrift.share:.0%} and the teacher for {thrift.teacher:.0%} of their full "
            "recipes, so accuracies are lower than they will be, and techniques may change places."
        )
    notes.append(
        f"Accuracies are on {n_test:,} examples that nothing was trained or tuned on; the best of so many is a little "
        "flattered, and differences to plain training have intervals over seeds alone. A cascade may lose "
        f"{100 * config.epsilon:.1f} points against the teacher, with probability {config.delta:g} more; that much the "
        "validation examples can promise."
    )
    if budget is not None and budget.alone and any(option.deferred for option in options):
        notes.append(
            "Of a cascade the time is a mean: an example that it defers takes the student's and the teacher's."
        )
    return notes


def recommended(options: list[Option], budget: Budget | None) -> Option:
    """The most accurate within the budget, or else the fastest."""
    if options[0].fits or budget is None:
        return options[0]
    return min(options, key=lambda option: option.alone_s if budget.alone else option.among_s)
