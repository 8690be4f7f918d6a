"""Figures and tables of "When in Doubt, Summon the Titans" (arXiv 2110.10305v1).

The shapes of the paper's figures 3 and 7 and the layout of its table 4 (as a third party describes them; no value of
theirs could be read), and what the paper does not show: differences at equal fraction, rules, cost, calibration.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro import stats
from paper_repro.ledger import load_ledger
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    bands,
    draw_forest,
    draw_lines,
    in_order,
    intervals,
    label_axes,
    legend,
    of_panel,
    panel_names,
    panels,
    reference,
    with_x,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import (
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
    look_of,
    percent,
)

LOOKS = {
    "kd": Look("standard distillation (kd)", BLACK, "o", DASHED),
    "ce": Look("no distillation (ce)", GREY, "x", DOTTED),
    "ce+kd": Look("labels mixed in (ce+kd)", ORANGE, "^", DASH_DOT),
    "ce+kd-t4": Look("the same at temperature 4 (ce+kd-t4)", VERMILION, "v", DOTTED),
    "md": Look("margin-based, rho 0.4 (md)", BLUE, "s"),
    "md-rho0.6": Look("margin-based, rho 0.6 (md-rho0.6)", SKY, "D", DASH_DOT),
    "md-random": Look("a random subset as easy (md-random)", PURPLE, "P", DOTTED),
    "md-alpha0": Look("hard labels not smoothed (md-alpha0)", GREEN, "<", DASHED),
    "md-alpha1": Look("hard labels uniform (md-alpha1)", VERMILION, ">", DASH_DOT),
    "gatekeeper": Look("Gatekeeper", GREEN, "h", DASH_DOT),
    "cd1-alpha0": Look("CD-I, alpha 0", SKY, "^", DOTTED),
    "cd1-alpha0.4": Look("CD-I, alpha 0.4", BLUE, "s"),
    "cd1-alpha0.6": Look("CD-I, alpha 0.6", ORANGE, "D", DASH_DOT),
    "cd3": Look("CD-III, abstain class", VERMILION, "v", DASH_DOT),
}
KEPT = "Kept by the student (% of examples)"
ACCURACY = "Cascade accuracy (%)"
SCRIPT = "paper_repro/plots/titans.py"
BAND = "Bands: 95 % Student-t over seeds, pointwise."


def _student(methods: tuple[str, ...], **fields: Any) -> Plot:
    return Plot(paper="titans", script=SCRIPT, experiments=("student",), methods=methods, **fields)


# ---------------------------------------------------------------------------------------------------------------------
# Figure 3: class-specific distillation


def _figure3_data(results: Results) -> pd.DataFrame:
    """Margin curves of kd, CD-I (alpha 0.4) and CD-III, and the one point of class-based delegation of every method."""
    curves = with_x(bands(results.samples, {"curve/margin": ""}), results.samples, "curve/fraction")
    curves = curves[curves["series"].isin(["kd", "cd1-alpha0.4", "cd3"])].assign(part="curve")
    means = intervals(results.metrics, ["class_rule/fraction", "class_rule/accuracy", "teacher_accuracy"])
    wide = means.pivot(index=[*PANEL, "method"], columns="metric", values=["mean", "low", "high", "n"]).reset_index()
    wide.columns = pd.Index(["/".join(filter(None, names)) for names in wide.columns])
    points = wide.rename(
        columns={
            "method": "series", "mean/class_rule/fraction": "x", "mean/class_rule/accuracy": "y",
            "low/class_rule/accuracy": "low", "high/class_rule/accuracy": "high", "n/class_rule/accuracy": "n",
        }
    ).assign(part="class rule")  # fmt: skip
    columns = ["part", *curves.columns.drop("part")]
    return pd.concat([_teachers(results), curves, points], ignore_index=True)[columns].astype({"n": "int64"})


def _teachers(results: Results) -> pd.DataFrame:
    """The teacher's accuracy in each panel, as a series 'teacher'; every student of a panel has the same teacher."""
    rows = results.metrics[results.metrics["metric"] == "teacher_accuracy"]
    found = rows.groupby(PANEL)["value"].mean().rename("y").reset_index()
    return found.assign(part="teacher", series="teacher", x=0.0, low=np.nan, high=np.nan, n=1)


def _figure3(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data[data["part"] == "curve"])
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        draw_lines(axis, rows[rows["part"] == "curve"], LOOKS, every=0)
        points = rows[rows["part"] == "class rule"]
        for name in in_order(points["series"], LOOKS):
            point, look = points[points["series"] == name].iloc[0], look_of(name, LOOKS)
            error = [[point["y"] - point["low"]], [point["high"] - point["y"]]]
            axis.errorbar(
                point["x"], point["y"], error, color=look.color, marker=look.marker, markersize=5.5, capsize=2,
                markeredgecolor="white", markeredgewidth=0.5, zorder=4,
            )  # fmt: skip
        _finish(axis, rows)
    label_axes(figure, KEPT, ACCURACY)
    note = Line2D([], [], color="none", label="marker: class-based delegation")
    line = Line2D([], [], color=GREY, label="line: margin delegation")
    names = set(data.loc[data["part"] == "class rule", "series"])
    legend(figure, names, LOOKS, line, note, points=names - set(data.loc[data["part"] == "curve", "series"]))
    return figure


def _finish(axis: Axes, rows: pd.DataFrame, at: float = 0.99) -> None:
    """What all panels of cascade accuracy share; ``at``: where the teacher's line is named."""
    teacher = rows[rows["series"] == "teacher"]
    if len(teacher):
        reference(axis, teacher["y"].iloc[0], "teacher alone", at)
    axis.set_xlim(-0.01, 1.01)
    percent(axis.xaxis)
    percent(axis.yaxis)


FIGURE3 = _student(
    ("kd", "cd1-alpha0", "cd1-alpha0.4", "cd1-alpha0.6", "cd3"),
    id="figure3",
    caption=(
        "Class-specific distillation in the shape of the paper's figure 3: accuracy of the cascade against the share "
        "of examples that the student keeps. Lines: margin delegation. Markers with intervals: class-based delegation, "
        f"which has one operating point. {BAND}"
    ),
    data=_figure3_data,
    draw=_figure3,
)


# ---------------------------------------------------------------------------------------------------------------------
# Figure 7: margin-based distillation


def _figure7_data(results: Results) -> pd.DataFrame:
    overall = with_x(bands(results.samples, {"curve/margin": ""}), results.samples, "curve/fraction")
    easy = with_x(bands(results.samples, {"curve_in_domain/margin": ""}), results.samples, "curve/fraction")
    teacher = _teachers(results).drop(columns="part")
    found = pd.concat(
        [frame.assign(part=part) for part, frame in (("overall", overall), ("overall", teacher), ("easy", easy))]
    )
    return found[["part", *overall.columns]].astype({"n": "int64"})


def _figure7(data: pd.DataFrame) -> Figure:
    names = panel_names(data)
    figure = Figure(figsize=(PAGE, 1.9 * len(names) + 0.6))
    axes = figure.subplots(len(names), 2, squeeze=False)
    for panel, (left, right) in zip(names, axes, strict=True):
        for axis, part, title in ((left, "overall", "all examples"), (right, "easy", "easy examples (in-domain)")):
            rows = of_panel(data[data["part"] == part], panel)
            draw_lines(axis, rows[rows["series"] != "teacher"], LOOKS)
            _finish(axis, rows)
            axis.set_title(f"{panel[0]}, {panel[1]}: {title}")
    label_axes(figure, KEPT, ACCURACY)
    legend(figure, data["series"][data["series"] != "teacher"], LOOKS)
    return figure


FIGURE7 = _student(
    ("kd", "md", "md-rho0.6"),
    id="figure7",
    caption=(
        "Margin-based distillation in the shape of the paper's figure 7: accuracy of the cascade against the share of "
        "examples that the student keeps, over all examples (left) and over those on which the teacher's margin "
        f"exceeds the evaluation's threshold (right). {BAND}"
    ),
    data=_figure7_data,
    draw=_figure7,
)


# ---------------------------------------------------------------------------------------------------------------------
# At equal fraction: the differences that the lines of figure 7 hide


def _equal_fraction_data(results: Results) -> pd.DataFrame:
    return with_x(bands(results.samples, {"curve/margin": ""}, minus="kd"), results.samples, "curve/fraction")


def _equal_fraction(data: pd.DataFrame) -> Figure:
    names, methods = panel_names(data), [name for name in EQUAL_FRACTION.methods or () if name in set(data["series"])]
    figure = Figure(figsize=(PAGE, 1.35 * len(names) + 0.6))
    axes = figure.subplots(len(names), len(methods), squeeze=False, sharex=True, sharey="row")
    for panel, row in zip(names, axes, strict=True):
        for method, axis in zip(methods, row, strict=True):
            reference(axis, 0.0)
            draw_lines(axis, of_panel(data[data["series"] == method], panel), LOOKS)
            axis.set_xlim(-0.02, 1.02)
            percent(axis.xaxis, 3)
            percent(axis.yaxis, 5)
        row[0].set_ylabel(f"{panel[0]}\n{panel[1]}\n\nDifference (points)")
    for axis in axes[-1]:
        axis.set_xlabel("Kept by the student (%)")
    for method, axis in zip(methods, axes[0], strict=True):
        axis.set_title(f"{method} minus kd")
    figure.align_ylabels()
    return figure


EQUAL_FRACTION = _student(
    ("kd", "md", "ce+kd", "ce+kd-t4", "md-random"),
    id="equal-fraction",
    caption=(
        "The real test: cascade accuracy minus that of standard distillation at the same share kept by the student "
        "(margin delegation for both, paired by seed), for margin-based distillation and for the controls that could "
        "explain an advantage. As both cascades cost the same at the same share, this is also the comparison at equal "
        f"cost. {BAND}"
    ),
    data=_equal_fraction_data,
    draw=_equal_fraction,
)

# What margin-based distillation is compared with: label, other method, its rule, the ledger's entry of this comparison
CONTROLS = [
    ("kd", "kd", "margin", "C1-strong"),
    ("ce+kd", "ce+kd", "margin", "N1"),
    ("ce+kd-t4", "ce+kd-t4", "margin", "T4"),
    ("md-random", "md-random", "margin", "N3"),
    ("md-alpha0", "md-alpha0", "margin", "N2-alpha0"),
    ("md-alpha1", "md-alpha1", "margin", "N2-alpha1"),
    ("ce", "ce", "margin", "X2-plain"),
    ("gatekeeper", "gatekeeper", "margin", "X2-gatekeeper"),
    ("kd + deferral head", "kd", "head", "X2-head"),
]


def _forest_data(results: Results) -> pd.DataFrame:
    """Paired differences of area, md minus each control, with the intervals and tolerances of the verdicts."""
    rows = results.metrics[results.metrics["metric"].isin(["auc/margin", "auc/head"])]
    areas = rows.set_index([*PANEL, "method", "metric", "seed"])["value"].sort_index()
    ledger = load_ledger("titans")
    found = []
    for dataset, model in panel_names(rows):
        for label, method, rule, entry in CONTROLS:
            try:
                md = areas.loc[dataset, model, "md", "auc/margin"]
                other = areas.loc[dataset, model, method, f"auc/{rule}"]
            except KeyError:
                continue
            difference = (md - other).dropna()
            if len(difference):
                check = next((c for tier, c in ledger.entry(entry).checks.items() if tier == results.tier), None)
                parts = [p for p in check.parts if (p.dataset, p.model) == (dataset, model)] if check else []
                effect = check.tolerance if check else np.nan
                effect = parts[0].tolerance if parts and parts[0].tolerance is not None else effect
                interval = stats.mean_interval(difference.to_numpy())
                found.append((dataset, model, label, *interval, effect, entry))
    return pd.DataFrame(found, columns=[*PANEL, "control", "mean", "low", "high", "n", "smallest_effect", "entry"])


def _forest(data: pd.DataFrame) -> Figure:
    labels = [label for label, *_ in CONTROLS if label in set(data["control"])]
    names = panel_names(data)
    columns = min(len(names), 4)
    figure, axes = panels(data, height=0.19 * len(labels) + 0.75, columns=columns, share_y=True)
    limit = 1.12 * np.nanmax(np.abs(data[["mean", "low", "high"]].to_numpy()))
    for panel, axis in axes.items():
        axis.set_title(axis.get_title().replace(", ", "\n"))
        draw_forest(axis, of_panel(data, panel).set_index("control"), labels, limit)
        axis.set_xlabel("Difference of area\n(points of accuracy)")
        percent(axis.xaxis, 4 if columns > 2 else 6)
    figure.axes[0].set_ylabel("md minus ...")
    return figure


FOREST = _student(
    ("md", *dict.fromkeys(method for _, method, *_ in CONTROLS)),
    id="forest",
    caption=(
        "Area under the curve of figure 7 (mean accuracy of the cascade over all shares kept): margin-based "
        "distillation minus each control, paired by seed. Intervals are those of the verdicts (95 %); at the right, "
        "the number of seeds. A filled marker: the interval excludes zero. Grey: less than the smallest effect of "
        "interest."
    ),
    data=_forest_data,
    draw=_forest,
)


# ---------------------------------------------------------------------------------------------------------------------
# Deferral rules on one student, with random and oracle deferral as bounds

RULES = {
    "md/oracle": Look("oracle (upper bound)", GREY, "^", DOTTED),
    "md/margin": Look("margin (the paper's)", BLUE, "s"),
    "md/max_prob": Look("maximum probability", ORANGE, "o", DASHED),
    "md/entropy": Look("entropy", GREEN, "v", DASH_DOT),
    "md/head": Look("learnt deferral head", VERMILION, "D", DASH_DOT),
    "md/random": Look("random (lower bound)", GREY, "x", DASHED),
}


def _rules_data(results: Results) -> pd.DataFrame:
    names = {f"curve/{name.partition('/')[2]}": f"/{name.partition('/')[2]}" for name in RULES}
    curves = with_x(bands(results.samples, names), results.samples, "curve/fraction")
    return pd.concat([curves, _teachers(results)[curves.columns]], ignore_index=True)


def _rules(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        draw_lines(axis, rows[rows["series"] != "teacher"], RULES, every=6)
        _finish(axis, rows, at=0.78)
    label_axes(figure, KEPT, ACCURACY)
    legend(figure, data["series"][data["series"] != "teacher"], RULES, columns=3)
    return figure


RULES_PLOT = _student(
    ("md",),
    id="rules",
    caption=(
        "Deferral rules on the margin-based student: accuracy of the cascade against the share of examples that the "
        f"student keeps, between random deferral and an oracle that knows who is right. {BAND}"
    ),
    data=_rules_data,
    draw=_rules,
)


# ---------------------------------------------------------------------------------------------------------------------
# Cost


def _cost_data(results: Results) -> pd.DataFrame:
    """Accuracy against the amortised cost of the cascade in teacher forward passes (FLOPs); x falls as y does."""
    curves = bands(results.samples, {"curve/margin": "", "curve/random": "/random"})
    curves = curves[curves["series"].isin(["kd", "md", "md/random"])]
    curves = with_x(curves, results.samples, "curve_cost/margin")
    return pd.concat([curves, _teachers(results)[curves.columns].assign(x=1.0)], ignore_index=True)


COST_LOOKS = {
    "kd": LOOKS["kd"],
    "md": LOOKS["md"],
    "md/random": Look("margin-based, random deferral", PURPLE, "x", DOTTED),
}


def _cost(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data)
    star: dict[str, Any] = {"linestyle": "none", "marker": "*", "color": BLACK, "markersize": 7}
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        draw_lines(axis, rows[rows["series"] != "teacher"], COST_LOOKS)
        teacher = rows[rows["series"] == "teacher"]
        axis.plot(teacher["x"], teacher["y"], **star, zorder=5)
        axis.set_xlim(0, 1.04 * rows["x"].max())
        percent(axis.yaxis)
    label_axes(figure, "Cost per example (forward passes of the teacher)", ACCURACY)
    legend(
        figure, data["series"][data["series"] != "teacher"], COST_LOOKS, Line2D([], [], **star, label="teacher alone")
    )
    return figure


COST = _student(
    ("kd", "md"),
    id="cost",
    caption=(
        "Accuracy of the cascade against its amortised cost, c_S + (1 - share kept) c_T, in FLOPs relative to one "
        f"forward pass of the teacher. The right end of each curve defers everything. {BAND}"
    ),
    data=_cost_data,
    draw=_cost,
)


def _traffic_data(results: Results) -> pd.DataFrame:
    names = [name for name in results.metrics["metric"].unique() if name.startswith("cost/easy_share_")]
    found = intervals(results.metrics, names).rename(columns={"method": "series", "mean": "y"})
    shares = found["metric"].str.extract(r"_(\d+)$")[0].astype(float) / 100
    found = found.assign(x=shares).sort_values([*PANEL, "series", "x"])
    return found[[*PANEL, "series", "x", "y", "low", "high", "n"]]


def _traffic(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, height=1.8)
    for panel, axis in axes.items():
        draw_lines(axis, of_panel(data, panel), LOOKS, every=1)
        axis.set_xlim(0, 1)
        percent(axis.xaxis)
    label_axes(figure, "Easy examples (% of the traffic)", "Cost per example\n(teacher passes)")
    legend(figure, data["series"], LOOKS)
    return figure


TRAFFIC = _student(
    ("kd", "md"),
    id="traffic",
    caption=(
        "Amortised cost of the cascade, in FLOPs relative to one forward pass of the teacher, when the share of easy "
        "examples in the traffic is as given and the threshold is the one that keeps a fixed share of the validation "
        f"set. {BAND.replace('Student-t', 'interval')}"
    ),
    data=_traffic_data,
    draw=_traffic,
)

# What is measured of a timed pair, and how the student's share of the teacher's cost follows from it
TIMED = {
    "latency": Look("latency, one example per call", BLUE, "s"),
    "throughput": Look("time per example in batches", VERMILION, "v", DASH_DOT),
    "FLOPs": Look("FLOPs", GREY, "x", DOTTED),
}


def _latency_data(results: Results) -> pd.DataFrame:
    """Student's cost as a share of the teacher's, c_S / c_T, per pair, device and quantity."""
    rows = results.metrics.copy()
    found = []
    for (model, device), group in rows.groupby(["model", "method"]):
        value = group.set_index("metric")["value"]
        for name in TIMED:
            if name == "FLOPs":
                ratio = value.get("student/flops", np.nan) / value.get("teacher/flops", np.nan)
                limits = (np.nan, np.nan)
            else:
                speedup = f"speedup/{name}"
                ratio = 1 / value.get(speedup, np.nan)
                limits = (1 / value.get(f"{speedup}/high", np.nan), 1 / value.get(f"{speedup}/low", np.nan))
            if np.isfinite(ratio):
                found.append((device, model, name, ratio, *limits))
    return pd.DataFrame(found, columns=[*PANEL, "series", "student_share", "low", "high"])


def _latency(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data)
    kept = np.linspace(0, 1, 201)
    for (device, model), axis in axes.items():
        rows = of_panel(data, (device, model)).set_index("series")
        reference(axis, 1.0, "teacher alone")
        lines = [
            pd.DataFrame({"series": name, "x": kept, "y": 1 / (row["student_share"] + 1 - kept),
                          "low": 1 / (row["high"] + 1 - kept), "high": 1 / (row["low"] + 1 - kept)})
            for name, row in rows.iterrows()
        ]  # fmt: skip
        draw_lines(axis, pd.concat(lines), TIMED, every=60)
        ends = [f"{name} {_times(1 / rows.loc[name, 'student_share'])}" for name in in_order(rows.index, TIMED)]
        axis.annotate(
            "student alone:\n" + "\n".join(ends), (0.04, 0.95), xycoords="axes fraction", fontsize=6.5, va="top"
        )
        student, _, teacher = model.partition("|")
        axis.set_title(f"{student} for {teacher}, {device}")
        axis.set_xlim(-0.01, 1.01)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        percent(axis.xaxis)
    label_axes(figure, KEPT, "Speed-up over the teacher\n(times, log scale)")
    legend(figure, data["series"], TIMED, columns=3)
    return figure


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x"


LATENCY = Plot(
    paper="titans",
    script=SCRIPT,
    experiments=("timing",),
    methods=None,
    id="latency",
    caption=(
        "How much cheaper per example a cascade of the papers' own architectures is than its teacher alone: "
        "c_T / (c_S + (1 - share kept) c_T). Measured at random weights on synthetic input, student and teacher "
        "interleaved in one process; bands: 95 % intervals of the median ratio over rounds."
    ),
    data=_latency_data,
    draw=_latency,
)


# ---------------------------------------------------------------------------------------------------------------------
# Calibration

CALIBRATED = ("kd", "ce", "ce+kd", "ce+kd-t4", "md", "md-random")


def _calibration_data(results: Results) -> pd.DataFrame:
    """One row per run: loss against the teacher, threshold and share kept, with the guarantee that was asked for."""
    names = ["teacher_gap", "threshold", "fraction"]
    rows = results.metrics[results.metrics["metric"].isin([f"calibrated/{name}" for name in names])]
    if rows.empty:
        return pd.DataFrame()
    settings = rows["param.settings"].map(json.loads)
    rows = rows.assign(epsilon=settings.map(lambda s: s["epsilon"]), delta=settings.map(lambda s: s["delta"]))
    wide = rows.pivot(index=[*PANEL, "method", "seed", "epsilon", "delta"], columns="metric", values="value")
    wide = wide.rename(columns=lambda name: name.partition("/")[2]).reset_index()
    return wide[[*PANEL, "method", "seed", *names, "epsilon", "delta"]]


def _calibration(data: pd.DataFrame) -> Figure:
    names = panel_names(data)
    methods = in_order(data["method"], LOOKS)
    figure = Figure(figsize=(PAGE, 1.75 * len(names) + 0.6))
    axes = figure.subplots(len(names), 2, squeeze=False, width_ratios=[3, 2])
    spread = np.random.default_rng(0)
    for panel, (left, right) in zip(names, axes, strict=True):
        rows = of_panel(data, panel)
        epsilon, delta = rows["epsilon"].iloc[0], rows["delta"].iloc[0]
        left.axvline(epsilon, color=GREY, linewidth=1, linestyle=DASHED, zorder=1)
        for height, method in enumerate(reversed(methods)):
            runs, look = rows[rows["method"] == method], look_of(method, LOOKS)
            offsets = height + spread.uniform(-0.25, 0.25, len(runs))
            mark: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none", "markersize": 3}
            left.plot(runs["teacher_gap"], offsets, **mark)
            right.plot(runs["threshold"], runs["fraction"], **mark)
        above = int((rows["teacher_gap"] > epsilon).sum())
        left.set_title(f"{panel[0]}, {panel[1]}: {above} of {len(rows)} runs lost more than epsilon")
        left.set_yticks(range(len(methods)), reversed(methods))
        left.set_ylim(-0.6, len(methods) - 0.1)
        left.grid(axis="y", visible=False)
        left.set_xlabel(f"Lost against the teacher (points); epsilon = {100 * epsilon:g}, delta = {delta:g}")
        percent(left.xaxis)
        right.set_xlabel("Calibrated threshold (margin, probability)")
        right.set_ylabel("Kept (%)")
        right.set_title("threshold and share kept")
        percent(right.yaxis)
    return figure


CALIBRATION = _student(
    CALIBRATED,
    id="calibration",
    caption=(
        "Calibrated thresholds: each run learns on validation data the threshold that keeps the cascade within epsilon "
        "of its teacher with probability 1 - delta. Left: what it lost on the test set, one marker per run. Right: its "
        "threshold, and the share that the student keeps. Colours and markers are those of the methods at the left. "
        "The guarantee assumes that validation and test examples come alike; on SST-2 they are phrases and sentences."
    ),
    data=_calibration_data,
    draw=_calibration,
)


# ---------------------------------------------------------------------------------------------------------------------
# Table 4: class-specific distillation

TABLE4_METRICS = {
    "accuracy_in_classes": "student in L_in",
    "class_rule/accuracy": "cascade",
    "class_rule/fraction": "kept",
    "margin_at_class_fraction": "margin rule, same share",
}


def _table4_data(results: Results) -> pd.DataFrame:
    found = intervals(results.metrics, TABLE4_METRICS)
    return _sorted(found, "method", FIGURE3.methods or ())


def _sorted(data: pd.DataFrame, column: str, order: tuple[str, ...]) -> pd.DataFrame:
    rank = {name: position for position, name in enumerate(order)}
    metric = {name: position for position, name in enumerate(TABLE4_METRICS)}
    key: dict[str, Callable[[Any], Any]] = {column: rank.get, "metric": metric.get}
    return data.sort_values(
        [*PANEL, column, "metric"], key=lambda s: s.map(key[str(s.name)]) if s.name in key else s
    ).reset_index(drop=True)


def _table4(data: pd.DataFrame) -> pd.DataFrame:
    """Rows: data set, student and method; columns: the measures in percent, as mean and half-width of the interval."""
    rows = []
    for dataset, model in panel_names(data):
        panel = of_panel(data, (dataset, model))
        for method in panel["method"].unique():
            cells = panel[panel["method"] == method].set_index("metric")
            texts = {
                title: _with_half(cells.loc[name]) if name in cells.index else "-"
                for name, title in TABLE4_METRICS.items()
            }
            head = {"data": dataset, "student": model, "method": LOOKS[method].label}
            rows.append({**head, **{f"{t} (%)": v for t, v in texts.items()}, "seeds": str(int(cells["n"].max()))})
    return pd.DataFrame(rows)


def _with_half(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return f"{100 * row['mean']:.1f}"
    return f"{100 * row['mean']:.1f} ± {50 * (row['high'] - row['low']):.1f}"


TABLE4 = _student(
    FIGURE3.methods or (),
    id="table4",
    caption=(
        "Class-specific distillation in the layout of the paper's table 4: accuracy of the student alone inside L_in, "
        "of the cascade with class-based delegation, the share it keeps, and the cascade of the same student with "
        "margin delegation at that share (none for the abstain class, whose rule is its margin rule). Mean over seeds "
        "and half of the 95 % interval, in percent."
    ),
    data=_table4_data,
    draw=_table4,
    kind="table",
)

PLOTS = {
    plot.id: plot
    for plot in (
        FIGURE3, TABLE4, FIGURE7, EQUAL_FRACTION, FOREST, RULES_PLOT, COST, TRAFFIC, LATENCY, CALIBRATION,
    )
}  # fmt: skip
