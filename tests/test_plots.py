"""Figures: they show what the records say, what is written is what is shown, and the committed ones are fresh."""

import json
import subprocess
import sys
from collections.abc import Iterator
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
from paper_repro.plots.style import SETTINGS, style
from paper_repro.results import Store

PLOTS = list(titans.PLOTS.values())


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Fewer pixels: what is tested here does not need them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "savefig.dpi", 60)
        yield


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


@pytest.fixture(scope="module")
def written(smoke: Results, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Every figure and table of the smoke tier on disk, by id and suffix."""
    out = tmp_path_factory.mktemp("figures")
    return {plot.id: write(plot, smoke, out) for plot in PLOTS}


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_what_is_written_is_what_is_shown(plot: Plot, smoke: Results, written: dict[str, dict[str, Path]]) -> None:
    paths, (data, shown) = written[plot.id], plot.rows(smoke)
    assert set(paths) == ({".png", ".pdf", ".json"} if plot.kind == "figure" else {".md", ".json"})
    assert paths[".json"].parts[-2:] == ("titans", f"{plot.id}.json")
    head, read = save.read(paths[".json"])
    assert save.differences(read, data) == [] and list(read["dataset"]) == list(data["dataset"])
    assert head["tier"] == "smoke" and head["code"] == ["commit 0123456789ab"] and head["caption"] == plot.caption
    assert head["keys_sha256"] == shown.digest and {key[:12] for key in shown.keys} == set(head["keys"])


@pytest.mark.parametrize("name", ["figure3", "forest", "table4"])
def test_drawing_its_json_again_gives_the_same_bytes(
    name: str, smoke: Results, written: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    plot = titans.PLOTS[name]
    _, data = save.read(written[name][".json"])
    with style():
        again = save.save(plot.draw(data), data, plot, plot.rows(smoke)[1], tmp_path)
    for path in again:
        assert path.read_bytes() == written[name][path.suffix].read_bytes(), path.suffix


def test_a_pdf_embeds_its_fonts_and_says_where_it_comes_from(
    smoke: Results, written: dict[str, dict[str, Path]]
) -> None:
    pdf = written["traffic"][".pdf"].read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    digest = titans.TRAFFIC.rows(smoke)[1].digest[:12].encode()
    assert b"plots/titans.py" in pdf and digest in pdf and b"0123456789ab" in pdf


@pytest.mark.parametrize("plot", [plot for plot in PLOTS if plot.kind == "figure"], ids=lambda plot: plot.id)
def test_every_axis_has_a_unit_and_every_picture_has_ink(
    plot: Plot, smoke: Results, written: dict[str, dict[str, Path]]
) -> None:
    with style():
        figure = plot.draw(plot.rows(smoke)[0])
    assert isinstance(figure, Figure) and figure.axes
    labels = [axis.get_xlabel() for axis in figure.axes] + [axis.get_ylabel() for axis in figure.axes]
    names_only = {"", "md minus ..."}  # an inner axis of a grid, or one that lists methods
    assert all("(" in label and ")" in label for label in labels if label not in names_only), labels
    assert any("(" in label for label in labels)
    ink = (imread(written[plot.id][".png"])[..., :3].min(axis=2) < 0.9).mean()
    assert 0.02 < ink < 0.5, f"{ink:.1%} of the pixels are not white"


def test_series_of_a_figure_are_told_apart_without_colour() -> None:
    shown = [{name: titans.LOOKS[name] for name in plot.methods or () if name in titans.LOOKS} for plot in PLOTS]
    for looks in [*shown, titans.RULES, titans.COST_LOOKS, titans.TIMED]:
        assert len({(look.marker, look.line) for look in looks.values()}) == len(looks)


def test_curves_are_means_over_seeds_with_t_intervals(smoke: Results) -> None:
    data, _ = titans.FIGURE7.rows(smoke)
    chosen = data.query("part == 'overall' and series == 'md' and dataset == 'digits' and x == 0.75")
    records = [r for r in titans_records("smoke", 3, 400) if (r.dataset, r.method) == ("digits", "md")]
    expected = stats.t_interval([r.samples["curve/margin"][15] for r in records])
    assert chosen.iloc[0][["y", "low", "high"]].tolist() == pytest.approx(expected[:3], rel=1e-5)
    assert len(chosen) == 1 and chosen.iloc[0]["n"] == 3


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
    rows = smoke.metrics.query("dataset == 'digits' and method == 'kd' and metric == 'class_rule/accuracy'")
    first = rows["value"].mean()
    assert table["cascade (%)"].iloc[0].startswith(f"{100 * first:.1f} ± ")
    assert save.markdown(table).count("\n") == len(table) + 1


def test_one_seed_has_no_interval_and_a_weak_teacher_no_easy_examples(tmp_path: Path) -> None:
    for record in titans_records("smoke", seeds=1, examples=200):
        metrics = [metric for metric in record.metrics if not metric.name.startswith(("cost/", "auc_in_domain"))]
        samples = {name: values for name, values in record.samples.items() if not name.startswith("curve_in_domain")}
        Store(tmp_path).write(record.model_copy(update={"metrics": metrics, "samples": samples}))
    single = Results.open(tmp_path, "titans", "smoke")
    for plot in PLOTS:
        data, _ = plot.rows(single)
        assert data.empty == (plot.id == "traffic")
        if not data.empty:
            plot.draw(data)
            assert plot.id in ("calibration", "latency") or data["low"].isna().all()


def test_nothing_recorded_is_nothing_drawn(smoke: Results, tmp_path: Path) -> None:
    students = Results.open(tmp_path, "titans", "cpu")
    assert all(plot.rows(students)[0].empty for plot in PLOTS)
    assert titans.LATENCY.rows(smoke.of_keys(set()))[0].empty


def test_own_data_is_drawn_alone(root: Path, tmp_path: Path) -> None:
    write_titans(tmp_path, "smoke", seeds=2, examples=200)
    students = Results.open(tmp_path, "titans", "smoke").metrics
    keys = set(students[(students["dataset"] == "digits") & (students["seed"] == 0)]["key"])
    paths = own.draw(tmp_path, "titans", "smoke", "digits", keys)
    assert {path.parent for path in paths} == {tmp_path / "figures" / "digits" / "titans"}
    assert {path.stem for path in paths} == set(titans.PLOTS) - {"latency"}
    _, data = save.read(tmp_path / "figures" / "digits" / "titans" / "cost.json")
    assert set(data["dataset"]) == {"digits"} and set(data["n"]) == {1}
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
        "import paper_repro.plots.titans, paper_repro.plots.sparse, paper_repro.plots.recycle, paper_repro.plots.own\n"
        "import paper_repro.plots.majority, paper_repro.plots.majority_explanation, paper_repro.plots.combined\n"
        "import paper_repro.plots.session, paper_repro.plots.notebooks\n"
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


@pytest.mark.parametrize("paper", ["titans", "sparse", "recycle", "majority", "combined"])
def test_the_committed_figures_are_complete(paper: str) -> None:
    if not tiers_of(RESULTS, paper):
        pytest.skip("no reference results are committed yet")
    tier = choose_tier(RESULTS, paper, "cpu")[0]
    results = Results.open(RESULTS, paper, tier)
    expected = {plot.id for plot in own.plots(paper).values() if not plot.rows(results)[0].empty}
    assert {path.stem for path in COMMITTED if path.parent.name == paper} == expected
