"""Majority Kernels' figures, tables and explanation: they show what records and ledger say, and leave out the rest."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic_majority import FEW, FLOPS, GAIN, LOSS, MANY, SLOPE, majority_records

from paper_repro import stats
from paper_repro.ledger import PartVerdict, Verdict, judge_all, load_ledger
from paper_repro.plots import majority, majority_cells, majority_costs, save
from paper_repro.plots.majority_explanation import explanation
from paper_repro.plots.save import Plot
from paper_repro.plots.source import Results, code_name
from paper_repro.plots.style import SETTINGS, style
from paper_repro.results import Metric, Record, samples_to_frame, to_frame

PLOTS = list(majority.PLOTS.values())
TABLES = {"accuracy-table", "rates-table", "step-table"}
AGAIN = {*TABLES, "overhead"}  # drawn a second time from what was written
TIMED = {"overhead", "step-table"}
DIGITS, RESNET = ("digits", "mlp"), ("cifar10-jpeg", "resnet8-w8")
Shown = dict[str, tuple[pd.DataFrame, Results]]


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """Fewer pixels, and fewer resamples in figures and verdicts alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "savefig.dpi", 60)
        exact = stats.mean_interval
        patch.setattr(stats, "mean_interval", lambda values, level=0.95: exact(values, level, resamples=100))
        yield


def results_of(records: list[Record], tier: str = "cpu") -> Results:
    """What ``Results.open`` reads, without a folder."""
    code = {record.key: code_name(record.code) for record in records}
    return Results("majority", tier, to_frame(records), samples_to_frame(records), code, {})


def of_panels(records: list[Record], *panels: tuple[str, str]) -> list[Record]:
    return [record for record in records if (record.dataset, record.model) in panels]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found = majority_records(seeds=3)
    timings = [record for record in found if record.experiment == "timing"]
    return of_panels(found, DIGITS, RESNET) + timings


@pytest.fixture(scope="module")
def results(records: list[Record]) -> Results:
    return results_of(records)


@pytest.fixture(scope="module")
def shown(results: Results) -> Shown:
    """What every figure and table shows, and the records of it."""
    return {plot.id: plot.rows(results) for plot in PLOTS}


def of(shown: Shown, name: str, panel: tuple[str, str] = DIGITS) -> pd.DataFrame:
    data = shown[name][0]
    return data[(data["dataset"] == panel[0]) & (data["model"] == panel[1])]


def of_run(records: list[Record], method: str, seed: int, panel: tuple[str, str] = DIGITS) -> Record:
    found = [record for record in of_panels(records, panel) if (record.method, record.seed) == (method, seed)]
    found = [record for record in found if record.experiment == "student"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_it_is_written_with_units_ink_and_the_data_that_draw_it_again(plot: Plot, shown: Shown, tmp_path: Path) -> None:
    data, chosen = shown[plot.id]
    with style():
        drawing = plot.draw(data)
        paths = {path.suffix: path for path in save.save(drawing, data, plot, chosen, tmp_path)}
        head, read = save.read(paths[".json"])
        again = save.save(plot.draw(read), read, plot, chosen, tmp_path / "again") if plot.id in AGAIN else []
    assert [path.read_bytes() for path in again] == [paths[path.suffix].read_bytes() for path in again]
    assert save.differences(read, data) == []
    assert head["code"] == ["commit 0123456789ab"] and head["keys_sha256"] == chosen.digest
    assert set(paths) == ({".md", ".json"} if plot.id in TABLES else {".png", ".pdf", ".json"})
    if isinstance(drawing, Figure):
        labels = [axis.get_xlabel() for axis in drawing.axes] + [axis.get_ylabel() for axis in drawing.axes]
        assert all("(" in label and ")" in label for label in labels if label) and any(labels)
        assert 0.02 < (imread(paths[".png"])[..., :3].min(axis=2) < 0.9).mean() < 0.5


# ---------------------------------------------------------------------------------------------------------------------
# What the figures say


def test_a_gap_is_paired_by_repetition(records: list[Record], shown: Shown) -> None:
    differences = [
        (of_run(records, "mk4", seed).metric("accuracy") or 0)
        - (of_run(records, "plain", seed).metric("accuracy") or 0)
        for seed in range(3)
    ]
    points = of(shown, "gap-k").set_index("x")
    expected = stats.mean_interval(np.array(differences))
    assert points.loc[4, ["y", "low", "high", "n"]].tolist() == pytest.approx(expected, rel=1e-4)
    assert points.index.tolist() == [1, 2, 3, 4, 8]
    assert points.loc[1, ["y", "low", "high"]].tolist() == [0, 0, 0], "one copy is plain training, bit for bit"
    assert set(points["smallest_effect"]) == {0.005}


def test_the_map_has_every_size_with_its_gap_and_what_plain_training_fits(shown: Shown) -> None:
    data = of(shown, "map").set_index(["k", "series", "x"])["y"].sort_index()
    assert data.loc[2, "plain"].index.tolist() == [100, 300, 1000]
    for k, arm in ((2, "mk2"), (4, "mk4")):
        for size, factor in ((100, FEW), (300, 1.0), (1000, MANY)):
            assert data[k, "plain", size] == pytest.approx(GAIN[arm] * factor, abs=0.008)
            assert data[k, "noise", size] == pytest.approx((GAIN[arm] - GAIN["noise"]) * factor, abs=0.008)
    fits = of(shown, "map").groupby("x")["train_accuracy"].first()
    assert fits.to_dict() == pytest.approx({100: 0.96, 300: 0.88, 1000: 0.6})


def test_at_equal_training_loss_plain_training_is_read_between_its_runs() -> None:
    """By hand: plain runs at losses 0.4, 0.1 and 0.025 of accuracies 0.6, 0.7 and 0.75; the arm at 0.05, halfway in
    the logarithm between the last two. There a curve through them, whose slope is the harmonic mean of those of both
    lines in the middle and (3 * 0.05 - 0.1) / 2 at the end, is an eighth of the difference of slopes above the line."""
    plain_there = 0.725 + (2 / (1 / 0.1 + 1 / 0.05) - 0.025) / 8
    template = of_run(majority_records(seeds=1), "plain", 0)

    def run(method: str, seed: int, loss: float, accuracy: float) -> Record:
        metrics = [
            Metric(name="accuracy", value=accuracy + 0.1 * seed, unit="1", split="test"),
            Metric(name="accuracy", value=1.0, unit="1", split="train", n=300),
            Metric(name="loss", value=loss, unit="nat", split="train"),
        ]
        key = f"{seed}{method.encode().hex()}".ljust(64, "0")
        return template.model_copy(update={"method": method, "seed": seed, "metrics": metrics, "key": key})

    plain = [("plain-at-mk2:0.1", 0.4, 0.6), ("plain-at-mk2:0.4", 0.1, 0.7), ("plain-at-mk2", 0.025, 0.75)]
    runs = [run(name, seed, loss, accuracy) for name, loss, accuracy in plain for seed in (0, 1)]
    good = results_of([*runs, run("mk2", 0, 0.05, plain_there + 0.03), run("mk2", 1, 0.05, plain_there + 0.05)])
    row = majority.MAP.rows(good)[0].set_index("series").loc["equal-loss"]
    assert row["y"] == pytest.approx((0.03 + 0.05) / 2) and row["n"] == 2
    outside = results_of([*runs, run("mk2", 0, 0.05, 0.83), run("mk2", 1, 0.02, 0.85)])
    data, _ = majority.MAP.rows(outside)
    row = data.set_index("series").loc["equal-loss"]
    assert np.isnan(row["y"]) and row["n"] == 0, "nothing is extrapolated"
    with style():
        axis = majority.MAP.draw(data).axes[0]
    assert [line.get_marker() for line in axis.get_lines()].count("x") == 1


def test_the_synthetic_gap_at_equal_loss_is_that_of_the_world(shown: Shown) -> None:
    for panel in (DIGITS, RESNET):
        rows = of(shown, "map", panel).query("series == 'equal-loss'").set_index(["k", "x"])["y"]
        main = 300 if panel == DIGITS else 2000
        assert rows[2, main] == pytest.approx(GAIN["mk2"] + SLOPE * np.log(LOSS["mk2"]), abs=0.008)


def test_figures_show_the_numbers_of_the_verdicts(results: Results, shown: Shown) -> None:
    verdicts = {v.id.partition("/")[2]: v for v in judge_all(results.metrics, load_ledger("majority").entries, "cpu")}

    def measured(claim: str, panel: tuple[str, str]) -> float:
        return next(part.measured for part in verdicts[claim].parts if part.name == ", ".join(panel)) or 0.0

    for panel in (DIGITS, RESNET):
        forest = of(shown, "forest", panel).set_index("row")["mean"]
        for group in majority.GROUPS.values():
            for a, b, claims in group:
                for claim in claims if claims != majority_cells.GAIN else ():
                    # the ledger subtracts majority kernels from what is to be equal, the forest the other way round
                    sign = -1 if claim.startswith(("N5", "N6")) else 1
                    if claim != "M-norms":
                        expected = sign * measured(claim, panel)
                        assert forest[f"{a} − {b}"] == pytest.approx(expected, rel=1e-4, abs=1e-6)  # noqa: RUF001
    at_equal_loss = of(shown, "map", RESNET).query("series == 'equal-loss' and k == 2 and x == 2000")["y"]
    assert at_equal_loss.item() == pytest.approx(measured("M-loss", RESNET), rel=1e-4)


def test_the_forest_has_every_control_of_the_ledger_and_norms_where_there_are_some(shown: Shown) -> None:
    named = {claim for group in majority.GROUPS.values() for *_, claims in group for claim in claims}
    controls = {entry.id.partition("/")[2] for entry in load_ledger("majority").entries if entry.kind == "control"}
    assert controls - named == {"N5-k1"}, "which compares losses"
    resnet = of(shown, "forest", RESNET).set_index("row")
    running = resnet[resnet.index.str.endswith("/running")].iloc[0]
    assert running["mean"] == pytest.approx(0.03) and running["smallest_effect"] == 0.005
    assert not of(shown, "forest")["row"].str.endswith("/running").any()
    with style():
        figure = majority.FOREST.draw(shown["forest"][0])
    arrows = [line for axis in figure.axes for line in axis.get_lines() if line.get_marker() == ">"]
    assert len(arrows) == 2, "mk4 minus selected4 is far beyond each panel"


def test_flops_are_charged_for_members_and_wider_models(shown: Shown) -> None:
    data = of(shown, "compute").set_index(["series", "duration"])
    whole = FLOPS["mlp"] * 400 * 50 / 1e9
    assert data.loc[("plain", 1.0), "x"] == pytest.approx(whole)
    assert data.loc["plain-at-mk2"]["x"].tolist() == pytest.approx(
        [whole * share for share in (0.1, 0.2, 0.4, 0.7, 1, 2)]
    )
    assert data.loc[("mk4", 1.0), "x"] == pytest.approx(whole)
    assert data.loc[("ensemble4", 1.0), "x"] == pytest.approx(5 * whole)
    assert data.loc[("selected4", 1.0), "y"] < majority_costs._bottom(of(shown, "compute"))


def test_traces_are_means_over_the_repetitions_that_are_followed(results: Results, shown: Shown) -> None:
    rows = of(shown, "traces")
    assert set(rows["x"]) == {400 * i // 6 for i in range(7)} and set(rows["n"]) == {3}
    assert set(rows.loc[rows["quantity"] == "spread", "series"]) == {"mk2", "mk4"}, "others have no copies"
    samples = results.samples.query("dataset == 'digits' and method == 'noise' and index == 6")
    curvature = samples.loc[samples["name"] == "top_eigenvalue", "value"]
    last = rows.query("quantity == 'top_eigenvalue' and series == 'noise' and x == 400").iloc[0]
    assert last["y"] == pytest.approx(np.exp(np.log(curvature).mean()), rel=1e-5), "of logarithms"
    assert last["low"] < last["y"] < last["high"]


def test_overheads_are_those_of_the_records(shown: Shown) -> None:
    data = shown["overhead"][0].set_index(["model", "x", "copies", "series"])["y"]
    assert data["mlp", 128, "mk3", "mk3"] == pytest.approx(1 + 1.5 / 128, rel=1e-5)
    assert data["resnet50", 4, "mk3", "mk3"] == pytest.approx(1.375)
    assert data["t5-small", 8, "mk3", "memory"] == 2
    table = shown["step-table"][0]
    judged = dict(zip(table["row"] + " " + table["quantity"], table["verdict"], strict=True))
    assert judged["MLP, batch 128, cpu step over the plain one's, k = 3"] == "C3-mlp: reproduced"
    assert judged["ResNet-50, batch 4, cpu step over the plain one's, k = 3"] == "C3-resnet: not reproduced"
    assert judged["MLP, batch 128, cpu step over the plain one's, k = 2"] == "", "of which nothing is claimed"
    assert table.set_index("quantity").loc["step of the plain model", "ours"].iloc[0] == pytest.approx(10), "ms"


def test_the_accuracy_table_has_every_arm_of_every_size(results: Results, shown: Shown) -> None:
    data = of(shown, "accuracy-table").set_index(["size", "arm"])
    arms = {
        name
        for name in results.metrics.query("dataset == 'digits' and experiment == 'student'")["method"]
        if ":" not in name and "@" not in name
    }
    assert set(data.loc[300].index) == arms and len(arms) == 32
    assert data.index.get_level_values("size").unique().tolist() == [300, 100, 1000], "the main one first"
    assert np.isnan(data.loc[(300, "plain"), "gap"])
    assert data.loc[(300, "mk2"), "gap"] == pytest.approx(of(shown, "gap-k").set_index("x").loc[2, "y"])
    text = majority.ACCURACY_TABLE.draw(shown["accuracy-table"][0])
    assert text["minus plain (points)"].iloc[0] == "-" and "±" in text["accuracy (%)"].iloc[0]


def test_what_was_chosen_at_an_end_of_its_candidates_is_named(shown: Shown) -> None:
    data = of(shown, "rates-table").set_index("method")
    assert data.loc["mk2", ["lr", "weight_decay", "candidates"]].tolist() == [0.1, 5e-4, 18], (
        "as the configuration says"
    )
    assert data.loc["mk2", ["lr_end", "weight_decay_end", "strength_end"]].tolist() == ["", "lowest", ""]
    assert of(shown, "rates-table", RESNET).set_index("method").loc["mk2", "lr_end"] == "lowest"
    assert "mk2-lr" not in data.index, "whose rates are another's"
    text = majority.RATES_TABLE.draw(shown["rates-table"][0])
    assert text["weight decay"].iloc[0] == "0.0005 (lowest)" and text["strength"].iloc[0] == "-"


def test_the_spread_of_each_kernel_is_shown_in_the_order_of_the_model(shown: Shown) -> None:
    data = of(shown, "layers")
    assert data.drop_duplicates("series").set_index("series")["depth"].to_dict() == {"a": 0, "b": 0.5, "head": 1}
    first = data.query("x == 0 and method == 'mk4'").set_index("series")["y"]
    assert first["head"] == pytest.approx(3 * first["a"]) and set(data["n"]) == {3}


# ---------------------------------------------------------------------------------------------------------------------
# What is missing is left out


def test_one_repetition_has_points_without_intervals() -> None:
    single = results_of(of_panels(majority_records(seeds=1), DIGITS))
    for plot in PLOTS:
        data, _ = plot.rows(single)
        assert data.empty == (plot.id in TIMED), plot.id
        if not data.empty:
            with style():
                plot.draw(data)
        if "low" in data:
            no_copies = data["x"].eq(1) if plot.id == "gap-k" else pd.Series(False, index=data.index)
            assert data.loc[~no_copies, "low"].isna().all(), plot.id


def test_own_data_at_the_smoke_tier_have_other_arms_one_size_and_no_claims() -> None:
    smoke = of_panels(majority_records("smoke", seeds=2), DIGITS)
    mine = results_of(
        [record.model_copy(update={"dataset": "mine"}) for record in smoke if "@" not in record.method],
        "smoke",
    )
    for plot in PLOTS:
        data, _ = plot.rows(mine)
        assert data.empty == (plot.id in TIMED), plot.id
        if not data.empty:
            with style():
                plot.draw(data)
    table = majority.ACCURACY_TABLE.rows(mine)[0]
    assert "ensemble2" in set(table["arm"]) and set(table["size"]) == {200}
    assert majority.FOREST.rows(mine)[0]["smallest_effect"].isna().all()


def test_only_plain_runs_or_only_timings_break_nothing(records: list[Record]) -> None:
    plain = results_of([r for r in records if r.method == "plain"])
    drawn = {plot.id for plot in PLOTS if not plot.rows(plain)[0].empty}
    assert drawn == {"accuracy-table", "compute", "rates-table", "traces"}
    timings = results_of([r for r in records if r.experiment == "timing"])
    for plot in PLOTS:
        data, _ = plot.rows(timings)
        assert data.empty == (plot.id not in TIMED), plot.id
    nothing = results_of([])
    assert all(plot.rows(nothing)[0].empty for plot in PLOTS)


def test_series_are_told_apart_without_colour() -> None:
    for looks in (majority_cells.LOOKS, majority_costs.COPIES, majority.COMPARED):
        assert len({(look.marker, look.line) for look in looks.values()}) == len(looks)


# ---------------------------------------------------------------------------------------------------------------------
# The explanation

CLAIMS = (
    "C1-mlp", "C1-few", "N1-lr", "N1-lrk", "N2", "N3", "N4", "N4-noise", "N4-swa", "N4-ema", "N4-stopped", "M-loss",
    "M-size", "M-noise",
)  # fmt: skip


def verdicts(gain: float, noise: float = 0.0, half: float = 0.002, **left: float | None) -> list[Verdict]:
    """A world with a gain over plain training, one of weight noise, and what is ``left`` of the gain over each control
    (all of it where nothing is said, None: not run); intervals are ``half`` wide to both sides."""
    setting = "digits, mlp"
    values = {claim: gain for claim in CLAIMS} | {"N4": gain - noise, "N4-noise": noise, "M-noise": gain - noise}
    found = []
    for claim, value in (values | {name.replace("_", "-"): value for name, value in left.items()}).items():
        if value is None:
            part = PartVerdict(name=setting, verdict="not run", reason="no_records")
        else:
            low, high = value - half, value + half
            outcome = "reproduced" if low > 0 else "not reproduced" if high < 0.005 else "inconclusive"
            reason = {"reproduced": "interval_supports", "not reproduced": "interval_refutes"}
            part = PartVerdict(
                name=setting, verdict=outcome, reason=reason.get(outcome, "interval_too_wide"), measured=value,
                ci_low=low, ci_high=high, n_seeds=20, tolerance=0.005,
            )  # fmt: skip
        found.append(
            Verdict(
                id=f"majority/{claim}",
                kind="claim",
                paper="majority",
                tier="cpu",
                statement="s",
                source="s",
                certainty="design",
                verdict=part.verdict,
                reason=part.reason,
                expected="> 0",
                parts=[part],
            )
        )
    return found


def test_weight_noise_that_does_as_well_explains_a_gain() -> None:
    text = explanation(verdicts(0.02, noise=0.02))
    assert text.startswith(
        "Of 1 settings at their main sizes, 1 show a gain over plain training, 0 show none, 0 are open."
    )
    assert "**MLP, digits**: a gain" in text
    assert "a gain of 2.0 points, 1.8 to 2.2." in text
    assert (
        "Gaussian weight noise (0.0 points left, -0.2 to 0.2) explains it: less than 0.5 points are left over." in text
    )
    assert "not explained in full by averaging first weights (2.0 points left, 1.8 to 2.2), the learning rate" in text
    assert "its own" not in text


def test_several_simpler_things_may_each_explain_it() -> None:
    text = explanation(verdicts(0.02, noise=0.02, N2=0.001, N1_lrk=-0.001))
    assert "Gaussian weight noise (0.0 points left" in text and "each explain it" in text
    assert "averaging first weights (0.1 points left, -0.1 to 0.3) and the learning rate (-0.1 points left" in text


def test_what_is_left_over_all_of_them_is_its_own() -> None:
    text = explanation(verdicts(0.02, noise=0.012))
    assert "not explained in full by Gaussian weight noise (0.8 points left, 0.6 to 1.0)" in text
    assert "So some of the gain is its own: 0.8 points or more over each of these." in text
    assert "is larger with few examples, seen more often, than with many (2.0 points" in text
    assert "explains it" not in text and "Open" not in text


def test_what_is_undecided_or_was_not_compared_stays_open() -> None:
    text = explanation(verdicts(0.02, noise=0.018, half=0.004, M_loss=None))
    assert "Open: Gaussian weight noise (0.2 points left, -0.2 to 0.6)." in text
    assert "Not compared: plain training at its rates, stopped at the same training loss." in text
    assert "Whether some of the gain is its own is open." in text and "explains it" not in text
    half_beaten = explanation(verdicts(0.02, noise=0.01, N1_lr=-0.01))
    assert "Open: the learning rate (-1.0 points left" in half_beaten, "at half the rate nothing is left, else all"


def test_a_small_gain_is_not_explained_by_what_comes_within_half_a_point_of_it() -> None:
    text = explanation(verdicts(0.003, half=0.002, N3=0.0019, N2=0.003))
    assert "a gain of 0.3 points, 0.1 to 0.5." in text
    assert "Open: averaging first weights (0.2 points left, 0.0 to 0.4)." in text and "explain it" not in text


def test_no_gain_needs_no_explanation() -> None:
    text = explanation(verdicts(0.001, noise=0.01))
    assert "1 show none" in text and "So there is no gain to explain." in text
    assert "With the fewest examples plain training is not beaten by 0.5 points or more either (0.1" in text
    assert "no gain of 0.5 points or more (0.1 points, -0.1 to 0.3), so there is none to explain." in text
    assert "Gaussian weight noise by itself gains 1.0 points" in text
    assert "left" not in text
    worse = explanation(verdicts(-0.01))
    assert "no gain but a loss (-1.0 points, -1.2 to -0.8)" in worse and "not larger by 0.5 points or more" in worse
    assert "a loss" not in explanation(verdicts(-0.004)), "a loss that does not matter is no more than no gain"
    assert "With the fewest examples there is a gain over plain training (2.0" in explanation(
        verdicts(0.001, C1_few=0.02)
    )


def test_a_gain_that_is_open_or_was_not_judged_is_not_explained() -> None:
    text = explanation(verdicts(0.01, half=0.02))
    assert "0 show none, 1 are open. So there is no gain to explain yet." in text
    assert "whether there is a gain is open (1.0 points, -1.0 to 3.0), so nothing is explained." in text
    nothing = "Nothing was judged here that majority kernels gain, so there is nothing to explain."
    assert explanation([]) == nothing
    smoke = judge_all(to_frame([]), load_ledger("majority").entries, "smoke")
    assert explanation(smoke) == nothing


def test_the_explanation_of_records_names_every_setting_that_was_run(results: Results) -> None:
    found = judge_all(results.metrics, load_ledger("majority").entries, "cpu", results.samples)
    text = explanation(found)
    assert text.count("**") == 8 and "**transformer, TREC**: not run." in text
    assert text.startswith("Of 2 settings at their main sizes,")


def test_the_table_of_one_repetition_is_drawn_from_stored_data(shown: Shown) -> None:
    data = of(shown, "accuracy-table").assign(accuracy_low=None, gap=None, gap_low=None)  # as JSON gives it back
    table = majority.ACCURACY_TABLE.draw(data)
    assert set(table["minus plain (points)"]) == {"-"} and not table["accuracy (%)"].str.contains("±").any()
