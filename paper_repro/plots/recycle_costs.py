"""Figures of "Reduce, Reuse, Recycle" on what a teacher costs: step times, predicted against measured, break-even."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from paper_repro import stats
from paper_repro.plots.recycle_axes import task_panels
from paper_repro.plots.recycle_cells import ARMS, BASELINE, LOOKS, Task, named, pair, tasks, teachers, timed, title
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    draw_lines,
    in_order,
    label_axes,
    legend,
    of_panel,
    panels,
    reference,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import (
    BLACK,
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    Look,
    counts,
    look_of,
    one_two_five,
)

KINDS = {
    "full": Look("one teacher at every step", BLACK, "s"),
    "window": Look("one in the first quarter", GREEN, "^"),
    "sampled": Look("one of n, drawn at each step", BLUE, "o"),
    "ensemble": Look("mean of n", ORANGE, "D", DASHED),
}
NAMES = {
    "resnet50": "ResNet-50", "resnet101": "ResNet-101", "bert-base-mlm": "BERT-Base", "bert-large-mlm": "BERT-Large",
}  # fmt: skip
PREDICTED: dict[str, Any] = {"color": BLACK, "linewidth": 0.9, "linestyle": (0, (1, 2.5))}
SAME_COST = ("kd-mse", "kd-reversed", "kd-positions", "kd-half-fade", "kd-35-fade")  # as kd or its window: not drawn
WITHIN = 0.05  # of the prediction: what the project asks of compute-bound steps


def _plot(**fields: Any) -> Plot:
    given = {"paper": "recycle", "script": "paper_repro/plots/recycle_costs.py", "methods": None}
    return Plot(**{**given, **fields})


def pair_title(pair: str, device: str) -> str:
    """A pair of architectures and where it was timed."""
    student, _, teacher = (NAMES.get(name, name) for name in pair.partition("|"))
    return f"{student} taught by {teacher}, {device}"


def _limits(row: Any, name: str) -> tuple[float, float, float]:
    """A metric of a timing record with its limits; NaN where it has none."""
    return row.get(name, np.nan), row.get(f"{name}/low", np.nan), row.get(f"{name}/high", np.nan)


def _measured(results: Results) -> Iterator[tuple[str, str, str, float, pd.Series]]:
    """Each competitor of each timing record: device, pair, kind, its n (or share), and the record's metrics."""
    for _, row in timed(results).iterrows():
        for name in (str(key).removeprefix("overhead/") for key in row.dropna().index if "overhead/" in str(key)):
            kind, _, number = name.partition("-")
            if kind in KINDS and "/" not in name:
                yield row["device"], row["pair"], kind, float(number or 1), row


# ---------------------------------------------------------------------------------------------------------------------
# Time of a step against the number of teachers


def _steps_data(results: Results) -> pd.DataFrame:
    """Time of a step over that without a teacher, by number of teachers, and what c_t / c_b predicts of it."""
    found = []
    for device, models, kind, n, row in _measured(results):
        ratio = row.get("cost_ratio", np.nan)
        for series in ("sampled", "ensemble") if kind == "full" else (kind,):  # one of one, and the mean of one
            if series in ("sampled", "ensemble"):
                name = kind if kind == "full" else f"{kind}-{n:g}"
                predicted = 1 + (n if series == "ensemble" else 1) * ratio
                found.append((models, device, series, n, *_limits(row, f"overhead/{name}"), predicted))
    data = pd.DataFrame(found, columns=[*PANEL, "series", "x", "y", "low", "high", "predicted"])
    return data.sort_values([*PANEL, "series", "x"], ignore_index=True)


def _steps(data: pd.DataFrame) -> Figure:
    columns = min(3, len(data[PANEL].drop_duplicates()))
    figure, axes = panels(
        data, 2.0, columns, title=lambda pair, device: pair_title(pair, device).replace(" by", "\nby")
    )
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        for kind in in_order(rows["series"], KINDS):
            line = rows[rows["series"] == kind]
            axis.plot(line["x"], line["predicted"], **PREDICTED, zorder=4)
        draw_lines(axis, rows, KINDS, every=1)
        reference(axis, 1.0, "without a teacher")
        axis.set_ylim(0, 1.06 * rows[["y", "high", "predicted"]].max().max())
        axis.set_xticks(sorted(rows["x"].unique()))
    label_axes(figure, "Teachers in the pool, n (count)", "Time of a step (over\nthat without a teacher)")
    legend(figure, data["series"], KINDS, Line2D([], [], label="1 + m c_t / c_b", **PREDICTED))
    return figure


STEPS = _plot(
    id="steps",
    experiments=("timing",),
    caption=(
        "Time of a training step against the number of teachers, over that of a step without any: one of n drawn at "
        "each step, and the mean of the logits of all n. Random weights and synthetic input that lies on the device, "
        "interleaved in one process; medians over rounds, bands 95 %. Black dots: predicted from c_t, a teacher's "
        "forward pass, and c_b, a step without, both timed alone; m is 1 or n."
    ),
    data=_steps_data,
    draw=_steps,
)


# ---------------------------------------------------------------------------------------------------------------------
# Predicted against measured overhead

POINT = [*PANEL, "series", "of", "x", "x_low", "x_high", "y", "low", "high", "n", "parts"]


def _overhead_data(results: Results) -> pd.DataFrame:
    found: list[tuple[Any, ...]] = []
    for device, models, kind, n, row in _measured(results):
        name = kind if kind == "full" else f"{kind}-{n:g}"
        predicted, measured = (_limits(row, f"{what}/{name}") for what in ("predicted", "overhead"))
        found.append(("synthetic", device, kind, f"{models} {name}", *predicted, *measured, np.nan, "timed alone"))
    for task in tasks(results):
        found += _end_to_end(task, results)
    return pd.DataFrame(found, columns=POINT).dropna(subset=["x", "y"])


def _end_to_end(task: Task, results: Results) -> Iterator[tuple[Any, ...]]:
    """Each arm's seconds over the baseline's at equal durations, and 1 + X m c_t / c_b.

    c_t / c_b is that of the same two architectures in the timing records of a device, else what the runs' own clocks
    say: the time spent in teachers over the baseline's.
    """
    totals = ["seconds", "teacher_seconds", "teacher_passes", "steps"]
    known, ratios = teachers(results), timed(results).reindex(columns=["pair", "cost_ratio"])
    known = known[known["dataset"] == task.dataset]
    architecture = dict(zip(known["teacher"], known["architecture"], strict=True))
    for arm in (name for name in task.arms if name in ARMS and ARMS[name].share > 0 and name not in SAME_COST):
        shared = task.of(arm).merge(task.of(BASELINE), on=["seed", "duration"], suffixes=("", "_base"))
        sums = shared.groupby("seed")[[*totals, "seconds_base"]].sum(min_count=1)
        if sums.empty:
            continue
        models = f"{task.model}|{architecture.get(ARMS[arm].teacher, '')}"
        alone = ratios.loc[ratios["pair"] == models, "cost_ratio"].dropna()
        asked = (sums["teacher_passes"] / sums["steps"]).mean()
        if len(alone) == 1:
            x, parts = 1 + asked * float(alone.iloc[0]), "timed alone"
        else:
            x, parts = 1 + (sums["teacher_seconds"] / sums["seconds_base"]).mean(), "the runs' own clocks"
        measured = stats.mean_interval((sums["seconds"] / sums["seconds_base"]).to_numpy())
        yield *task.panel, arm, models, x, np.nan, np.nan, *measured, parts


def _overhead(data: pd.DataFrame) -> Figure:
    columns = min(3, len(data[PANEL].drop_duplicates()))

    def named_panel(dataset: str, model: str) -> str:
        return f"steps, {model}" if dataset == "synthetic" else f"runs, {title(dataset)}"

    figure, axes = panels(data, 2.6, columns, title=named_panel)
    looks = {**KINDS, **LOOKS}
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        low, high = 0.95 * rows[["x", "y"]].min().min(), 1.04 * rows[["x", "y"]].max().max()
        _identity(axis, low, high)
        for name in in_order(rows["series"], looks):
            points, look = rows[rows["series"] == name], look_of(name, looks)
            axis.vlines(points["x"], points["low"], points["high"], color=look.color, linewidth=1)
            axis.hlines(points["y"], points["x_low"], points["x_high"], color=look.color, linewidth=1)
            axis.plot(points["x"], points["y"], color=look.color, marker=look.marker, linestyle="none", markersize=4.5)
        for side, limit in ((axis.xaxis, axis.set_xlim), (axis.yaxis, axis.set_ylim)):
            limit(low, high)
            side.set_major_locator(MaxNLocator(5))
    label_axes(figure, "Predicted, 1 + X m c_t / c_b (ratio)", "Measured (ratio)")
    names = named(data["series"])
    legend(figure, names, looks, columns=3, points=names)
    return figure


def _identity(axis: Axes, low: float, high: float) -> None:
    ends = np.array([low, high])
    axis.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
    axis.fill_between(ends, ends * (1 - WITHIN), ends * (1 + WITHIN), color="#EEEEEE", linewidth=0, zorder=0)


OVERHEAD = _plot(
    id="overhead",
    experiments=("timing", "student", "teacher"),
    caption=(
        "Time with a teacher over time without: measured against 1 + X m c_t / c_b, X being the share of steps that "
        "ask, m how many teachers a step asks, c_t a teacher's forward pass and c_b a step without. Steps: all timed "
        "pairs of architectures. Runs: whole ones of equal duration, data loading included, where c_t "
        "and c_b are those of the same architectures timed alone, or, where these were not timed, of the runs' own "
        "clocks. Grey: within 5 %. Intervals: 95 %, over rounds for steps and over seeds for runs."
    ),
    data=_overhead_data,
    draw=_overhead,
)


# ---------------------------------------------------------------------------------------------------------------------
# Break-even

GIVEN = "/labels"  # appended to an arm whose teacher is there already, so that only its cache is charged
PAYING = ("kd", "kd-half", "kd-50", "kd-35", "kd-big", "kd-cached", f"kd-cached{GIVEN}")
BREAK_LOOKS = {
    **LOOKS, f"kd-cached{GIVEN}": Look("the same, teacher given: only its labels are paid", VERMILION, "d", DOTTED)
}  # fmt: skip
MOST = 10_000  # students that the figure reaches to


def _break_even_data(results: Results) -> pd.DataFrame:
    """Per arm: seconds of a student without and with it to the quality asked for, what is charged once, break-even."""
    found = []
    for task in tasks(results):
        for series in PAYING:
            arm = series.removesuffix(GIVEN)
            both = pair(task, arm)
            if both is None or both.speedup() is None:
                continue
            parts = ["labelling_seconds"] if series != arm else ["labelling_seconds", "teacher_training_seconds"]
            charged = float(task.of(arm, task.duration)[parts].sum(axis=1).mean())
            if charged > 0:
                even = both.break_even(charged)
                without, with_ = both.baseline.seconds_to(both.at), both.method.seconds_to(both.at)
                found.append((*task.panel, series, without, with_, charged, even if np.isfinite(even) else np.nan))
    return pd.DataFrame(found, columns=[*PANEL, "series", "baseline_s", "method_s", "charged_s", "break_even"])


def _break_even(data: pd.DataFrame) -> Figure:
    figure, axes = task_panels(data, 2.7)
    students = np.geomspace(1, MOST, 200)
    for panel, axis in axes.items():
        rows = of_panel(data, panel).set_index("series")
        reference(axis, 1.0)
        ends = []
        for position, name in enumerate(in_order(rows.index, BREAK_LOOKS)):
            row, look = rows.loc[name], look_of(name, BREAK_LOOKS)
            ratio = (row["charged_s"] / students + row["method_s"]) / row["baseline_s"]
            axis.plot(
                students, ratio, color=look.color, linestyle=look.line, marker=look.marker,
                markevery=(6 * position, 40), zorder=2.5,
            )  # fmt: skip
            even = row["break_even"]
            ends.append(f"{name.replace(GIVEN, ', labels only')}: {_count(even)}")
            if 1 <= even <= MOST:
                axis.plot(even, 1, color=look.color, marker="o", markersize=8, markerfacecolor="none", zorder=4)
        axis.annotate(
            "pays from this many students\n" + "\n".join(ends), (0.98, 0.97), xycoords="axes fraction", fontsize=6.5,
            ha="right", va="top",
        )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        one_two_five(axis.yaxis)
        counts(axis.xaxis)
        axis.set_xlim(1, MOST)
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])
        axis.set_xlabel("Students that share the teacher (count)")
        axis.set_ylabel("Time with teacher over\ntime without (ratio, log scale)")
    legend(figure, named(data["series"]), BREAK_LOOKS, columns=2)
    return figure


def _count(even: float) -> str:
    """A break-even as text: students come whole."""
    return "never" if np.isnan(even) else f"{max(1, int(np.ceil(even - 1e-9))):,}"


BREAK_EVEN = _plot(
    id="break-even",
    experiments=("student",),
    caption=(
        "When a teacher has paid for itself: time that r students with a teacher take to the baseline's quality at the "
        "duration that the ledger names, training the teacher and labelling the training set charged, over that of r "
        "students without. Circles: where the two are equal. Point estimates; the speed-ups have their intervals in "
        "the other figures."
    ),
    data=_break_even_data,
    draw=_break_even,
)
