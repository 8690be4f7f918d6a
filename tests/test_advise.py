"""Advice on own data: budgets, how much fits into the time, the order of the options, and the whole of it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_combined import TEACHER_S, combined_records
from typer.testing import CliRunner

from experiments import combined
from paper_repro import advise, runner
from paper_repro.cli import app
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.plots.combined_cells import accuracy_interval
from paper_repro.plots.source import Results
from paper_repro.results import Record, Store
from paper_repro.stats import proportion_interval
from paper_repro.train import TrainConfig


@pytest.mark.parametrize(
    ("text", "seconds", "alone"),
    [("2ms/example", 2e-3, True), (" 50 us / text", 5e-5, True), ("1.5s/image", 1.5, True), ("500/s", 2e-3, False)],
)
def test_a_budget_is_of_one_example_alone_or_of_many(text: str, seconds: float, alone: bool) -> None:
    assert advise.parse_budget(text)[:2] == (pytest.approx(seconds), alone)


@pytest.mark.parametrize("text", ["2", "0/s", "fast", "2ms", "-1/s", "1.2.3/s", "2 h/example"])
def test_a_budget_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="write it as '2ms/example' or as '500/s'"):
        advise.parse_budget(text)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """300 texts in which one of two words tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    words = np.array([f"word{number}" for number in range(60)])
    rows = [" ".join([*words[rng.integers(0, 60, 8)], ("good", "bad")[label]]) for label in labels]
    path = tmp_path_factory.mktemp("own") / "own.parquet"
    pd.DataFrame({"text": rows, "label": labels}).to_parquet(path)
    return str(path)


def test_less_time_means_a_smaller_share_of_the_recipe(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"teacher": 0.05, "net": 0.01, "ngrams": 0.001}
    monkeypatch.setattr(advise, "_step_times", lambda *_: slow)
    config = runner.load_config("combined", "smoke")

    def plan(minutes: float) -> combined.Thrift:
        return advise._planned(config, own, minutes, "cpu", time.monotonic())

    assert plan(60).share == plan(60).teacher == 1.0 and plan(60).limit == advise.LIMITS[0]
    short = plan(2.0)
    assert plan(3.0).share >= short.share < 1.0 and short.teacher >= advise.LEAST_OF_TEACHER
    with pytest.raises(UserError, match=r"takes about [\d.]+ minutes here; give --minutes \d+"):
        plan(0.2)


def test_what_was_planned_is_remembered(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advise, "_step_times", lambda *_: {"teacher": 0.05, "net": 0.01, "ngrams": 0.001})
    config = runner.load_config("combined", "smoke")
    first = advise._remembered(config, own, 2.5, "cpu", time.monotonic())
    monkeypatch.setattr(advise, "_step_times", lambda *_: {"teacher": 0.01, "net": 0.002, "ngrams": 0.001})
    assert advise._remembered(config, own, 2.5, "cpu", time.monotonic()) == first


def test_the_plan_adds_up_what_is_done() -> None:
    task = runner.load_config("combined", "smoke").tasks[1]
    sizes, step = {"train": 300, "validation": 100, "test": 200}, {"teacher": 0.01, "net": 0.001}
    one = advise.planned_seconds(task, sizes, step, 2, 1)
    teacher = 2 * 300 * 0.01  # epochs, examples, seconds; in whole batches
    labels = 600 * 0.01 / 3
    runs = 5 * 2 + 5 * 2  # choices of a rate and seeds of five arms
    student = 2 * 300 * 0.001 + (2 * 100 + 200) * 0.001 / 3
    timing = 7 * 20 * 0.01 / 3 * 3
    assert one == pytest.approx(advise.STARTING + 1.15 * (teacher + labels + runs * student) + timing, rel=0.1)
    assert advise.planned_seconds(task, sizes, step, 2, 2) < one
    assert advise.planned_seconds(task, sizes, step, 4, 1) > one


def test_an_interval_holds_what_seeds_and_what_test_examples_leave_open() -> None:
    exact = proportion_interval(90, 100)
    assert accuracy_interval(0.9, float("nan"), 100) == pytest.approx((exact.low, exact.high))
    wide = accuracy_interval(0.9, 0.04, 100)
    assert wide[1] - 0.9 == pytest.approx(np.hypot(exact.high - 0.9, 0.04))
    perfect = accuracy_interval(1.0, 0.0, 9)
    assert perfect[1] == 1.0 and perfect[0] < 0.8, "nine right of nine prove little"


def advice(tmp_path: Path, budget: str | None, records: list[Record] | None = None) -> advise.Advice:
    """On made-up records of the cpu tier's IMDB."""
    known = [record for record in combined_records("cpu") if record.dataset == "imdb"]
    for record in known if records is None else records:
        Store(tmp_path).write(record)
    full = runner.load_config("combined", "cpu")
    full = full.model_copy(update={"tasks": full.tasks[:1]})
    task = full.tasks[0]
    half = {
        name: one.model_copy(update={"spec": _shorter(one.spec), "recipe": one.recipe and _fewer(one.recipe)})
        for name, one in task.students.items()
    }  # fmt: skip
    arms = [arm.model_copy(update={"epochs": arm.epochs and arm.epochs / 2}) for arm in task.arms]
    teacher = _shorter(task.taught.teacher, 0.8).model_copy(update={"max_length": 128})
    subject = task.taught.model_copy(update={"limit": 11_250, "teacher": teacher, "label_length": 128})
    config = full.model_copy(
        update={"tasks": [task.model_copy(update={"taught": subject, "students": half, "arms": arms})]}
    )
    found, limit = Results.open(tmp_path, "combined", "cpu"), None if budget is None else advise.parse_budget(budget)
    thrift = combined.Thrift(share=0.5, teacher=0.8, limit=11_250)
    return advise._advice(found, full, config, thrift, limit, "paper-repro run combined")


def _fewer(recipe: TrainConfig, share: float = 0.5) -> TrainConfig:
    return recipe.model_copy(update={"epochs": share * recipe.epochs})


def _shorter(spec: Any, share: float = 0.5) -> Any:
    return spec.model_copy(update={"train": _fewer(spec.train, share)}) if isinstance(spec, ModelSpec) else spec


def test_options_within_the_budget_come_first_and_then_the_more_accurate(tmp_path: Path) -> None:
    free, tight = advice(tmp_path, None), advice(tmp_path, "400us/example")
    assert free.options[0].name == "teacher" and all(option.fits for option in free.options)
    assert tight.options[0].name == "sparse+kd+corpus" and not next(o for o in tight.options if o.name == "kd").fits
    fits = [option.fits for option in tight.options]
    assert fits == sorted(fits, reverse=True)
    none = advice(tmp_path, "1us/example")
    assert none.notes[0].startswith("Nothing keeps to 1us/example; the fastest is sparse")
    fastest = advise.recommended(none.options, advise.parse_budget("1us/example"))
    assert fastest.alone_s == min(option.alone_s for option in none.options)


def test_the_cost_in_full_is_of_what_the_command_does(tmp_path: Path) -> None:
    found = advice(tmp_path, None)
    kd, plain, corpus, teacher, cascade = (
        next(option for option in found.options if option.name == name)
        for name in ("kd", "plain", "sparse+kd+corpus", "teacher", "sparse+kd+teacher")
    )
    student, runs = plain.training_s, 5 + 4  # seeds and candidates of the learning rate
    teachers = 2 * TEACHER_S * 2 / 0.8  # twice the examples, texts twice as long
    each = 4 * 300 / 11_250  # seconds of a label, of texts four times as long
    assert teacher.full_s == pytest.approx(teachers, rel=0.01)
    assert plain.full_s == pytest.approx(teachers + each * 27_500 + runs * student * 4, rel=0.01)
    assert kd.full_s == pytest.approx(teachers + each * 50_000 + runs * student * 4, rel=0.01)
    assert corpus.full_s == pytest.approx(kd.full_s, rel=0.01) and cascade.command.endswith("--only=-sparse+kd-s")
    assert "first 128 word pieces of a text here and reads 512 in full" in " ".join(found.notes)
    assert teacher.alone_s == pytest.approx(4 * 1.1 * 0.02, rel=0.05), "what a budget is compared with"
    assert kd.command == "paper-repro run combined --only=-kd-s"
    said = " ".join(found.notes)
    assert "trained for 50%" in said and "Not told apart" in said and "0.5 points" in said


def test_a_limit_of_the_budget_holds_for_the_upper_limit_of_what_was_measured(tmp_path: Path) -> None:
    plain = next(option for option in advice(tmp_path, None).options if option.name == "plain")
    assert plain.alone_s == pytest.approx(1.1 * 0.02 / 8, rel=0.05)
    assert plain.among_s == pytest.approx(0.02 / 8 / 0.9, rel=0.05)


def test_what_a_cascade_costs_follows_from_what_it_defers_of_all_test_examples(tmp_path: Path) -> None:
    found = advice(tmp_path, "400us/example")
    options = {option.name: option for option in found.options}
    student, cascade, teacher = options["sparse+kd"], options["sparse+kd+teacher"], options["teacher"]
    assert cascade.deferred is not None
    most = (cascade.alone_s - student.alone_s) / teacher.alone_s
    assert cascade.deferred < most < cascade.deferred + 0.01, "of 25,000 examples little more than was seen"
    assert "an example that it defers takes the student's and the teacher's" in " ".join(found.notes)


def test_the_command_of_an_option_selects_its_cells_and_no_others() -> None:
    cells = combined.cells(runner.load_config("combined", "cpu"))
    for only in ("-kd-s", "-sparse+kd-s", "-teacher-s"):
        assert len({cell.method for cell in runner.select(cells, only)}) == 1


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["advise", *arguments])
        assert done.exit_code == 2 and done.output.count("Error") == 1
        return done.output

    assert "There is no file" in error("--data", str(tmp_path / "none.parquet"))
    assert "is not understood" in error("--data", "digits", "--budget", "cheap")
    assert "has no tier 'tiny'" in error("--data", "digits", "--tier", "tiny")


@pytest.mark.slow
def test_from_a_file_that_the_suite_does_not_know_to_advice(own: str, tmp_path: Path) -> None:
    arguments = ["advise", "--data", own, "--tier", "smoke", "--budget", "1000/s", "--results", str(tmp_path), "--json"]
    arguments += ["--minutes", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = {option["name"] for option in found["options"]}
    assert names >= {"teacher", "plain", "kd", "kd-half", "majority", "sparse", "sparse+kd", "sparse+kd+teacher"}
    assert all(option["low"] <= option["accuracy"] <= option["high"] for option in found["options"])
    assert all(option["alone_s"] > 0 and option["training_s"] > 0 for option in found["options"])
    assert len(found["notes"]) >= 2
    student = next(option for option in found["options"] if option["name"] == "sparse+kd")
    command = student["command"].split()[1:]
    done = CliRunner().invoke(app, [*command, "--seeds", "1", "--results", str(tmp_path / "full")])
    assert done.exit_code == 0, "what it recommends runs, to its table"
    assert list(tmp_path.rglob("pareto-table.md"))
