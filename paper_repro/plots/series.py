"""Shared by all papers' figures: means with intervals over seeds, small multiples, lines with bands."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats as distributions

from paper_repro import stats
from paper_repro.plots.style import COLUMN, GREY, PAGE, Look, look_of

PANEL = ["dataset", "model"]  # one panel for each student on each data set
Panels = dict[tuple[str, str], Axes]


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


def panels(
    data: pd.DataFrame, height: float = 2.0, columns: int | None = None, share_y: bool = False
) -> tuple[Figure, Panels]:
    """A figure with one titled panel per data set and model, in natural order; ``height`` of a row in inches."""
    wanted = panel_names(data)
    columns = columns or (1 if len(wanted) == 1 else 2 if len(wanted) <= 4 else 3)
    rows = -(-len(wanted) // columns)
    figure = Figure(figsize=(COLUMN if columns == 1 else PAGE, rows * height + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for axis in axes.flat[len(wanted) :]:
        axis.remove()
    found = dict(zip(wanted, axes.flat, strict=False))
    for (dataset, model), axis in found.items():
        axis.set_title(f"{dataset}, {model}")
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
            rows["x"], rows["y"], color=look.color, linestyle=look.line, marker=look.marker, markevery=marked, zorder=3
        )  # fmt: skip
        axis.fill_between(rows["x"], rows["low"], rows["high"], color=look.color, alpha=0.18, linewidth=0, zorder=2)


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
        handles.append(Line2D([], [], color=look.color, linestyle=line, marker=look.marker, label=look.label))
    columns = columns if figure.get_figwidth() > COLUMN else 2
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=columns, handlelength=3.2)


def reference(axis: Axes, value: float, text: str = "", at: float = 0.99) -> None:
    """A thin grey line across the panel, its name on it ending at ``at`` (0 to 1)."""
    axis.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    axis.annotate(text, (at, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                  color="#555555", fontsize=6.5, ha="right")  # fmt: skip
