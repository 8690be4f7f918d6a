"""Advice on own data: budgets, how much fits into the time, the order of the options, and the whole of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_combined import combined_records
from typer.testing import CliRunner

from experiments import combined
from paper_repro import advise, runner
from paper_repro.cli import app
from paper_repro.errors import UserError
from paper_repro.plots.source import Results
from paper_repro.results import Store


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

    def share(minutes: float) -> float:
        planned, found = advise._planned(config, own, minutes, "cpu", lambda _: None)
        assert planned <= 60 * minutes * advise.PLANNED
        return found

    assert share(60) == 1.0
    assert share(60) > share(0.7) >= share(0.5)
    with pytest.raises(UserError, match=r"takes about \d+ minutes here; give --minutes \d+"):
        share(0.01)


def test_an_interval_holds_what_seeds_and_what_test_examples_leave_open() -> None:
    low, high = advise.accuracy_interval(0.9, float("nan"), 100)
    assert (low, high) == (pytest.approx(0.9 - 1.96 * 0.03), pytest.approx(0.9 + 1.96 * 0.03))
    wide = advise.accuracy_interval(0.9, 0.04, 100)
    assert wide[1] - 0.9 == pytest.approx(np.hypot(0.0588, 0.04)) and advise.accuracy_interval(1.0, 0.1, 9)[1] == 1.0


def advice(tmp_path: Path, budget: str | None) -> advise.Advice:
    """On made-up records of the cpu tier's IMDB."""
    records = [record for record in combined_records("cpu") if record.dataset == "imdb"]
    for record in records:
        Store(tmp_path).write(record)
    task = runner.load_config("combined", "cpu").tasks[0]
    limit = None if budget is None else advise.parse_budget(budget)
    found = Results.open(tmp_path, "combined", "cpu")
    return advise._advice(found, task, "imdb", limit, 0.5, "cpu")


def test_options_within_the_budget_come_first_and_then_the_more_accurate(tmp_path: Path) -> None:
    free, tight = advice(tmp_path, None), advice(tmp_path, "400us/example")
    assert free.options[0].name == "teacher" and all(option.fits for option in free.options)
    assert tight.options[0].name == "sparse+kd+corpus" and not next(o for o in tight.options if o.name == "kd").fits
    fits = [option.fits for option in tight.options]
    assert fits == sorted(fits, reverse=True)
    kd = next(option for option in free.options if option.name == "kd")
    assert kd.full_s == pytest.approx((kd.training_s - 300) / 0.5 + 300), "labelling is not shortened"
    assert kd.command == "paper-repro run combined --tier cpu --data imdb --only=-kd-s"
    assert "trained for 50%" in " ".join(free.notes) and "not told apart" in free.notes[0]
    assert advice(tmp_path, "1us/example").notes[0].startswith("Nothing keeps to 1us/example; the fastest is")


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
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = {option["name"] for option in found["options"]}
    assert names >= {"teacher", "plain", "kd", "kd-half", "majority", "sparse", "sparse+kd", "sparse+kd+teacher"}
    assert all(option["low"] <= option["accuracy"] <= option["high"] for option in found["options"])
    assert all(option["alone_s"] > 0 and option["training_s"] > 0 for option in found["options"])
    assert len(found["notes"]) >= 2
