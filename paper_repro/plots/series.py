"""Shared by all papers' figures: means with intervals over seeds, small multiples, lines with bands."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats as distributions

from paper_repro import stats
from paper_repro.plots.style import BLACK, BLUE, COLUMN, GREY, PAGE, Look, look_of

PANEL = ["dataset", "model"]  # one panel for each student on each data set
PICKED = ["model", "method", "metric"]
Panels = dict[tuple[str, str], Axes]


class Pick(NamedTuple):
    """A number that every seed of some students has."""

    model: str
    method: str
    metric: str = "accuracy"


def bands(samples: pd.DataFrame, names: Mapping[str, str], minus: str | None = None) -> pd.DataFrame:
    """Mean curves over seeds with pointwise 95 % Student-t limits.

    ``names`` maps a stored curve to what to append to the method to name its series. With ``minus``, curves are
    differences to that method at the same seed and point. Columns: dataset, model, series, index, y, low, high, n.
    """
    cell = [*PANEL, "seed", "index"]
    found = []
    for name, suffix in names.items():
        rows = samples[samples["name"] == name]
        if minus is not None:
            base = rows[rows["method"] == minus].set_index(cell)["value"].rename("base")
            rows = rows[rows["method"] != minus].join(base, on=cell, how="inner")
            rows = rows.assign(value=rows["value"] - rows["base"])
        found.append(rows.assign(series=rows["method"] + suffix))
    rows = pd.concat(found)
    grouped = rows.groupby([*PANEL, "series", "index"])["value"].agg(["mean", "std", "count"]).reset_index()
    half = distributions.t.ppf(0.975, grouped["count"] - 1) * grouped["std"] / np.sqrt(grouped["count"])
    grouped = grouped.assign(y=grouped["mean"], low=grouped["mean"] - half, high=grouped["mean"] + half)
    return grouped.rename(columns={"count": "n"})[[*PANEL, "series", "index", "y", "low", "high", "n"]]


def with_x(curves: pd.DataFrame, samples: pd.DataFrame, name: str) -> pd.DataFrame:
    """Add the x of a curve, a stored series that is the same for all seeds of a panel; drop the index."""
    rows = samples[samples["name"] == name]
    x = rows.groupby([*PANEL, "index"])["value"].mean().rename("x").reset_index()
    joined = curves.merge(x, on=[*PANEL, "index"]).drop(columns="index")
    return joined[[*PANEL, "series", "x", "y", "low", "high", "n"]]


def intervals(metrics: pd.DataFrame, names: Iterable[str], split: str = "test") -> pd.DataFrame:
    """Means over seeds with the intervals that verdicts use.

    Columns: dataset, model, method, metric, mean, low, high, n.
    """
    rows = metrics[metrics["metric"].isin(list(names)) & (metrics["split"] == split)].dropna(subset="value")
    found = []
    for (dataset, model, method, metric), group in rows.groupby([*PANEL, "method", "metric"]):
        found.append((dataset, model, method, metric, *stats.mean_interval(group["value"].to_numpy())))
    return pd.DataFrame(found, columns=[*PANEL, "method", "metric", "mean", "low", "high", "n"])


def pick(metrics: pd.DataFrame, wanted: Mapping[tuple[str, Any], Pick], at: str = "x", panel: str = "") -> pd.DataFrame:
    """What ``wanted`` maps a series and a place in it to, on every data set: means over seeds with their intervals.

    Columns: dataset, model (which is ``panel``), series, the place (called ``at``), y, low, high, n.
    """
    cells = pd.DataFrame([(*place, *cell) for place, cell in wanted.items()], columns=["series", at, *PICKED])
    rows = cells.merge(metrics[metrics["split"] == "test"].dropna(subset="value"), on=PICKED)
    found = [
        (dataset, panel, series, place, *stats.mean_interval(group["value"].to_numpy()))
        for (dataset, series, place), group in rows.groupby(["dataset", "series", at], sort=False)
    ]
    return pd.DataFrame(found, columns=[*PANEL, "series", at, "y", "low", "high", "n"])


def panels(
    data: pd.DataFrame, height: float = 2.0, columns: int | None = None, share_y: bool = False,
    title: Callable[[str, str], str] = "{}, {}".format, widths: Sequence[float] | None = None,
) -> tuple[Figure, Panels]:  # fmt: skip
    """A figure with one titled panel per data set and model, in natural order; ``height`` of a row in inches.

    ``widths``: of the columns, relative to each other.
    """
    wanted = panel_names(data)
    columns = columns or (1 if len(wanted) == 1 else 2 if len(wanted) <= 4 else 3)
    rows = -(-len(wanted) // columns)
    figure = Figure(figsize=(COLUMN if columns == 1 else PAGE, rows * height + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y, width_ratios=widths)
    for axis in axes.flat[len(wanted) :]:
        axis.remove()
    found = dict(zip(wanted, axes.flat, strict=False))
    for (dataset, model), axis in found.items():
        axis.set_title(title(dataset, model))
    return figure, found


def panel_names(data: pd.DataFrame) -> list[tuple[str, str]]:
    """The (dataset, model) pairs of a frame, numbers in names in order of size."""

    def natural(pair: tuple[str, str]) -> list[Any]:
        return [[int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)] for name in pair]

    return sorted({(str(d), str(m)) for d, m in data[PANEL].itertuples(index=False)}, key=natural)


def of_panel(data: pd.DataFrame, panel: tuple[str, str]) -> pd.DataFrame:
    """The rows of one panel."""
    return data[(data["dataset"] == panel[0]) & (data["model"] == panel[1])]


def draw_lines(axis: Axes, data: pd.DataFrame, looks: dict[str, Look], every: int = 4) -> None:
    """Each series of ``data`` (columns series, x, y, low, high) as a line with a band, in the order of ``looks``.

    ``every``: a marker at every so many points; 0 for none.
    """
    names = in_order(data["series"], looks)
    for position, name in enumerate(names):
        rows, look = data[data["series"] == name], look_of(name, looks, position)
        # Markers of different series at different points, so that none hides another
        marked: Any = slice(position * every // len(names), None, every) if every else []
        axis.plot(
            rows["x"], rows["y"], color=look.color, linestyle=look.line, marker=look.marker, markevery=marked,
            markerfacecolor=look.face, zorder=3,
        )  # fmt: skip
        axis.fill_between(rows["x"], rows["low"], rows["high"], color=look.color, alpha=0.18, linewidth=0, zorder=2)


def draw_dots(axis: Axes, data: pd.DataFrame, looks: dict[str, Look], rows: Sequence[str], apart: float = 0.0) -> None:
    """Markers with intervals, one line of the panel for each name of ``rows``, the first on top.

    ``data`` has columns series, row, and along the horizontal axis y, low, high. With ``apart`` every series of
    ``looks`` has its own height on a line.
    """
    order = list(looks)
    for position, name in enumerate(in_order(data["series"], looks)):
        chosen, look = data[data["series"] == name], look_of(name, looks, position)
        place = order.index(name) if name in looks else position
        heights = len(rows) - 1 - chosen["row"].map(list(rows).index) + apart * ((len(order) - 1) / 2 - place)
        axis.hlines(heights, chosen["low"], chosen["high"], color=look.color, linewidth=1.2)
        axis.plot(
            chosen["y"], heights, color=look.color, linestyle="none", marker=look.marker, markerfacecolor=look.face,
            zorder=3 - look.hollow,
        )  # fmt: skip
    if apart:
        for line in range(len(rows) % 2, len(rows), 2):
            axis.axhspan(line - 0.5, line + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
    _name_rows(axis, rows)
    axis.set_ylim(-0.7, len(rows) - 0.3)


def draw_points(axis: Axes, data: pd.DataFrame, look: Look, joined: bool = True) -> None:
    """The points of one series (columns x, y, low, high) with their intervals, in order of x, joined or not."""
    data = data.sort_values("x")
    axis.vlines(data["x"], data["low"], data["high"], color=look.color, linewidth=1.1, zorder=2)
    axis.plot(
        data["x"], data["y"], color=look.color, linestyle=look.line if joined else "none", marker=look.marker,
        markerfacecolor=look.face, markersize=4.5, linewidth=0.9, zorder=3,
    )  # fmt: skip


def draw_forest(axis: Axes, data: pd.DataFrame, rows: Sequence[str], limit: float) -> None:
    """Differences with intervals, one line of the panel for each of ``rows``; filled where the interval excludes zero.

    ``data``, by row: mean, low, high, n, smallest_effect (a grey band) and perhaps paper, a paper's own difference.
    The panel spans ``limit`` to both sides, and some room for the number of seeds; an arrow stands for what is beyond.
    """
    axis.axvline(0, color=BLACK, linewidth=0.7)
    for height, label in enumerate(reversed(rows)):
        if label not in data.index:
            continue
        row = data.loc[label]
        if row["smallest_effect"] > 0:
            axis.fill_betweenx([height - 0.4, height + 0.4], -row["smallest_effect"], row["smallest_effect"],
                               color="#DDDDDD", linewidth=0)  # fmt: skip
        clear = row["low"] > 0 or row["high"] < 0
        low, high = np.clip([row["low"], row["high"]], -limit, limit)
        axis.plot([low, high], [height, height], color=BLUE, linewidth=1.2)
        marker = "s" if abs(row["mean"]) <= limit else ">" if row["mean"] > 0 else "<"
        shown = min(max(row["mean"], -0.94 * limit), 0.94 * limit) if marker != "s" else row["mean"]
        axis.plot(shown, height, marker=marker, color=BLUE, markerfacecolor=BLUE if clear else "white")
        if pd.notna(row.get("paper")):
            axis.plot(row["paper"], height, marker="D", color=GREY, markerfacecolor="white", markersize=4.5, zorder=1.9)
        axis.annotate(f"{row['n']:.0f}", (1, height), xycoords=("axes fraction", "data"), xytext=(-1, 0),
                      textcoords="offset points", fontsize=6, color="#555555", ha="right", va="center")  # fmt: skip
    _name_rows(axis, rows)
    axis.set_xlim(-limit, limit * 1.3)


def _name_rows(axis: Axes, rows: Sequence[str]) -> None:
    axis.set_yticks(range(len(rows)), rows[::-1])
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def label_axes(figure: Figure, x: str, y: str) -> None:
    """Name both axes with their units, on every panel, as panels are read alone."""
    for axis in figure.axes:
        axis.set_xlabel(x)
        axis.set_ylabel(y)


def in_order(names: Iterable[str], looks: dict[str, Look]) -> list[str]:
    """Distinct names in the order of ``looks``; unknown ones last."""
    order = list(looks)
    return sorted(set(names), key=lambda name: (order.index(name) if name in looks else len(order), name))


def legend(
    figure: Figure, names: Iterable[str], looks: dict[str, Look], *more: Line2D, columns: int = 4,
    points: Iterable[str] = (),
) -> None:  # fmt: skip
    """One legend for all panels, below them; ``points`` are the series that have no line."""
    handles = []
    for position, name in enumerate(in_order(names, looks)):
        look = look_of(name, looks, position)
        line: Any = "none" if name in points else look.line
        handles.append(
            Line2D(
                [],
                [],
                color=look.color,
                linestyle=line,
                marker=look.marker,
                markerfacecolor=look.face,
                label=look.label,
            )
        )
    if figure.get_figwidth() <= COLUMN:  # two long labels side by side would be cut off
        columns = 2 if max(len(str(handle.get_label())) for handle in [*handles, *more]) <= 24 else 1
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=columns, handlelength=3.2)


def reference(axis: Axes, value: float, text: str = "", at: float = 0.99) -> None:
    """A thin grey line across the panel, its name on it ending at ``at`` (0 to 1)."""
    axis.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    axis.annotate(text, (at, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                  color="#555555", fontsize=6.5, ha="right")  # fmt: skip
