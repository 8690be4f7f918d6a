"""Reduce, Reuse, Recycle's figures and tables: they show what records and ledger say, and leave out what is missing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic_recycle import IMAGE, LANGUAGE, Arm, cost, recycle_records

from paper_repro import iso_quality, stats
from paper_repro.ledger import judge_all, load_ledger, statistics
from paper_repro.plots import recycle, recycle_cells, recycle_costs, save
from paper_repro.plots.save import Plot
from paper_repro.plots.source import Results
from paper_repro.plots.style import SETTINGS, style
from paper_repro.results import Record, Store

PLOTS = list(recycle.PLOTS.values())
TABLES = {"speedup-table", "teacher-table", "step-table", "variant-table", "glue"}
AGAIN = {*TABLES, "speedup-quality", "teachers"}  # drawn a second time from what was written
TIMED = {"steps", "step-table"}
TAUGHT = {"teachers", "teacher-table"}
IMAGES, TEXT = (IMAGE.dataset, IMAGE.model), (LANGUAGE.dataset, LANGUAGE.model)
Shown = dict[str, tuple[pd.DataFrame, Results]]


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """Fewer pixels, and fewer resamples in figures and verdicts alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "savefig.dpi", 60)
        exact = iso_quality.speedup

        def rough(*curves: object, resamples: int = 0, **options: object) -> stats.Interval:
            return exact(*curves, resamples=100, **options)  # type: ignore[arg-type]

        patch.setattr(iso_quality, "speedup", rough)
        patch.setattr(statistics, "iso_speedup", rough)
        recycle_cells._speedup.cache_clear()
        yield
    recycle_cells._speedup.cache_clear()


def stored(records: list[Record], root: Path, tier: str = "cpu") -> Results:
    for record in records:
        Store(root).write(record)
    return Results.open(root, "recycle", tier)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return stored(recycle_records(seeds=3), tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def shown(results: Results) -> Shown:
    """What every figure and table shows, and the records of it."""
    return {plot.id: plot.rows(results) for plot in PLOTS}


def of(shown: Shown, name: str, panel: tuple[str, str] = IMAGES) -> pd.DataFrame:
    data = shown[name][0]
    return data[(data["dataset"] == panel[0]) & (data["model"] == panel[1])]


def known_speedup(world: object, name: str) -> float:
    arm = (IMAGE if world is IMAGE else LANGUAGE).arms[name]
    return arm.saving / cost(IMAGE if world is IMAGE else LANGUAGE, name, arm)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_it_is_written_with_units_ink_and_the_data_that_draw_it_again(plot: Plot, shown: Shown, tmp_path: Path) -> None:
    data, chosen = shown[plot.id]
    with style():
        drawing = plot.draw(data)
        paths = {path.suffix: path for path in save.save(drawing, data, plot, chosen, tmp_path)}
        head, read = save.read(paths[".json"])
        again = save.save(plot.draw(read), read, plot, chosen, tmp_path / "again") if plot.id in AGAIN else []
    assert save.differences(read, data) == []
    assert head["code"] == ["commit 0123456789ab"] and head["keys_sha256"] == chosen.digest
    assert [path.read_bytes() for path in again] == [paths[path.suffix].read_bytes() for path in again]
    assert set(paths) == ({".md", ".json"} if plot.id in TABLES else {".png", ".pdf", ".json"})
    if isinstance(drawing, Figure):
        labels = [axis.get_xlabel() for axis in drawing.axes] + [axis.get_ylabel() for axis in drawing.axes]
        assert all("(" in label and ")" in label for label in labels if label) and any(labels)
        assert 0.02 < (imread(paths[".png"])[..., :3].min(axis=2) < 0.9).mean() < 0.5


# ---------------------------------------------------------------------------------------------------------------------
# What the figures say


def test_points_are_means_over_seeds_and_lower_loss_is_higher_quality(results: Results, shown: Shown) -> None:
    curves = shown["curves"][0].set_index(["dataset", "series", "duration"]).sort_index()
    runs = results.metrics.query("dataset == 'imdb' and method == 'kd@2000'")
    losses = runs[(runs["metric"] == "loss") & (runs["split"] == "test")]["value"]
    point = curves.loc[("imdb", "kd", 2000)]
    assert point[["y", "low", "high"]].tolist() == pytest.approx(stats.mean_interval(losses.to_numpy())[:3], rel=1e-5)
    assert point["x"] == pytest.approx(runs[runs["metric"] == "seconds"]["value"].mean(), rel=1e-5)
    assert set(curves["measure"]["imdb"]) == {"loss"} and set(curves["measure"][IMAGE.dataset]) == {"accuracy"}
    task = next(task for task in recycle_cells.tasks(results) if task.dataset == "imdb")
    best = task.rows.sort_values("quality").iloc[-1]
    assert best["loss"] == task.rows["loss"].min()


@pytest.mark.parametrize("world", [IMAGE, LANGUAGE], ids=lambda world: world.dataset)
def test_speedups_are_those_of_the_world(world: object, shown: Shown) -> None:
    panel = IMAGES if world is IMAGE else TEXT
    band, windows = of(shown, "speedup-quality", panel), of(shown, "speedup-window", panel).set_index("arm")
    names = ["kd", "kd-half", "kd-cached"] if world is IMAGE else ["kd", "kd-50", "kd-35", "kd-big"]
    for name in names:
        line = band[band["arm"] == name]
        assert len(line) == recycle.POINTS
        assert line["y"].mean() == pytest.approx(known_speedup(world, name), rel=0.08)
        if name in windows.index:
            assert windows.loc[name, "y"] == pytest.approx(known_speedup(world, name), rel=0.1)
            assert windows.loc[name, "low"] <= windows.loc[name, "y"]
    assert windows.loc["kd", "x"] == 1 and set(windows["at"]) == {"4 epochs" if world is IMAGE else "1000 steps"}


def test_a_band_spans_the_common_range_and_nothing_beyond(results: Results, shown: Shown) -> None:
    task = next(recycle_cells.tasks(results))
    both = recycle_cells.pair(task, "kd")
    assert both is not None and both.range is not None
    line = of(shown, "speedup-quality").query("arm == 'kd'")
    assert [line["x"].min(), line["x"].max()] == pytest.approx(both.range, rel=1e-5)
    assert both.speedup(both.range[1] + 0.01) is None


def test_speedups_and_differences_are_those_of_the_verdicts(tmp_path: Path) -> None:
    images = [r for r in recycle_records(seeds=3) if r.dataset == IMAGE.dataset]
    results = stored(images, tmp_path)
    verdicts = {v.id.partition("/")[2]: v for v in judge_all(results.metrics, load_ledger("recycle").entries, "cpu")}
    compared = 0
    for name, scale in (("speedup-table", 1), ("variant-table", 100)):
        for row in recycle.PLOTS[name].rows(results)[0].itertuples():
            for text in filter(None, row.verdict.split("; ")):
                claim, _, outcome = text.partition(": ")
                part = next(p for p in verdicts[claim].parts if IMAGE.dataset in p.name)
                assert part.verdict == outcome and row.n == part.n_seeds
                expected = (part.measured or np.nan) * scale
                assert row.ours == pytest.approx(expected, rel=1e-4, abs=1e-4)
                compared += 1
    assert compared >= 8


def test_best_speedups_stand_beside_the_papers(shown: Shown) -> None:
    table = shown["speedup-table"][0]
    best = table[table["row"].str.startswith("best")].set_index("dataset")
    assert best["paper"].to_dict() == {IMAGE.dataset: 1.96, "imdb": 1.42}
    assert "kd-cached" in best.loc[IMAGE.dataset, "row"]
    over_ce = table["dataset"].eq("imdb") & table["quantity"].str.contains("quality of ce")
    others = table[over_ce & ~table["row"].str.startswith("best")]
    assert best.loc["imdb", "ours"] == others["ours"].max()


def test_teachers_come_from_the_poorest_to_the_best_with_their_students(shown: Shown) -> None:
    data = of(shown, "teachers")
    own_quality = data[data["series"] == "teacher"]
    assert own_quality["row"].str.split().str[0].tolist() == ["worst", "same", "deep", "wide", "big"]
    assert own_quality["y"].is_monotonic_increasing
    language = of(shown, "teachers", TEXT)
    assert language[language["series"] == "teacher"]["y"].is_monotonic_decreasing, "of losses the lowest is best"
    students = data[data["series"] == "student"].set_index("arm")
    assert students.loc["kd-worst", "row"].startswith("worst") and students.loc["kd-cached", "row"] == "big, cached"
    assert set(data[data["series"] == "speedup"]["arm"]) == set(students.index) - {"ce"}


def test_an_ensemble_costs_n_passes_and_a_drawn_teacher_one(shown: Shown) -> None:
    steps = shown["steps"][0].query("dataset == 'resnet50|resnet101'").set_index(["series", "x"])
    assert steps.index.get_level_values("x").unique().tolist() == [1, 2, 4]
    assert steps.loc["ensemble"]["predicted"].tolist() == pytest.approx([1.6, 2.2, 3.4])
    assert steps.loc["sampled"]["predicted"].tolist() == pytest.approx([1.6, 1.6, 1.6])
    assert steps.loc[("ensemble", 1), "y"] == steps.loc[("sampled", 1), "y"], "both are one teacher at every step"


def test_overheads_of_runs_are_predicted_from_timings_or_else_from_their_own_clocks(shown: Shown) -> None:
    data = of(shown, "overhead").set_index("series")
    assert data.loc["kd", "parts"] == "timed alone" and data.loc["kd-ensemble", "parts"] == "the runs' own clocks"
    for name in ("kd", "kd-half", "kd-every2", "kd-ensemble", "kd-cached"):
        assert data.loc[name, ["x", "y"]].tolist() == pytest.approx([cost(IMAGE, name, IMAGE.arms[name])] * 2, rel=0.03)
    timed = shown["overhead"][0].query("dataset == 'synthetic'")
    assert (timed["y"] / timed["x"]).to_numpy() == pytest.approx(np.full(len(timed), 1.01), rel=1e-3)


def test_break_even_is_where_the_two_costs_are_equal(shown: Shown) -> None:
    data = of(shown, "break-even").set_index("series")
    half = data.loc["kd-half"]
    with_teacher = half["charged_s"] + half["break_even"] * half["method_s"]
    assert with_teacher == pytest.approx(half["break_even"] * half["baseline_s"], rel=1e-4)
    assert data["charged_s"].to_dict() == pytest.approx(
        {"kd": 300, "kd-half": 300, "kd-big": 300, "kd-cached": 328, "kd-cached/labels": 28}
    )
    assert np.isnan(data.loc["kd-big", "break_even"]), "it is slower, so it never pays"
    assert recycle_costs._count(2.1) == "3" and recycle_costs._count(float("nan")) == "never"


def test_variants_are_paired_with_kd_and_better_is_positive(results: Results, shown: Shown) -> None:
    rows = results.metrics[(results.metrics["metric"] == "loss") & (results.metrics["split"] == "test")]
    rows = rows[rows["dataset"] == "imdb"].set_index(["method", "seed"])["value"]
    expected = stats.mean_interval((rows["kd@1000"] - rows["ce@1000"]).to_numpy())
    ce = of(shown, "variants", TEXT).set_index("row").loc["ce"]
    assert ce[["mean", "low", "high"]].tolist() == pytest.approx(expected[:3], rel=1e-4)
    assert ce["mean"] < 0, "its loss is higher"
    assert "kd" not in set(shown["variants"][0]["row"])


def test_glue_has_the_mean_of_the_tasks_and_its_difference_to_the_baseline(shown: Shown) -> None:
    data = shown["glue"][0].set_index(["quantity", "arm", "dataset"])["y"].sort_index()
    scores = data["score", "kd-big"]
    assert scores["mean"] == pytest.approx(scores.drop("mean").mean())
    assert data["difference", "kd-big", "mean"] == pytest.approx(0.03)
    table = recycle.PLOTS["glue"].draw(shown["glue"][0])
    assert list(table.columns[3:9]) == ["CoLA", "SST-2", "MRPC", "STS-B", "RTE", "mean"]
    assert table["mean minus ce's"].tolist()[0] == "-" and table["arm"].is_unique


# ---------------------------------------------------------------------------------------------------------------------
# What is missing is left out


def test_an_arm_without_a_common_quality_is_left_out_and_named(tmp_path: Path) -> None:
    changed = recycle_records(seeds=2, changes={"kd-quarter": Arm(0.01, 0.25, 1, "same")})
    results = stored([r for r in changed if r.dataset == IMAGE.dataset], tmp_path)
    data, _ = recycle.PLOTS["speedup-window"].rows(results)
    assert data.loc[data["y"].isna(), "arm"].tolist() == ["kd-quarter"]
    with style():
        titles = [axis.get_title() for axis in recycle.PLOTS["speedup-window"].draw(data).axes]
    assert "outside the qualities of both: kd-quarter" in titles[0]


def test_one_seed_has_points_without_intervals(tmp_path: Path) -> None:
    single = stored([r for r in recycle_records(seeds=1) if r.experiment != "timing"], tmp_path)
    for plot in PLOTS:
        data, _ = plot.rows(single)
        assert data.empty == (plot.id in TIMED), plot.id
        if not data.empty:
            plot.draw(data)
        if "low" in data and plot.id != "overhead":
            assert data["low"].isna().all(), plot.id


@pytest.mark.parametrize("world", [IMAGE, LANGUAGE], ids=lambda world: world.dataset)
def test_one_modality_alone_is_drawn(world: object, tmp_path: Path) -> None:
    dataset = IMAGE.dataset if world is IMAGE else LANGUAGE.dataset
    alone = stored([r for r in recycle_records(seeds=2) if r.dataset == dataset], tmp_path)
    for plot in PLOTS:
        data, _ = plot.rows(alone)
        assert data.empty == (plot.id in {*TIMED, "glue"}), plot.id
        if not data.empty:
            plot.draw(data)
            assert set(data["dataset"]) == {dataset}


def test_a_smoke_tier_of_own_data_has_no_claims(tmp_path: Path) -> None:
    """Few arms, two durations, an arm that nobody knows, no teachers' records."""
    kept = {f"{arm}@{duration}" for arm in ("ce", "kd", "kd-sampled") for duration in (1, 2)}
    records = [r for r in recycle_records("smoke", seeds=2) if r.dataset == IMAGE.dataset and r.method in kept]
    records = [
        r.model_copy(update={"dataset": "mine", "method": r.method.replace("kd-sampled", "other")}) for r in records
    ]
    mine = stored(records, tmp_path, "smoke")
    drawn = {plot.id: data for plot in PLOTS if not (data := plot.rows(mine)[0]).empty}
    assert set(drawn) == set(recycle.PLOTS) - TIMED - TAUGHT - {"glue"}
    for name, data in drawn.items():
        recycle.PLOTS[name].draw(data)
    table = drawn["speedup-table"]
    assert set(table["verdict"]) == {""} and "other" in set(table["row"])


def test_only_a_baseline_or_only_timings_break_nothing(tmp_path: Path) -> None:
    baseline = stored([r for r in recycle_records(seeds=2) if r.method.startswith("ce@")], tmp_path / "ce")
    drawn = {plot.id for plot in PLOTS if not plot.rows(baseline)[0].empty}
    assert drawn == {"curves", "glue"}
    timings = stored([r for r in recycle_records(seeds=2) if r.experiment == "timing"], tmp_path / "timing")
    drawn = {plot.id for plot in PLOTS if not plot.rows(timings)[0].empty}
    assert drawn == {"steps", "step-table", "overhead"}
    nothing = Results.open(tmp_path / "nothing", "recycle", "cpu")
    assert all(plot.rows(nothing)[0].empty for plot in PLOTS)


def test_series_are_told_apart_without_colour() -> None:
    arms = {look.label: look for look in recycle_cells.LOOKS.values()}
    for looks in (arms, recycle_costs.KINDS, recycle_costs.BREAK_LOOKS):
        labels = {look.label: look for look in looks.values()}
        assert len({(look.marker, look.line, look.color) for look in labels.values()}) == len(labels)
    together = [recycle_cells.LOOKS[name] for name in recycle_cells.named(recycle_cells.MAIN)]
    assert len({(look.marker, look.line) for look in together}) == len(together)
