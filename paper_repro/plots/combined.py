"""Figures of the combined experiment: a sparse student that summons its teacher, and all techniques on one task."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro import stats
from paper_repro.plots.combined_cells import SUMMONS, TEACHER, student_of, techniques, with_dominance
from paper_repro.plots.save import Plot
from paper_repro.plots.series import PANEL, in_order, label_axes, legend, of_panel, panels, reference
from paper_repro.plots.source import Results
from paper_repro.plots.sparse_cells import TASKS
from paper_repro.plots.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
    counts,
    look_of,
    one_two_five,
    percent,
)

SCRIPT = "paper_repro/plots/combined.py"
NAMES = TASKS | {"cifar10-jpeg": "CIFAR-10"}
LOST, FASTER = 0.005, 10.0  # what is promised: at most so much accuracy for at least such a speed-up
LOOKS = {
    TEACHER: Look("teacher", BLACK, "*"),
    "plain": Look("plain", GREY, "o"),
    "kd": Look("distilled", BLUE, "o"),
    "kd-half": Look("distilled, first half", SKY, "o"),
    "kd+corpus": Look("distilled on more text", BLACK, "o"),
    "majority": Look("majority kernels", ORANGE, "o"),
    "kd+majority": Look("distilled, majority kernels", VERMILION, "o"),
    "sparse": Look("n-grams", GREY, "^"),
    "sparse+kd": Look("n-grams, distilled", GREEN, "^"),
    "sparse+kd+corpus": Look("n-grams, distilled on more text", PURPLE, "^"),
}
CASCADES = {
    "kd": Look("distilled network", BLUE, "o", DASHED),
    "kd+corpus": Look("network, distilled on more text", ORANGE, "D", DASHED),
    "sparse+kd": Look("n-grams, distilled", GREEN, "^"),
    "sparse+kd+corpus": Look("n-grams, distilled on more text", PURPLE, "s"),
    "kd+majority": Look("distilled, majority kernels", VERMILION, "D", DASHED),
}


DOMINATED = (
    "{}: another technique has at least its mean accuracy and costs no more in training, latency, throughput and "
    "memory, and is better in something that can be told apart (accuracies whose intervals do not overlap, costs that "
    "differ by more than 5 %); what is not may be too close to call."
)


def title(dataset: str, _: str = "") -> str:
    """What people call a data set."""
    return NAMES.get(dataset, dataset)


def _plot(**fields: Any) -> Plot:
    return Plot(
        **{"paper": "combined", "script": SCRIPT, "methods": None, "experiments": ("student", "timing"), **fields}
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sparse Titans


def _titans_data(results: Results) -> pd.DataFrame:
    """Accuracy less the teacher's against throughput over the teacher's: what was measured at the calibrated
    threshold (``kind`` point), and by arithmetic what other thresholds would give (curve)."""
    rows, samples = results.metrics, results.samples
    timing = rows[rows["experiment"] == "timing"]
    found: list[tuple[Any, ...]] = []
    for dataset, part in rows[rows["experiment"] == "student"].groupby("dataset"):
        speed = timing[timing["dataset"] == dataset].pivot_table(index="seed", columns="metric", values="value")
        for arm, of_arm in part.groupby("method"):
            cascade = f"speedup/{arm}{SUMMONS}/throughput"
            if cascade not in speed.columns:
                continue
            gap = -of_arm[of_arm["metric"] == "cascade/lost"].set_index("seed")["value"]
            x = log_interval(speed[cascade].dropna().to_numpy())
            y = stats.mean_interval(gap.dropna().to_numpy())
            found.append((dataset, "", arm, "point", x.estimate, x.low, x.high, y.estimate, y.low, y.high))
            teacher = of_arm[of_arm["metric"] == "teacher_accuracy"]["value"].iloc[0]
            curve = samples[(samples["dataset"] == dataset) & (samples["method"] == arm)]
            fractions = curve[curve["name"] == "curve/fraction"].groupby("index")["value"].mean()
            heights = curve[curve["name"] == "curve/accuracy"].groupby("index")["value"].mean()
            alone = student_of(of_arm, speed.columns)
            student = float(1 / speed[f"speedup/{alone}/throughput"].mean())  # over the teacher's seconds
            deferred = float(speed[f"{arm}{SUMMONS}/deferred"].mean())
            summoned = (1 / x.estimate - student) / deferred if deferred else 1.0  # smaller batches, and sorting out
            for fraction, height in zip(fractions, heights, strict=True):
                pace = 1 / (student + (1 - fraction) * summoned)
                found.append((dataset, "", arm, "curve", pace, np.nan, np.nan, height - teacher, np.nan, np.nan))
    columns = [*PANEL, "series", "kind", "x", "x_low", "x_high", "y", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def log_interval(ratios: np.ndarray) -> stats.Interval:
    """Geometric mean of ratios with its interval, which so stays above zero."""
    estimate, low, high, n = stats.mean_interval(np.log(ratios))
    return stats.Interval(float(np.exp(estimate)), float(np.exp(low)), float(np.exp(high)), n)


def _titans(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, 2.1, 2, title=title)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        reference(axis, -LOST, f"teacher less {100 * LOST:g} points")
        axis.axvline(FASTER, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        for position, name in enumerate(in_order(rows["series"], CASCADES)):
            look, of = look_of(name, CASCADES, position), rows[rows["series"] == name]
            line, points = of[of["kind"] == "curve"].sort_values("x"), of[of["kind"] == "point"]
            axis.plot(line["x"], line["y"], color=look.color, linestyle=look.line, linewidth=0.9)
            axis.vlines(points["x"], points["low"], points["high"], color=look.color, linewidth=1.1)
            axis.hlines(points["y"], points["x_low"], points["x_high"], color=look.color, linewidth=1.1)
            axis.plot(points["x"], points["y"], look.marker, color=look.color, markersize=5, zorder=4)
        axis.set_xscale("log")
        counts(axis.xaxis)
        percent(axis.yaxis)
    label_axes(figure, "Throughput (over the teacher's)", "Accuracy less the\nteacher's (points)")
    legend(figure, data["series"], CASCADES, columns=3)
    return figure


SPARSE_TITANS = _plot(
    id="sparse-titans",
    caption=(
        "Students that summon their teacher for what they are not sure of: accuracy against throughput from raw "
        "example to label, both over the teacher's. Markers: measured, at the threshold that is calibrated on "
        "validation data to lose at most 0.5 points in nine of ten cases where test data are like these (SST-2's are "
        "not); means over seeds with 95 % intervals. Lines: "
        "other thresholds, throughput by arithmetic from the share that is deferred, the student's time, and what a "
        "deferred example took at the marker. Dotted: the claim, ten times the throughput within 0.5 points."
    ),
    data=_titans_data,
    draw=_titans,
)


# ---------------------------------------------------------------------------------------------------------------------
# All techniques on one task


def _table_data(results: Results) -> pd.DataFrame:
    rows = with_dominance(techniques(results))
    return rows.sort_values(["dataset", "accuracy"], ascending=[True, False], ignore_index=True, kind="stable")


def _pareto_data(results: Results) -> pd.DataFrame:
    return _table_data(results).dropna(subset="throughput_per_s").reset_index(drop=True)


def _pareto(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, 2.3, 2, title=title)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        front = rows[~_dominated_in_plane(rows)].sort_values("throughput_per_s")
        axis.plot(front["throughput_per_s"], front["accuracy"], color="#BBBBBB", linewidth=0.9, zorder=1)
        spread: dict[float, int] = {}
        for row in rows.itertuples():
            look = look_of(row.arm, LOOKS)
            same = spread[row.throughput_per_s] = spread.get(row.throughput_per_s, -1) + 1
            x = row.throughput_per_s * 1.06**same  # arms of one architecture have one speed: side by side
            cascade = row.technique.endswith(SUMMONS)
            axis.vlines(x, row.low, row.high, color=look.color, linewidth=1.0, zorder=2)
            axis.plot(
                x, row.accuracy, look.marker, color=look.color, markersize=7 if row.arm == TEACHER else 5,
                markerfacecolor="white" if row.dominated else look.color, zorder=3,
            )  # fmt: skip
            if cascade:
                axis.plot(x, row.accuracy, "o", color=look.color, markersize=9, markerfacecolor="none", zorder=2)
        axis.set_xscale("log")
        least, most = axis.get_xlim()
        (counts if most > 100 * least else one_two_five)(axis.xaxis)
        percent(axis.yaxis)
    label_axes(figure, "Throughput, raw example to label (1/s)", "Test accuracy (%)")
    more = [
        Line2D([], [], linestyle="none", marker="o", color=GREY, markersize=9, markerfacecolor="none",
               label="with the teacher summoned"),
        Line2D([], [], linestyle="none", marker="o", color=GREY, markerfacecolor="white", label="hollow: dominated"),
    ]  # fmt: skip
    legend(figure, data["arm"], LOOKS, *more, columns=3, points=list(data["arm"]))
    return figure


def _dominated_in_plane(rows: pd.DataFrame) -> pd.Series:
    goods = rows[["accuracy", "throughput_per_s"]].to_numpy()
    return pd.Series(
        [bool(((goods >= one).all(axis=1) & (goods > one).any(axis=1)).any()) for one in goods], index=rows.index
    )


PARETO = _plot(
    id="pareto",
    caption=(
        "All techniques on one task and machine: accuracy (mean over seeds; 95 % intervals over seeds and test "
        "examples) against throughput "
        "on one thread. Arms of one architecture have the same speed and are drawn side by side. Cascades are those of "
        f"some distilled students. {DOMINATED.format('Hollow')} Grey line: the best of accuracy and throughput alone."
    ),
    data=_pareto_data,
    draw=_pareto,
)


def _table(data: pd.DataFrame) -> pd.DataFrame:
    numbers = [name for name in data.columns if name not in ("dataset", "model", "technique", "arm", "dominated")]
    data = data.astype(dict.fromkeys(numbers, float))  # a column that is empty in JSON has no type

    def minutes(seconds: float) -> str:
        return f"{seconds / 60:.1f}"

    lines = [
        {
            "data": title(row.dataset),
            "technique": row.technique,
            "accuracy (%)": f"{100 * row.accuracy:.1f}"
            + (f" [{100 * row.low:.1f}, {100 * row.high:.1f}]" if np.isfinite(row.low) else ""),
            "over plain (points)": ""
            if np.isnan(row.gain)
            else f"{100 * row.gain:+.1f} [{100 * row.gain_low:+.1f}, {100 * row.gain_high:+.1f}]",
            "deferred (%)": "" if np.isnan(row.deferred) else f"{100 * row.deferred:.0f}",
            "training, student (min)": minutes(row.student_s),
            "teacher and labels (min)": minutes(row.teacher_s + row.labelling_s),
            "latency (ms)": _number(1e3 * row.latency_s),
            "throughput (1/s)": _number(row.throughput_per_s),
            "weights (MB)": _number(row.weights_bytes / 1e6),
            "not dominated": "" if row.dominated else "yes",
        }
        for row in data.itertuples()
    ]
    return pd.DataFrame(lines)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


PARETO_TABLE = _plot(
    id="pareto-table",
    kind="table",
    caption=(
        "All techniques on one task and machine. Intervals are of 95 %: of accuracies over seeds and test examples, of "
        "differences to plain training over seeds, paired. Training is of one student on one thread, a second process "
        "beside it, without reading the data, building n-gram vocabularies, choosing learning rates and, for a "
        "cascade, labelling the validation examples; teacher and labels are shared by all that need them. Latency: one "
        "example alone; throughput: many; both from raw example to label on one thread. Weights: with an n-gram "
        "student's vocabulary. Cascades are those of some distilled students. "
        f"{DOMINATED.format('Dominated')}"
    ),
    data=_table_data,
    draw=_table,
)

PLOTS = {plot.id: plot for plot in (SPARSE_TITANS, PARETO, PARETO_TABLE)}
