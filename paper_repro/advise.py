"""Which technique pays off on a user's own data and machine, by how much, and at what cost (beyond the papers).

A short version of the combined experiment: every technique on the same data, teacher and machine, each trained for the
same share of its full recipe. The share follows from step times measured first, so that all of it takes about as long
as was asked for. It is part of what a record is named by: a busy machine makes advice slower, or the share smaller, but
never silently worse.
"""

import math
import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments import combined
from paper_repro import data, runner
from paper_repro.config import Config
from paper_repro.distill.taught import Taught, taught
from paper_repro.errors import UserError
from paper_repro.plots.combined_cells import TEACHER, techniques
from paper_repro.plots.source import Results
from paper_repro.train import TrainConfig, forward, make_optimizer
from paper_repro.train.predict import autocast

SEEDS, TIMED_SEEDS = 3, 1
ROWS = 10_000  # training examples that are used at most, and test examples
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)  # of the full recipe
PLANNED = 0.7  # of the time asked for; the rest is for reading data, starting processes and timing
Z = 1.96
ENDS = ("", "_low", "_high")


class Budget(NamedTuple):
    """What one example may cost: ``seconds``, of an example alone or, for ``alone`` False, among many."""

    seconds: float
    alone: bool
    text: str


def parse_budget(text: str) -> Budget:
    """ "2ms/example": an example alone may take so long; "500/s": so many a second, in batches. Raises UserError."""
    each = re.fullmatch(r"\s*([\d.]+)\s*(us|µs|ms|s)\s*/\s*(?:example|text|image)\s*", text)
    many = re.fullmatch(r"\s*([\d.]+)\s*/\s*s\s*", text)
    match = each or many
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

    ``accuracy`` with what seeds and the size of the test set leave open; ``gain``: points of accuracy over plain
    training, paired by seed (on this test set). ``alone_s``, ``among_s``: seconds of an example alone and in a batch.
    ``training_s`` as done here, teacher and labels included; ``full_s``: the same for the full recipe.
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
    that cannot be used and for too little time.
    """
    full = runner.load_config(combined.PAPER, tier)
    full = full.model_copy(update={"seeds": min(full.seeds, SEEDS), "timed_seeds": TIMED_SEEDS})
    planned, share = _planned(full, dataset, minutes, device, say)
    config = combined.own_config(full, dataset, share=share, limit=ROWS)
    task = config.tasks[0]
    say(
        f"{data.label(dataset)}: every technique is trained for {share:.0%} of its full recipe, {config.seeds} times; "
        f"about {max(planned / 60, 1):.0f} minutes."
    )
    cells, timing = combined.cells(config), combined.timing_cells(config, device)
    failed = runner.run_cells(cells, results, device).failed + runner.run_cells(timing, results, device, 1).failed
    if failed:
        raise UserError(f"{len(failed)} runs failed, first {failed[0]}; its record in {results} says why.")
    found = Results.open(results, combined.PAPER, tier).of_keys({cell.key() for cell in (*cells, *timing)})
    return _advice(found, task, dataset, budget, share, tier)


# ---------------------------------------------------------------------------------------------------------------------
# How much fits into the time


def _planned(
    full: combined.CombinedConfig, dataset: str, minutes: float, device: str, say: Callable[[str], None]
) -> tuple[float, float]:
    """Seconds that the largest share which fits will take, and that share."""
    workers = (os.cpu_count() or 1) if device == "cpu" else 1
    say("Measuring step times ...")
    seconds: dict[str, float] | None = None
    for share in SHARES:
        task = combined.own_config(full, dataset, share=share, limit=ROWS).tasks[0]
        subject = taught(task.taught, device)
        seconds = seconds or _step_times(task, subject, device)
        planned = _seconds(task, subject, seconds, full.seeds, workers)
        if planned <= 60 * minutes * PLANNED:
            return planned, share
    raise UserError(
        f"Even {SHARES[-1]:.0%} of the full recipes takes about {planned / 60 / PLANNED:.0f} minutes here; give "
        f"--minutes {math.ceil(planned / 60 / PLANNED)} or fewer or shorter examples."
    )


def _step_times(task: combined.Task, subject: Taught, device: str) -> dict[str, float]:
    """Seconds per example of a training step of the teacher and of each student, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        spec = task.taught.teacher
        found = {
            "teacher": _step_time(subject.task.build(spec, 0), subject.task.source(spec, "train"), spec.train, device)
        }
        for name, student in task.students.items():
            model = subject.build(student.spec, 0)
            found[name] = _step_time(model, subject.lesson(student.spec, False), student.train, device)
    finally:
        torch.set_num_threads(before)
    return found


def _step_time(model: Any, source: Any, recipe: TrainConfig, device: str, steps: int = 3) -> float:
    model.train()
    optimizer, taken = make_optimizer(model, recipe), []
    count = min(recipe.global_batch, len(source))
    for number in range(steps + 1):
        rows = torch.arange(number * count, (number + 1) * count) % len(source)
        started = time.perf_counter()
        batch = source.batch(rows, torch.Generator())
        with autocast(recipe.precision, torch.device(device)):
            torch.nn.functional.cross_entropy(forward(model, batch).float(), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append((time.perf_counter() - started) / count)
    return float(np.median(taken[1:]))  # the first pays for what comes once


def _seconds(task: combined.Task, subject: Taught, step: dict[str, float], seeds: int, workers: int) -> float:
    """Of the whole, stage by stage: the teacher cannot be shared out, so at least it and then what needs it."""
    rows = subject.size("train")

    def examples(recipe: TrainConfig) -> float:
        return recipe.total_steps(rows) * recipe.global_batch

    teacher = examples(task.taught.teacher.train) * step["teacher"]
    labels = sum(subject.size(part) for part in ("train", "validation", "test")) * step["teacher"] / 3
    free, taught_ = 0.0, 0.0
    for arm in task.arms:
        student = task.students[arm.student]
        tuning = len(student.lrs) if len(student.lrs) > 1 else 0
        each = examples(student.train) * step[arm.student] * (1.0 + 0.1 * (arm.k - 1))
        free += tuning * each if arm.kd is None else 0.0
        taught_ += (seeds + (0 if arm.kd is None else tuning)) * each
    return max(teacher, (teacher + free) / workers) + (labels + taught_) / workers


# ---------------------------------------------------------------------------------------------------------------------
# What follows


def _advice(
    found: Results, task: combined.Task, dataset: str, budget: Budget | None, share: float, tier: str
) -> Advice:
    left_out = combined.training_rows(dataset, task, None) / combined.training_rows(dataset, task, task.taught.limit)
    options = []
    for row in techniques(found).to_dict("records"):
        low, high = accuracy_interval(row["accuracy"], (row["high"] - row["low"]) / 2, row["n_test"])
        gain, gain_low, gain_high = (None if np.isnan(row[f"gain{end}"]) else row[f"gain{end}"] for end in ENDS)
        alone, among = row["latency_s"], 1 / row["throughput_per_s"]
        training, labels = row["student_s"] + row["teacher_s"], row["labelling_s"]
        only = "-teacher-s" if row["arm"] == TEACHER else f"-{row['arm']}-s"
        options.append(
            Option(
                name=row["technique"],
                accuracy=row["accuracy"],
                low=low,
                high=high,
                gain=gain,
                gain_low=gain_low,
                gain_high=gain_high,
                deferred=None if np.isnan(row["deferred"]) else row["deferred"],
                alone_s=alone,
                among_s=among,
                weights_bytes=row["weights_bytes"],
                training_s=training + labels,
                full_s=training / share + labels * left_out,
                fits=budget is None or (alone if budget.alone else among) <= budget.seconds,
                command=f"paper-repro run combined --tier {tier} --data {shlex.quote(dataset)} --only={only}",
            )
        )
    options.sort(key=lambda option: (not option.fits, -option.accuracy))
    n_test = int(found.metrics.loc[found.metrics["metric"] == "cascade/lost", "n"].iloc[0])
    return Advice(options=options, notes=_notes(options, budget, share, n_test, task))


def accuracy_interval(accuracy: float, half: float, n_test: int) -> tuple[float, float]:
    """95 % limits of a mean accuracy over seeds, whose own interval has the width 2 ``half`` (NaN for a single seed),
    on a test set of ``n_test``: what seeds and what the choice of test examples leave open, added as independent
    errors (our choice)."""
    sampling = Z * math.sqrt(accuracy * (1 - accuracy) / n_test)
    both = math.hypot(sampling, 0.0 if math.isnan(half) else half)
    return max(0.0, accuracy - both), min(1.0, accuracy + both)


def _notes(options: list[Option], budget: Budget | None, share: float, n_test: int, task: combined.Task) -> list[str]:
    fitting = [option for option in options if option.fits]
    notes = []
    if not fitting:
        assert budget is not None
        fastest = min(options, key=lambda option: option.alone_s if budget.alone else option.among_s)
        notes.append(f"Nothing keeps to {budget.text}; the fastest is {fastest.name}.")
    else:
        best = fitting[0]
        close = [option.name for option in fitting[1:] if option.high >= best.low]
        notes.append(
            f"Best within the budget: {best.name}. Its interval overlaps with that of "
            f"{', '.join(close)}: these are not told apart here."
            if close
            else f"Best within the budget: {best.name}, whose interval overlaps with no other's."
        )
    if share < 1:
        notes.append(
            f"Everything was trained for {share:.0%} of its full recipe, so accuracies are lower than they will be, "
            "and close techniques may change places; the command given runs the full recipe."
        )
    notes.append(
        f"Accuracies are on {n_test:,} examples that nothing was chosen on. A cascade's threshold is calibrated on "
        f"{task.taught.validation_fraction:.0%} of the training examples; with few of them it defers more than it must."
    )
    return notes
