"""Figures of "Reduce, Reuse, Recycle" (arXiv 2211.00683v1); others are in ``recycle_costs`` and
``recycle_students``.

Of the paper only the abstract could be read, so these are not shapes of its figures: they show what its claims are
about. One panel per task; a loss is drawn as it is (lower is better), differences so that right is better.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paper_repro import stats
from paper_repro.plots.recycle_axes import (
    CUT,
    HOW,
    NONE,
    QUALITY,
    SEEDS,
    SPEEDUP,
    draw_interval,
    frame,
    name_missing,
    quality_ticks,
    span,
    speedups,
    task_panels,
)
from paper_repro.plots.recycle_cells import (
    ARMS,
    BASELINE,
    LIMITS,
    LOOKS,
    MAIN,
    limits,
    named,
    pair,
    tasks,
)
from paper_repro.plots.recycle_costs import BREAK_EVEN, OVERHEAD, STEPS
from paper_repro.plots.recycle_students import TEACHER_ROWS, VARIANT_PLOT
from paper_repro.plots.recycle_tables import GLUE, SPEEDUP_TABLE, STEP_TABLE, TEACHER_TABLE, VARIANT_TABLE
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    draw_lines,
    legend,
    of_panel,
    reference,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import BLUE, GREY, ORANGE, one_two_five, percent


def _plot(**fields: Any) -> Plot:
    given = {"paper": "recycle", "script": "paper_repro/plots/recycle.py", "experiments": ("student",), "methods": None}
    return Plot(**{**given, **fields})


# ---------------------------------------------------------------------------------------------------------------------
# Quality over wall-clock


def _curves_data(results: Results) -> pd.DataFrame:
    found = []
    for task in tasks(results):
        for arm in (name for name in MAIN if name in task.arms):
            for duration, group in task.of(arm).groupby("duration"):
                interval = stats.mean_interval(group[task.measure].to_numpy())
                found.append((*task.panel, task.measure, arm, duration, group["seconds"].mean(), *interval))
    return pd.DataFrame(found, columns=[*PANEL, "measure", "series", "duration", "x", "y", "low", "high", "n"])


def _curves(data: pd.DataFrame) -> Figure:
    figure, axes = task_panels(data, 2.6)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        draw_lines(axis, rows, LOOKS, every=1)
        axis.set_xscale("log")
        one_two_five(axis.xaxis)
        quality_ticks(axis.yaxis, rows["measure"].iloc[0])
        axis.set_xlabel("Time of training (s)")
        axis.set_ylabel(QUALITY[rows["measure"].iloc[0]])
    legend(figure, named(data["series"]), LOOKS, columns=3)
    return figure


CURVES = _plot(
    id="curves",
    caption=(
        "Quality on the test set over wall-clock of training, with and without a teacher. Every marker is the mean of "
        "runs of one duration, annealed to its own end. Teacher forward passes are on the clock; training a teacher, "
        "and filling a cache, are not. Bands: 95 % over seeds."
    ),
    data=_curves_data,
    draw=_curves,
)


# ---------------------------------------------------------------------------------------------------------------------
# Speed-up against quality

POINTS = 21  # qualities at which a band is computed
RESAMPLES = 1000  # of a band; single speed-ups have as many as the verdicts


def _band_data(results: Results) -> pd.DataFrame:
    found: list[tuple[Any, ...]] = []
    for task in tasks(results):
        for arm in (name for name in MAIN if name in task.arms and name != BASELINE):
            both = pair(task, arm)
            common = both.range if both else None
            rows = [
                (*task.panel, task.measure, arm, task.shown(quality), *limits(interval))
                for quality in (np.linspace(*common, POINTS) if common else ())
                if both and (interval := both.speedup(quality, RESAMPLES)) is not None
            ]
            found += rows or [(*task.panel, task.measure, arm, np.nan, *NONE)]
    return frame(found, [*PANEL, "measure", "arm", "x", *LIMITS])


def _band(data: pd.DataFrame) -> Figure:
    figure, axes = task_panels(data, 2.6)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        known = (rows["low"] > 0) & rows["high"].notna()  # a lower limit of 0 stands for none
        rows = rows.assign(low=rows["low"].where(known), high=rows["high"].where(known))
        reference(axis, 1.0)
        draw_lines(axis, rows.dropna(subset="y").rename(columns={"arm": "series"}), LOOKS, every=6)
        axis.set_ylim(*span(rows))
        quality_ticks(axis.xaxis, rows["measure"].iloc[0])
        if rows["measure"].iloc[0] == "loss":
            axis.invert_xaxis()
        axis.set_xlabel(QUALITY[rows["measure"].iloc[0]])
        axis.set_ylabel(SPEEDUP)
        name_missing(axis, rows)
    legend(figure, named(data.dropna(subset="y")["arm"]), LOOKS, columns=3)
    return figure


BAND = _plot(
    id="speedup-quality",
    caption=(
        f"Speed-up against the quality that is asked for: {HOW}. Each line spans the qualities that both curves reach; "
        "better is to the right. Bands: 95 %, bootstrap over seeds, pointwise. There is none at the ends, where not "
        "all curves of resampled seeds have the quality, so that the interval has no limits."
    ),
    data=_band_data,
    draw=_band,
)


# ---------------------------------------------------------------------------------------------------------------------
# Speed-up against the window

WINDOWS = {
    "same": ("kd-20", "kd-quarter", "kd-35", "kd-half", "kd-50", "kd"),
    "big": ("kd-big-35", "kd-big"),
}
MARKED = ("kd-every2", "kd-half-fade", "kd-35-fade")
BESIDE = {  # how far points with the same share are drawn apart
    "kd-every2": -0.03, "kd-half-fade": 0.03, "kd-35-fade": 0.03, "kd-big-35": -0.025, "kd-big": -0.025,
}  # fmt: skip


def _windows_data(results: Results) -> pd.DataFrame:
    wanted = [*(arm for arms in WINDOWS.values() for arm in arms), *MARKED]
    return frame(
        (
            (*task.panel, task.after(task.duration), arm, ARMS[arm].share, *found)
            for task in tasks(results)
            for arm, *found in speedups(task, wanted, task.duration)
        ),
        [*PANEL, "at", "arm", "x", *LIMITS],
    )


def _windows(data: pd.DataFrame) -> Figure:
    figure, axes = task_panels(data, 2.5)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        bottom, top = span(rows)
        reference(axis, 1.0)
        axis.plot(0, 1, color=GREY, marker="x", linestyle="none", markersize=5, clip_on=False)
        rows = rows.assign(x=rows["x"] + rows["arm"].map(BESIDE).fillna(0))
        for color, (teacher, arms) in zip((BLUE, ORANGE), WINDOWS.items(), strict=True):
            line = rows[rows["arm"].isin(arms) & rows["y"].notna()].sort_values("x")
            none = [(0.0, 1.0)] if teacher == "same" else []
            points = [*none, *zip(line["x"], line["y"], strict=True)]
            axis.plot(*np.array(points).reshape(-1, 2).T, color=color, linewidth=0.8, zorder=1.5)
        for row in rows.dropna(subset="y").itertuples():
            draw_interval(axis, row.x, row, LOOKS[row.arm], top)
        axis.set_ylim(bottom, top)
        axis.set_xlim(-0.03, 1.07)
        percent(axis.xaxis)
        axis.set_title(f"{axis.get_title()}: quality of ce after {rows['at'].iloc[0]}")
        axis.set_xlabel("Window X: steps with a teacher (%)")
        axis.set_ylabel(SPEEDUP)
        name_missing(axis, rows)
    names = named(data.dropna(subset="y")["arm"])
    legend(figure, names, LOOKS, columns=3, points=names)
    return figure


WINDOW_PLOT = _plot(
    id="speedup-window",
    caption=(
        f"Speed-up against the share of training in which a teacher is asked: {HOW}. The quality is the baseline's "
        "mean after the duration that is named. Lines join windows at the start of training with the same "
        f"teacher, from none (ce, 1 by definition); markers of equal share stand side by side. {SEEDS} {CUT}"
    ),
    data=_windows_data,
    draw=_windows,
)


PLOTS = {
    plot.id: plot
    for plot in (
        CURVES, BAND, SPEEDUP_TABLE, WINDOW_PLOT, TEACHER_ROWS, TEACHER_TABLE, STEPS, OVERHEAD, STEP_TABLE, BREAK_EVEN,
        VARIANT_PLOT, VARIANT_TABLE, GLUE,
    )
}  # fmt: skip
