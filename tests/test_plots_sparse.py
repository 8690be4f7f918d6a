"""Sparse Distillation's figures and tables: they show what records and ledger say, and skip what was not recorded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic_sparse import sparse_records, write_sparse

from paper_repro import stats
from paper_repro.ledger import judge_all
from paper_repro.plots import own, save, sparse, sparse_cells, sparse_tables
from paper_repro.plots.save import Plot
from paper_repro.plots.source import Results
from paper_repro.plots.style import SETTINGS, counts, short, style
from paper_repro.results import Record, Store

PLOTS = list(sparse.PLOTS.values())
TIMED = {"figure1", "speed", "table3", "table9", "look-ups", "step"}
LEDGER = sparse_cells.ledger()


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "savefig.dpi", 60)
        yield


def stored(records: list[Record], root: Path, tier: str = "cpu") -> Results:
    for record in records:
        Store(root).write(record)
    return Results.open(root, "sparse", tier)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return stored(sparse_records(seeds=3), tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def shown(results: Results) -> dict[str, tuple[pd.DataFrame, Results]]:
    """What every figure and table shows, and the records of it."""
    return {plot.id: plot.rows(results) for plot in PLOTS}


def of(shown: dict[str, tuple[pd.DataFrame, Results]], name: str) -> pd.DataFrame:
    return shown[name][0]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_it_is_written_with_units_ink_and_the_data_that_draw_it_again(
    plot: Plot, shown: dict[str, tuple[pd.DataFrame, Results]], tmp_path: Path
) -> None:
    data, chosen = shown[plot.id]
    with style():
        drawing = plot.draw(data)
        paths = {path.suffix: path for path in save.save(drawing, data, plot, chosen, tmp_path)}
    head, read = save.read(paths[".json"])
    assert save.differences(read, data) == [] and set(read["dataset"]) <= {*sparse_cells.TASKS, "synthetic"}
    assert head["code"] == ["commit 0123456789ab"] and head["keys_sha256"] == chosen.digest
    if not isinstance(drawing, Figure):
        both = (read["paper"].notna() & read["ours"].notna()).any()
        assert set(paths) == {".md", ".json"} and both == (plot.id not in ("table8", "look-ups"))
        again = save.save(plot.draw(read), read, plot, chosen, tmp_path / "again")
        assert again[1].read_text() == paths[".md"].read_text()
        return
    labels = [axis.get_xlabel() for axis in drawing.axes] + [axis.get_ylabel() for axis in drawing.axes]
    assert all("(" in label and ")" in label for label in labels if label) and any(labels)
    assert 0.02 < (imread(paths[".png"])[..., :3].min(axis=2) < 0.9).mean() < 0.5


@pytest.mark.parametrize("name", ["figure1", "main-table", "figure4", "ngrams", "variants"])
def test_the_written_data_alone_give_the_same_picture(
    name: str, shown: dict[str, tuple[pd.DataFrame, Results]], tmp_path: Path
) -> None:
    plot, (data, chosen) = sparse.PLOTS[name], shown[name]
    with style():
        first = save.save(plot.draw(data), data, plot, chosen, tmp_path / "first")
        _, read = save.read(next(path for path in first if path.suffix == ".json"))
        again = save.save(plot.draw(read), read, plot, chosen, tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


# ---------------------------------------------------------------------------------------------------------------------
# The paper's numbers and ours


def test_points_of_the_paper_are_those_of_table_12(shown: dict[str, tuple[pd.DataFrame, Results]]) -> None:
    data = of(shown, "figure1")
    papers = data[data["series"].str.startswith("paper/")]
    cells = LEDGER.tables["T12"].cells()
    assert set(papers["competitor"]) == set(LEDGER.tables["T12"].rows) and set(papers["dataset"]) == {"imdb", "sst2"}
    for row in papers.itertuples():
        assert row.y == pytest.approx(cells[row.dataset, row.competitor] / 100)
        assert row.x == pytest.approx(cells[f"{row.dataset}-cpu-fp32", row.competitor])


def test_our_points_pair_the_accuracy_of_a_student_with_its_end_to_end_speed(
    results: Results, shown: dict[str, tuple[pd.DataFrame, Results]]
) -> None:
    data = of(shown, "figure1").set_index(["dataset", "series"])
    (point,) = (row for _, row in data.loc[[("sst2", "dan-int8")]].iterrows())
    rows = results.metrics.query("dataset == 'sst2' and model == 'dan' and method == 'kd+ft'")
    assert point["y"] == pytest.approx(rows.loc[rows["metric"] == "accuracy/int8", "value"].mean(), rel=1e-5)
    timed = results.samples.query("dataset == 'sst2' and name == 'dan-int8/end_to_end'")["value"]
    assert point["x"] == pytest.approx(1 / np.median(timed), rel=1e-5)
    assert point["x_low"] < point["x"] < point["x_high"] and point["machine"] == "Example CPU, 2 cores, 2 threads"
    ours = {series for _, series in data.index if not series.startswith("paper/")}
    assert ours == {name for name in sparse_cells.POINTS if not name.startswith("paper/")}
    assert pd.isna(data.loc[("imdb", "minilm-int8"), "low"]), "one teacher has no interval"


def test_the_main_table_has_the_means_intervals_and_the_papers_numbers(
    results: Results, shown: dict[str, tuple[pd.DataFrame, Results]]
) -> None:
    data = of(shown, "main-table")
    ours = data[data["series"] != "paper"].set_index(["dataset", "row"])
    values = results.metrics.query("dataset == 'trec' and model == 'dan' and method == 'kd' and metric == 'accuracy'")
    expected = stats.mean_interval(values.loc[values["split"] == "test", "value"].to_numpy())
    assert ours.loc[("trec", "KD"), ["y", "low", "high", "n"]].tolist() == pytest.approx([*expected], rel=1e-5)
    assert ours.loc[("imdb", "teacher"), "y"] == pytest.approx(0.92) and pd.isna(ours.loc[("imdb", "teacher"), "low"])
    papers = data[data["series"] == "paper"].set_index(["dataset", "row"])["y"]
    assert papers["sst2", "KD + fine-tuning"] == pytest.approx(0.885) and len(papers) == 3 * 5


def test_the_best_linear_baseline_is_chosen_on_validation_data(tmp_path: Path) -> None:
    def swapped(record: Record) -> Record:
        if (record.dataset, record.model) != ("imdb", "nbsvm"):
            return record
        metrics = [m.model_copy(update={"value": 0.5}) if m.split == "validation" else m for m in record.metrics]
        return record.model_copy(update={"metrics": metrics})

    data, _ = sparse.MAIN_TABLE.rows(stored([swapped(record) for record in sparse_records(seeds=1)], tmp_path))
    best = data[data["best_linear"].astype(bool)].set_index("dataset")["row"].to_dict()
    assert best == {"imdb": "TF-IDF + LR", "sst2": "NBSVM", "trec": "NBSVM"}


def test_other_numbers_of_the_paper_stand_where_the_ledger_has_them(
    shown: dict[str, tuple[pd.DataFrame, Results]],
) -> None:
    def papers(name: str, *at: str) -> dict[tuple[object, ...], float]:
        rows = of(shown, name)
        rows = rows[rows["series"] == "paper"]
        return {tuple(row): value for row, value in zip(rows[list(at)].to_numpy(), rows["y"], strict=True)}

    ten = LEDGER.tables["T10"].cells()
    assert papers("ngrams", "x") == pytest.approx({(n,): ten["imdb", f"n{n}"] / 100 for n in (1, 2, 3, 4)})
    assert papers("domains", "dataset", "row")["sst2", "... fine-tuned, new head"] == pytest.approx(0.867)
    assert len(papers("domains", "dataset", "row")) == 12
    assert papers("speed", "dataset", "competitor")["imdb", "dan"] == pytest.approx(922.6)
    assert papers("figure5", "dataset", "x") == {("imdb", 0.03): pytest.approx(0.9)}
    grid = of(shown, "figure4").query('model == "the paper\'s"')
    assert len(grid) == 19 and grid.query("x == 2e6 and dimension == 900")["series"].tolist() == ["2b"]
    ours = of(shown, "figure4").query("model == 'ours'")
    assert {name: len(rows) for name, rows in ours.groupby("series")} == {"10m": 3, "30m": 3, "100m": 1}


def test_pruning_and_amount_end_at_the_student_itself(shown: dict[str, tuple[pd.DataFrame, Results]]) -> None:
    main = of(shown, "main-table").query("series != 'paper'").set_index(["dataset", "row"])["y"]
    for name, row in (("figure5", "KD + fine-tuning"), ("amount", "KD"), ("ngrams", "KD + fine-tuning")):
        data = of(shown, name)
        last = data[(data["series"] == data["series"].iloc[0]) & (data["x"] == data["x"].max())]
        assert set(last["dataset"]) == set(sparse_cells.TASKS)
        for point in last.itertuples():
            assert point.y == pytest.approx(main[point.dataset, row], rel=1e-5)


def test_differences_are_those_of_the_verdicts(
    results: Results, shown: dict[str, tuple[pd.DataFrame, Results]]
) -> None:
    parts = {}
    for verdict in judge_all(results.metrics, [LEDGER.entry(name) for name in ("6", "7", "B6", "B4-int8")], "cpu"):
        check = LEDGER.entry(verdict.id).checks["cpu"]
        for part, judged in zip(check.parts, verdict.parts, strict=True):
            parts[verdict.id, part.dataset, part.label or part.model] = judged
    variants = of(shown, "variants").set_index("row")
    flipped = parts["sparse/6", "imdb", "mean over max"]  # the claim is mean minus max
    assert variants.loc["max pooling", ["mean", "low", "high"]].tolist() == pytest.approx(
        [-flipped.measured, -flipped.ci_high, -flipped.ci_low], rel=1e-3, abs=1e-6
    )
    deep = parts["sparse/7", "imdb", "dan-deep"]
    row = variants.loc["one more hidden layer (256)"]
    assert (row["mean"], row["low"], row["n"]) == pytest.approx((deep.measured, deep.ci_low, deep.n_seeds), rel=1e-3)
    assert row["smallest_effect"] == LEDGER.entry("7").checks["cpu"].tolerance
    assert row["paper"] == pytest.approx(-0.001) and pd.isna(variants.loc["hashed n-grams", "paper"])
    stored_int8 = of(shown, "precision").set_index(["dataset", "row"]).loc[("trec", "int8")]
    assert stored_int8["mean"] == pytest.approx(parts["sparse/B4-int8", "trec", "dan"].measured, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Tables side by side


def test_tables_have_paper_ours_interval_and_verdict(shown: dict[str, tuple[pd.DataFrame, Results]]) -> None:
    table = sparse.TABLE2.draw(of(shown, "table2"))
    row = table[(table["data"] == "SST-2") & (table[""] == "KD")].iloc[0]
    assert row["paper"] == "86.4" and row["verdict"] == "1-kd: reproduced; N2: reproduced" and row["n"] == "3"
    low, high = map(float, row["interval (95 %)"].split(" to "))
    assert low < float(row["ours"]) < high
    assert table.loc[table[""] == "teacher", "interval (95 %)"].unique().tolist() == ["-"]
    three = of(shown, "table3").set_index(["dataset", "row", "quantity"])
    multiple = three.loc[("imdb", "DAN as published over RoBERTa-Large", "model only, cpu")]
    assert multiple["paper"] == 663 and multiple["verdict"] == "speed-cpu-model: reproduced"
    assert multiple["ours"] == pytest.approx(0.7 / 1.9e-4, rel=0.02)
    derived = three.loc[("imdb", "DAN as published over RoBERTa-Large", "end to end, cpu"), "paper"]
    assert derived == 410, "derived, in the ledger"
    lstm = three.loc[("imdb", "DAN as published over LSTM", "model only, cpu"), "paper"]
    assert lstm == pytest.approx(922.6 / 30.6, rel=1e-5)
    eight = of(shown, "table8")
    assert len(eight) == 7 + 19 and not (eight["paper"].notna() & eight["ours"].notna()).any()
    ten = of(shown, "table10").set_index(["row", "quantity"])
    assert ten.loc[("n <= 1", "accuracy, longer ones disabled"), "paper"] == 74.86
    assert ten.loc[("n <= 2", "left"), ["paper", "n"]].tolist() == [446793, 1]
    assert ten.loc[("n <= 1", "accuracy, trained with these (KD)"), "verdict"] == "B13: reproduced"
    nine = of(shown, "table9").set_index(["dataset", "row"])
    ours = nine.loc[("imdb", "n-grams, scikit-learn, one core"), ["paper", "ours"]].tolist()
    assert ours == pytest.approx([16.45, 35], rel=0.02)
    read = of(shown, "look-ups").set_index(["dataset", "row", "quantity"])
    of_a_look_up = read.loc[("imdb", "DAN, cpu", "time per look-up"), ["ours", "low", "high", "n"]]
    assert of_a_look_up.tolist() == [180, 175, 185, 7]
    assert read.loc[("imdb", "DAN, cpu", "size of the table"), ["ours", "n"]].tolist() == [4, 1]
    assert read.loc[("imdb", "DAN, cpu", "... of what memory gives in order"), "ours"] == 90


def test_a_refuted_claim_is_refuted_in_its_table(tmp_path: Path) -> None:
    changes = {("imdb", "dan-sum", "kd"): {"accuracy": 0.91}, ("sst2", "dan", "from-imdb"): {"accuracy": 0.78}}
    changed = stored(sparse_records(seeds=3, changes=changes), tmp_path)
    five = sparse.TABLE5.rows(changed)[0].set_index("row")["verdict"]
    assert five["sum pooling"] == "6: not reproduced" and five["max pooling"] == "6: reproduced"
    six = sparse.TABLE6.rows(changed)[0].set_index("row")["verdict"]
    assert six["IMDB to SST-2: KD from it, unlabelled text only"] == "13: not reproduced"
    assert six["SST-2 to IMDB: KD from it, unlabelled text only"] == "13: reproduced"


def named() -> Iterator[str]:
    for step in (*sparse_cells.STUDENTS.values(), *sparse_cells.DOMAINS.values(), *sparse_tables.RATIOS):
        yield from step.claims
    for claims in (sparse_tables.GRID_CLAIMS, sparse_tables.STEPS, sparse_tables.TRAINED):
        for several in claims.values():
            yield from several
    yield from (difference.claim for difference in (*sparse_cells.VARIANTS.values(), *sparse_cells.STORED.values()))


@pytest.mark.parametrize("claim", sorted(set(named())))
def test_every_claim_that_a_table_names_is_in_the_ledger(claim: str) -> None:
    """By its entry and, after a blank, the label or the model of one of its parts."""
    name, _, label = claim.partition(" ")
    parts = [part for check in LEDGER.entry(name).checks.values() for part in check.parts]
    assert parts and (not label or label in {text for part in parts for text in (part.label, part.model)})


def test_every_row_of_the_paper_that_is_named_is_in_its_table() -> None:
    rows = {name: set(table.rows) for name, table in LEDGER.tables.items()}
    assert {student.quoted for student in sparse_cells.STUDENTS.values()} - {""} <= rows["T2"]
    assert {step.quoted for step in sparse_cells.DOMAINS.values()} == rows["T6"]
    assert {row for variant in sparse_cells.VARIANTS.values() for row in variant.quoted or ()} <= rows["T5"]
    assert {row for point in sparse_cells.POINTS.values() for row in point.quoted} == rows["T12"]
    assert set(sparse_cells.QUOTED_AS.values()) <= rows["T12"]
    assert {row for row, _, _ in sparse_tables.TOKENISERS.values()} - {""} == rows["T9"]
    assert {row for row, _ in sparse_tables.OVERLAPS.values()} <= rows["T13"]


# ---------------------------------------------------------------------------------------------------------------------
# What is missing is left out


def test_without_timings_only_what_needs_them_is_missing(tmp_path: Path) -> None:
    students = stored([r for r in sparse_records(seeds=1) if r.experiment == "student"], tmp_path)
    for plot in PLOTS:
        data, _ = plot.rows(students)
        assert data.empty == (plot.id in TIMED), plot.id
        if not data.empty:
            plot.draw(data)
            low = data.loc[data["series"] != "paper", "low"] if "series" in data else data["low"]
            assert low.isna().all(), "one seed has no interval"


def test_own_data_have_no_numbers_of_the_paper(tmp_path: Path) -> None:
    """As in the smoke tier: the main student alone, on a data set that the paper does not have."""
    records = [r for r in sparse_records(seeds=2) if (r.dataset, r.model) in (("sst2", "dan"), ("sst2", "table-12"))]
    records = [r.model_copy(update={"dataset": "docstrings"}) for r in records if not r.method.startswith("from-")]
    for record in records:
        Store(tmp_path).write(record)
    paths = own.draw(tmp_path, "sparse", "cpu", "docstrings", {record.key for record in records})
    drawn = {path.stem for path in paths}
    assert drawn == set(sparse.PLOTS) - {
        "figure4", "table5", "table6", "table8", "table10", "domains", "variants", "step"
    }  # fmt: skip
    for path in paths:
        if path.suffix == ".json":
            _, data = save.read(path)
            assert set(data["dataset"]) == {"docstrings"}
            assert "series" not in data or not data["series"].str.startswith("paper").any()
            assert "paper" not in data or data["paper"].isna().all()


def test_a_gpu_is_compared_with_the_papers_gpu(tmp_path: Path) -> None:
    records = [r for r in sparse_records("gpu", seeds=1) if r.experiment == "timing" or r.method == "kd+ft"]
    gpu = [{"cpu": "Example CPU", "cores": 16, "gpus": ["Example GPU"]}]
    records = [
        r.model_copy(update={"environment": gpu, "protocol": {"threads": 1, "device": r.method}}) for r in records
    ]
    results = stored(records, tmp_path, "gpu")
    speed, _ = sparse.SPEED.rows(results)
    papers = speed[speed["series"] == "paper"].set_index(["dataset", "competitor"])["y"]
    assert papers["imdb", "dan"] == 17557.9 and papers["trec", "dan"] == 2236, "tables 12 and 3"
    assert set(speed["machine"].dropna()) == {"Example GPU, Example CPU, 16 cores, 1 thread"}
    three = sparse.TABLE3.rows(results)[0].set_index(["dataset", "row", "quantity"])
    assert three.loc[("trec", "DAN as published over RoBERTa-Large", "model only, cuda"), "paper"] == 4
    assert three.loc[("imdb", "DAN as published over RoBERTa-Large", "end to end, cuda"), "paper"] == 50
    assert set(sparse.FIGURE1.rows(results)[0]["model"]) == {"cuda"}


def test_nothing_recorded_is_nothing_drawn(tmp_path: Path) -> None:
    nothing = Results.open(tmp_path, "sparse", "cpu")
    assert all(plot.rows(nothing)[0].empty for plot in PLOTS)
    write_sparse(tmp_path, seeds=1)
    assert len(Results.open(tmp_path, "sparse", "cpu").keys) > 0


def test_series_are_told_apart_without_colour() -> None:
    looks = [sparse.POINT_LOOKS, sparse.GROUPS, sparse.BUDGETS, sparse.METHODS, sparse.SPEEDS, sparse.FOREST]
    for group in looks:
        assert len({(look.marker, look.line, look.hollow) for look in group.values()}) == len(group)


def test_counts_are_short() -> None:
    assert [short(n) for n in (1, 500, 1e4, 333_000, 2e6, 1e9, 0.5)] == ["1", "500", "10k", "333k", "2m", "1b", "0.5"]
    axis = Figure().subplots()
    axis.set_xscale("log")
    axis.set_xlim(1, 1e5)
    counts(axis.xaxis)
    assert [axis.xaxis.get_major_formatter()(tick) for tick in (1, 10, 1e3)] == ["1", "10", "1k"]
