"""Figures: what they show is what the records say, what is written is what is shown, and the committed ones are fresh."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic_titans import titans_records, write_titans

from paper_repro import stats
from paper_repro.errors import UserError
from paper_repro.ledger import judge_results
from paper_repro.paths import FIGURES, RESULTS
from paper_repro.plots import own, save, titans
from paper_repro.plots.save import Plot
from paper_repro.plots.source import Results, choose_tier, code_name, tiers_of
from paper_repro.plots.style import style

PLOTS = list(titans.PLOTS.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_titans(folder, "smoke", seeds=3, examples=400)
    write_titans(folder, "cpu", seeds=4, examples=400)
    return folder


@pytest.fixture(scope="module")
def smoke(root: Path) -> Results:
    return Results.open(root, "titans", "smoke")


@pytest.fixture(scope="module")
def cpu(root: Path) -> Results:
    return Results.open(root, "titans", "cpu")


def write(plot: Plot, results: Results, out: Path) -> dict[str, Path]:
    data, shown = plot.rows(results)
    with style():
        return {path.suffix: path for path in save.save(plot.draw(data), data, plot, shown, out)}


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_a_figure_is_written_whole_and_drawn_from_its_json_alone(plot: Plot, smoke: Results, tmp_path: Path) -> None:
    paths = write(plot, smoke, tmp_path / "first")
    assert set(paths) == ({".png", ".pdf", ".json"} if plot.kind == "figure" else {".md", ".json"})
    assert paths[".json"] == tmp_path / "first" / "titans" / f"{plot.id}.json"
    head, data = save.read(paths[".json"])
    assert head["tier"] == "smoke" and head["code"] == ["commit 0123456789ab"] and head["caption"] == plot.caption
    assert {key[:12] for key in plot.rows(smoke)[1].keys} == set(head["keys"])
    with style():
        again = save.save(plot.draw(data), data, plot, plot.rows(smoke)[1], tmp_path / "again")
    for path in again:
        assert path.read_bytes() == paths[path.suffix].read_bytes(), f"{path.suffix} differs when drawn again"


def test_a_pdf_embeds_its_fonts_and_says_where_it_comes_from(smoke: Results, tmp_path: Path) -> None:
    pdf = write(titans.TRAFFIC, smoke, tmp_path)[".pdf"].read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    digest = titans.TRAFFIC.rows(smoke)[1].digest[:12].encode()
    assert b"plots/titans.py" in pdf and digest in pdf and b"0123456789ab" in pdf


@pytest.mark.parametrize("plot", [plot for plot in PLOTS if plot.kind == "figure"], ids=lambda plot: plot.id)
def test_every_axis_has_a_unit_and_every_picture_has_ink(plot: Plot, smoke: Results, tmp_path: Path) -> None:
    with style():
        figure = plot.draw(plot.rows(smoke)[0])
    assert isinstance(figure, Figure) and figure.axes
    for axis in figure.axes:
        labels = [axis.get_xlabel()] + (
            [] if plot.id in ("forest", "calibration", "equal-fraction") else [axis.get_ylabel()]
        )
        assert all("(" in label and ")" in label for label in labels if label or plot.id != "equal-fraction"), labels
    ink = (imread(write(plot, smoke, tmp_path)[".png"])[..., :3].min(axis=2) < 0.9).mean()
    assert 0.02 < ink < 0.5, f"{ink:.1%} of the pixels are not white"


@pytest.mark.parametrize("looks", [titans.LOOKS, titans.RULES, titans.COST_LOOKS, titans.TIMED])
def test_series_are_told_apart_without_colour(looks: dict) -> None:
    assert len({(look.marker, look.line) for look in looks.values()}) == len(looks)


def test_curves_are_means_over_seeds_with_t_intervals(smoke: Results) -> None:
    data, _ = titans.FIGURE7.rows(smoke)
    row = data[
        (data["part"] == "overall") & (data["series"] == "md") & (data["dataset"] == "digits") & (data["x"] == 0.75)
    ]
    records = [r for r in titans_records("smoke", 3, 400) if (r.dataset, r.method) == ("digits", "md")]
    expected = stats.t_interval([r.samples["curve/margin"][15] for r in records])
    assert row[["y", "low", "high"]].iloc[0].tolist() == pytest.approx(expected[:3], rel=1e-5)
    assert row["n"].iloc[0] == 3


def test_differences_are_paired_by_seed_and_start_at_zero(cpu: Results) -> None:
    data, _ = titans.EQUAL_FRACTION.rows(cpu)
    assert "kd" not in set(data["series"])
    assert (data.loc[data["x"] == 0, ["y", "low", "high"]] == 0).all().all()


def test_the_forest_shows_what_the_verdicts_say(root: Path, cpu: Results) -> None:
    data, _ = titans.FOREST.rows(cpu)
    parts = {
        (verdict.id.partition("/")[2], part.name): part
        for verdict in judge_results(root, "titans", "cpu")
        for part in verdict.parts
    }
    compared = 0
    for row in data.itertuples():
        part = parts[row.entry, f"{row.dataset}, {row.model}"]
        assert (row.mean, row.low, row.high) == pytest.approx(
            (part.measured, part.ci_low, part.ci_high), rel=1e-4, abs=1e-9
        )
        assert row.n == part.n_seeds and row.smallest_effect == part.tolerance
        compared += 1
    assert compared == 9 * 4


def test_table_4_has_the_papers_rows_and_its_means(smoke: Results) -> None:
    data, _ = titans.TABLE4.rows(smoke)
    table = titans.TABLE4.draw(data)
    assert table["method"].unique().tolist() == [titans.LOOKS[name].label for name in titans.FIGURE3.methods or ()]
    first = smoke.metrics.query("dataset == 'digits' and method == 'kd' and metric == 'class_rule/accuracy'")[
        "value"
    ].mean()
    assert table["cascade (%)"].iloc[0].startswith(f"{100 * first:.1f} ± ")
    assert save.markdown(table).count("\n") == len(table) + 1


def test_one_seed_has_no_interval_and_can_be_drawn(tmp_path: Path) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=1, examples=200)
    single = Results.open(tmp_path / "results", "titans", "smoke")
    for plot in PLOTS:
        write(plot, single, tmp_path / "figures")
    _, data = save.read(tmp_path / "figures" / "titans" / "figure7.json")
    assert data["low"].isna().all() and data["y"].notna().all()


def test_nothing_recorded_is_nothing_drawn(smoke: Results, tmp_path: Path) -> None:
    students = Results.open(tmp_path, "titans", "cpu")
    assert all(plot.rows(students)[0].empty for plot in PLOTS)
    assert titans.LATENCY.rows(smoke.of_dataset("digits"))[0].empty


def test_own_data_is_drawn_alone(root: Path, tmp_path: Path) -> None:
    write_titans(tmp_path, "smoke", seeds=2, examples=200)
    paths = own.draw(tmp_path, "titans", "smoke", "digits")
    assert {path.parent for path in paths} == {tmp_path / "figures" / "digits" / "titans"}
    assert {path.stem for path in paths} == set(titans.PLOTS) - {"latency"}
    _, data = save.read(tmp_path / "figures" / "digits" / "titans" / "cost.json")
    assert set(data["dataset"]) == {"digits"}
    assert len(Results.open(tmp_path, "titans", "smoke").keys) > 0, "figures among the records must not be read as such"


def test_the_tier_falls_back_and_says_so(root: Path, tmp_path: Path) -> None:
    assert tiers_of(root, "titans") == ["cpu", "smoke"]
    assert choose_tier(root, "titans", "smoke") == ("smoke", "Drawn from the records of titans at tier 'smoke'.")
    tier, sentence = choose_tier(root, "titans", "gpu")
    assert tier == "cpu" and "at tier 'gpu'" in sentence and "tier 'cpu' instead" in sentence
    assert "There are no records of titans here" in choose_tier(tmp_path, "titans", "cpu")[1]


def test_code_is_named_by_its_commit_and_by_its_source_where_that_differs() -> None:
    code = {"commit": "c" * 40, "dirty": False, "source_sha256": "5" * 64}
    assert code_name(code) == f"commit {'c' * 12}"
    assert code_name({**code, "dirty": True}) == f"commit {'c' * 12} with changes (source {'5' * 12})"
    assert code_name({**code, "commit": None}) == f"source {'5' * 12}"


def test_the_comparison_of_figure_data_notices_what_matters_and_only_that() -> None:
    old = pd.DataFrame({"series": ["md", "kd"], "y": [0.8, np.nan]})
    assert save.differences(old.assign(y=[0.80005, np.nan]), old) == []
    assert save.differences(old.assign(y=[0.802, np.nan]), old) == ["row 0, y: 0.8 became 0.802"]
    assert save.differences(old.assign(y=[0.8, 0.5]), old) == ["row 1, y: nan became 0.5"]
    assert save.differences(old.assign(series=["md", "ce"]), old) == ["row 1, series: kd became ce"]
    assert "rows" in save.differences(old.head(1), old)[0] and "columns" in save.differences(old[["y"]], old)[0]


def test_a_damaged_figure_json_is_one_sentence(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"rows": []})):
        (tmp_path / "figure.json").write_text(text)
        with pytest.raises(UserError, match="is not the data of a figure; draw it again"):
            save.read(tmp_path / "figure.json")


def test_drawing_and_judging_never_import_torch() -> None:
    code = (
        "import sys\n"
        "import paper_repro.plots.titans, paper_repro.plots.session, paper_repro.plots.own, paper_repro.plots.notebooks\n"
        "import paper_repro.report\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


COMMITTED = sorted(FIGURES.glob("*/*.json"))


@pytest.mark.skipif(not COMMITTED, reason="no reference figures are committed yet")
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_committed_figure_shows_the_committed_results(path: Path) -> None:
    """Its data, recomputed, agrees within ``ATOL + RTOL |committed|`` (see ``save``)."""
    head, committed = save.read(path)
    plot = own.plots(path.parent.name)[path.stem]
    data, shown = plot.rows(Results.open(RESULTS, path.parent.name, head["tier"]))
    assert shown.digest == head["keys_sha256"], "drawn from other records: run 'nox -s notebooks'"
    assert save.differences(data, committed) == []


@pytest.mark.skipif(not tiers_of(RESULTS, "titans"), reason="no reference results are committed yet")
def test_the_committed_figures_are_complete() -> None:
    tier = choose_tier(RESULTS, "titans", "cpu")[0]
    results = Results.open(RESULTS, "titans", tier)
    expected = {plot.id for plot in PLOTS if not plot.rows(results)[0].empty}
    assert {path.stem for path in COMMITTED if path.parent.name == "titans"} == expected
