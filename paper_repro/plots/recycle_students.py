"""Figures of "Reduce, Reuse, Recycle" on what students learn: from which teacher, and how."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    BASELINE,
    LIMITS,
    TAUGHT,
    WHOLE,
    Task,
    difference_claims,
    limits,
    pair,
    tasks,
    teachers,
    teaching_duration,
    title,
)
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    draw_forest,
    legend,
    of_panel,
    panel_names,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import BLUE, GREY, PAGE, Look, percent


def _plot(**fields: Any) -> Plot:
    given = {
        "paper": "recycle",
        "script": "paper_repro/plots/recycle_students.py",
        "experiments": ("student",),
        "methods": None,
    }
    return Plot(**{**given, **fields})


# ---------------------------------------------------------------------------------------------------------------------
# Teachers of different quality

POOLS = {"kd-sampled": "one of four, drawn", "kd-ensemble": "mean of four"}
PARTS = {
    "teacher": Look("the teacher itself", GREY, "*"),
    "student": Look("its student", BLUE, "s"),
    "speedup": Look("speed-up of its student", BLUE, "s"),
}


def _teachers_data(results: Results) -> pd.DataFrame:
    known = teachers(results)
    found = [
        (*task.panel, task.measure, *row)
        for task in tasks(results)
        for row in _of_task(task, known[known["dataset"] == task.dataset])
    ]
    data = frame(found, [*PANEL, "measure", "at", "row", "arm", "series", *LIMITS])
    return data if (data["series"] == "teacher").any() else data.head(0)


def _of_task(task: Task, known: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Duration, row, arm, series and ``LIMITS``: teachers from the poorest, their students, these students' gain."""
    arms = {arm: POOLS.get(arm, "none") for arm in (BASELINE, *POOLS)}
    best_last = known.sort_values(task.measure, ascending=task.measure != "loss")
    rows = {row.teacher: f"{row.teacher} ({row.architecture})" for row in best_last.itertuples()}
    for arm, teacher in TAUGHT.items():
        if teacher in rows:
            arms[arm] = f"{teacher}, cached" if arm == "kd-cached" else rows[teacher]
    at = teaching_duration(task)
    after = task.after(at)
    for row in best_last.itertuples():
        yield after, rows[row.teacher], "", "teacher", *NONE._replace(y=getattr(row, task.measure), n=1)
    for arm, name in arms.items():
        qualities = task.of(arm, at)[task.measure]
        if len(qualities):
            yield after, name, arm, "student", *limits(stats.mean_interval(qualities.to_numpy()))
    for arm, *found in speedups(task, (arm for arm in arms if arm != BASELINE), at):
        both = pair(task, arm, at=at) if np.isnan(found[0]) else None
        limit = both.at_most() if both else None
        if limit is None:
            yield after, arms[arm], arm, "speedup", *found
        else:
            yield after, arms[arm], arm, "limit", *limits(limit)._replace(low=float("nan"))


def _rows_of(rows: pd.DataFrame) -> list[str]:
    """Rows from the poorest teacher to the best (the order of the data), with what has no single one at the ends."""
    own = list(rows.loc[rows["series"] == "teacher", "row"])
    cached = [row for row in rows["row"].unique() if row.endswith(", cached")]
    pools = [row for row in POOLS.values() if row in set(rows["row"])]
    return [row for row in ("none", *own, *cached, *pools) if row in set(rows["row"])]


def _teacher_rows(data: pd.DataFrame) -> Figure:
    names = panel_names(data)
    lines = {panel: _rows_of(of_panel(data, panel)) for panel in names}
    heights = [len(lines[panel]) + 3.5 for panel in names]
    figure = Figure(figsize=(PAGE, 0.2 * sum(heights) + 0.3))
    grid = figure.subplots(len(names), 2, squeeze=False, height_ratios=heights)
    for panel, (left, right) in zip(names, grid, strict=True):
        rows, labels = of_panel(data, panel), lines[panel]
        measure = rows["measure"].iloc[0]
        bottom, top = span(rows[rows["series"] == "speedup"])
        for row in rows.dropna(subset="y").itertuples():
            height = len(labels) - 1 - labels.index(row.row)
            if row.series == "limit":
                shown = max(row.high, bottom + 0.02 * (top - bottom))
                right.plot(shown, height, marker="<", color=BLUE, markerfacecolor="white", markersize=5, zorder=3)
                right.annotate(f"below {row.high:.2f}", (shown, height), xytext=(6, 0), textcoords="offset points",
                               fontsize=6.5, va="center")  # fmt: skip
                continue
            axis = right if row.series == "speedup" else left
            draw_interval(axis, height, row, PARTS[row.series], top, upright=False)
        for axis in (left, right):
            axis.set_ylim(-0.7, len(labels) - 0.3)
            axis.set_yticks(range(len(labels)), labels[::-1] if axis is left else [""] * len(labels))
            axis.tick_params(axis="y", length=0)
        right.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        right.set_xlim(bottom, top)
        quality_ticks(left.xaxis, measure)
        left.set_xlabel(QUALITY[measure])
        right.set_xlabel(SPEEDUP)
        left.set_title(f"{title(*panel)}: students after {rows['at'].iloc[0]}")
        right.set_title(f"{title(*panel)}: to the quality of ce after {rows['at'].iloc[0]}")
        name_missing(right, rows[rows["series"] == "speedup"])
    legend(figure, ["teacher", "student"], PARTS, points=PARTS)
    return figure


TEACHER_ROWS = _plot(
    id="teachers",
    experiments=("student", "teacher"),
    caption=(
        "What the quality of the teacher does, from the poorest to the best: its own quality and that of its student "
        f"(left), and the speed-up of that student (right), {HOW}. The teacher is asked at every step, or its logits "
        f"are read from a cache. A hollow arrow: the student never comes to that quality, so its speed-up is below the "
        f"upper limit that is named. A teacher is one run. {SEEDS} {CUT}"
    ),
    data=_teachers_data,
    draw=_teacher_rows,
)


# ---------------------------------------------------------------------------------------------------------------------
# Variants at equal steps

VARIANTS = (
    "ce", "ce-aug", "smooth", "kd-mse", "kd-reversed", "kd-positions", "kd-every2", "kd-20", "kd-quarter", "kd-35",
    "kd-35-fade", "kd-half", "kd-50", "kd-half-fade", "kd-worst", "kd-wide", "kd-big", "kd-big-35", "kd-cached",
    "kd-sampled", "kd-ensemble",
)  # fmt: skip


def _variants_data(results: Results) -> pd.DataFrame:
    """Quality of each arm minus that of kd at the duration that the ledger names, paired by seed."""
    found = []
    for task in tasks(results):
        at, claims = task.duration, difference_claims(task)
        base = task.of(WHOLE, at).set_index("seed")["quality"]
        for arm in VARIANTS:
            difference = (task.of(arm, at).set_index("seed")["quality"] - base).dropna()
            if len(difference):
                methods = f"{arm}@{at:g}", f"{WHOLE}@{at:g}"
                judged = [*claims.get(methods, []), *claims.get(methods[::-1], [])]
                effect = judged[0].smallest_effect if judged else np.nan
                interval = stats.mean_interval(difference.to_numpy())
                found.append((*task.panel, task.measure, task.after(at), arm, *interval, effect))
    columns = [*PANEL, "measure", "at", "row", "mean", "low", "high", "n", "smallest_effect"]
    return pd.DataFrame(found, columns=columns)


FOREST = {
    "clear": Look("excludes zero", BLUE, "s"),
    "open": Look("includes zero", BLUE, "s", hollow=True),
}


def _variants(data: pd.DataFrame) -> Figure:
    most = data.groupby(PANEL)["row"].size().max()
    figure, axes = task_panels(data, 0.19 * most + 0.9)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        limit = 1.15 * np.nanmax(np.abs(rows[["mean", "low", "high", "smallest_effect"]].to_numpy()))
        names = [name for name in VARIANTS if name in set(rows["row"])]
        axis.set_title(f"{axis.get_title()}: after {rows['at'].iloc[0]}")
        draw_forest(axis, rows.set_index("row"), names, max(limit, 1e-9))
        if rows["measure"].iloc[0] == "accuracy":
            axis.set_xlabel("Better than kd by (points of accuracy)")
            percent(axis.xaxis, 5)
        else:
            axis.set_xlabel("Better than kd by (nat of loss)")
            axis.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, FOREST, FOREST, points=FOREST)
    return figure


VARIANT_PLOT = _plot(
    id="variants",
    caption=(
        "Variants at equal steps: test quality minus that of distillation at every step from one teacher of the "
        "student's architecture (kd), paired by seed; right of zero is better. "
        "mse: squared distance of logits; reversed: KL divergence as the authors' code calls it; positions: softmax "
        "over positions in place of the vocabulary; every2: every second step; a number, half or quarter: only so "
        "much of the start, with fade: without a jump of the loss's scale at its end; worst, wide, big: other "
        "teachers; cached: the big one's logits on clean images; sampled, ensemble: one of four drawn at each step, "
        "the mean of four. A filled marker: the 95 % interval excludes zero; at the right, the number of seeds. Grey "
        "band: less than the ledger's smallest effect of interest, where it has a claim."
    ),
    data=_variants_data,
    draw=_variants,
)
