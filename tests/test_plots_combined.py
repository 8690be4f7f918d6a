"""Figures of the combined experiment: what they show of records whose truth is known."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_combined import DEFERRED, GAIN, LOST, SINGLE_S, TEACHER, TEACHER_S, pace, write_combined

from paper_repro.ledger import judge_results
from paper_repro.plots.combined import LOOKS, PARETO, PARETO_TABLE, PLOTS, SPARSE_TITANS
from paper_repro.plots.combined_answer import answer
from paper_repro.plots.combined_cells import COLUMNS, techniques, with_dominance
from paper_repro.plots.save import read, save
from paper_repro.plots.source import Results
from paper_repro.plots.style import style
from paper_repro.stats import proportion_interval


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("results")
    write_combined(root)
    return Results.open(root, "combined", "cpu")


def test_a_technique_is_one_row_with_what_it_needs_and_costs(cpu: Results) -> None:
    rows = techniques(cpu).set_index(["dataset", "technique"])
    plain, kd, cascade = (rows.loc["imdb", name] for name in ("plain", "kd", "sparse+kd+corpus+teacher"))
    assert kd["gain"] == pytest.approx(GAIN["kd"], abs=0.002) and kd["gain_low"] < kd["gain"] < kd["gain_high"]
    assert np.isnan(plain["gain"]) and plain["teacher_s"] == 0 and kd["teacher_s"] == TEACHER_S
    assert plain["labelling_s"] == 0 and kd["labelling_s"] > 0
    assert cascade["accuracy"] == pytest.approx(0.85 + TEACHER - LOST, abs=0.002)
    assert cascade["deferred"] == pytest.approx(DEFERRED, abs=0.02) and cascade["teacher_s"] == TEACHER_S
    assert cascade["throughput_per_s"] * SINGLE_S == pytest.approx(pace("ngrams+corpus", DEFERRED), rel=0.02)
    alone = {name: rows.loc[("imdb", name), "throughput_per_s"] * SINGLE_S for name in ("sparse", "sparse+kd+corpus")}
    assert alone["sparse"] == pytest.approx(pace("ngrams"), rel=0.02)
    assert alone["sparse+kd+corpus"] == pytest.approx(pace("ngrams+corpus"), rel=0.02), "it has another vocabulary"
    assert rows.loc[("imdb", "kd+corpus"), "latency_s"] == kd["latency_s"], "a network has not"
    assert kd["latency_s"] == plain["latency_s"], "arms of one architecture have one speed"
    teacher = rows.loc[("imdb", "teacher")]
    sampling = proportion_interval(round(teacher["accuracy"] * teacher["n_test"]), teacher["n_test"])
    assert teacher["high"] == pytest.approx(sampling.high), "of one teacher there are no seeds, but test examples"
    assert "majority+teacher" not in rows.index.get_level_values(1), "its cascade was not timed"


def test_dominated_is_what_another_betters_in_what_can_be_told_apart_and_equals_in_all_else() -> None:
    def row(name: str, accuracy: float, seconds: float, latency: float, half: float = np.nan) -> dict[str, object]:
        known = dict.fromkeys(COLUMNS, 0.0) | {"dataset": "d", "model": "", "technique": name, "arm": name}
        known |= {"accuracy": accuracy, "low": accuracy - half, "high": accuracy + half}
        return known | {"student_s": seconds, "latency_s": latency, "throughput_per_s": 1.0}

    def found(*rows: dict[str, object]) -> dict[str, bool]:
        return dict(with_dominance(pd.DataFrame(rows)).set_index("technique")["dominated"])

    best, as_good = row("best", 0.9, 10, 1), row("as good", 0.9, 10.3, 1)
    slower, cheaper, unknown = row("slower", 0.9, 11, 1), row("cheaper", 0.8, 5, 1), row("unknown", 0.7, 10, np.nan)
    assert found(best, as_good, slower, cheaper, unknown) == {
        "best": False, "as good": False, "slower": True, "cheaper": False, "unknown": False,
    }  # fmt: skip
    for half, told_apart in ((0.02, False), (0.004, True)):
        two = row("a", 0.90, 10, 1, half), row("b", 0.91, 10, 1, half)
        assert found(*two) == {"a": told_apart, "b": False}


def test_sparse_titans_shows_what_was_measured_and_where_it_loses(cpu: Results) -> None:
    data, shown = SPARSE_TITANS.rows(cpu)
    points = data[(data["kind"] == "point") & (data["dataset"] == "imdb")].set_index("series")
    assert set(points.index) == {"kd", "kd+corpus", "sparse+kd", "sparse+kd+corpus"}
    assert points.loc["sparse+kd", "x"] == pytest.approx(pace("ngrams", DEFERRED), rel=0.02)
    assert points.loc["sparse+kd", "y"] == pytest.approx(-LOST, abs=0.001)
    curve = data[(data["kind"] == "curve") & (data["dataset"] == "imdb") & (data["series"] == "sparse+kd")]
    fastest = curve.loc[curve["x"].idxmax()]
    assert fastest["x"] == pytest.approx(pace("ngrams"), rel=0.02), "a student that defers nothing"
    assert curve["x"].min() == pytest.approx(1 / (1 + 1 / pace("ngrams")), rel=0.02), "one that defers all"
    assert shown.keys == cpu.keys


@pytest.mark.parametrize("plot", PLOTS.values(), ids=lambda plot: plot.id)
def test_every_axis_has_a_unit_and_every_technique_a_name(plot, cpu: Results) -> None:  # type: ignore[no-untyped-def]
    data, _ = plot.rows(cpu)
    with style():
        drawn = plot.draw(data)
    if plot.kind == "table":
        assert len(drawn) == len(data) and set(data["arm"]) <= set(LOOKS)
        return
    for axis in drawn.axes:
        assert re.search(r"\(.+\)", axis.get_xlabel()) and re.search(r"\(.+\)", axis.get_ylabel())
        assert axis.get_title()


def test_the_pareto_figure_needs_timings_and_the_table_does_not(cpu: Results, tmp_path: Path) -> None:
    untimed = cpu.select(("student",))
    data, _ = PARETO_TABLE.rows(untimed)
    table = PARETO_TABLE.draw(data)
    assert len(table) and (table["throughput (1/s)"] == "").all()
    assert PARETO.rows(untimed)[0].empty and SPARSE_TITANS.rows(untimed)[0].empty, "not drawn, as of own data"


def test_the_table_is_drawn_from_its_json_where_one_seed_has_no_interval(tmp_path: Path) -> None:
    write_combined(tmp_path / "results", "smoke", seeds=1)
    results = Results.open(tmp_path / "results", "combined", "smoke")
    data, shown = PARETO_TABLE.rows(results)
    paths = save(PARETO_TABLE.draw(data), data, PARETO_TABLE, shown, tmp_path)
    _, again = read(next(path for path in paths if path.suffix == ".json"))
    assert PARETO_TABLE.draw(again).equals(PARETO_TABLE.draw(data))


def test_the_promise_is_answered_for_each_data_set_from_the_verdicts(tmp_path: Path) -> None:
    write_combined(tmp_path, "cpu", seeds=5)
    text = answer(judge_results(tmp_path, "combined", "cpu"))
    assert "**IMDB**: the promise does not hold (5.0" in text and "times the throughput" in text
    assert "0.30 points lost" in text and text.count("**") == 8
    nothing = answer(judge_results(tmp_path / "none", "combined", "cpu"))
    assert nothing == "Nothing was judged here of ten times the throughput within half a point."
