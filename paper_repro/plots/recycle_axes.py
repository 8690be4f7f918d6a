"""What the figures of "Reduce, Reuse, Recycle" share: axes, intervals that may be open, speed-ups of several arms."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_repro.plots.recycle_cells import LOOKS, Limits, Task, limits, pair, title
from paper_repro.plots.series import PANEL, Panels, in_order, panels
from paper_repro.plots.style import Look, percent

SPEEDUP = "Speed-up over ce (times)"
QUALITY = {"accuracy": "Accuracy (%)", "loss": "Masked-LM loss (nat; lower is better)"}
SEEDS = "Intervals: 95 % over seeds."
HOW = (
    "wall-clock of the baseline (ce) to a quality over that of the arm to the same quality, teacher forward passes "
    "counted, its training not; every point of a curve is a run annealed to its own end, and nothing is extrapolated"
)
CUT = "An interval that leaves the panel goes on; one that ends in an arrow has no upper limit."


def task_panels(data: pd.DataFrame, height: float) -> tuple[Figure, Panels]:
    """One panel per task, in a row where they fit."""
    return panels(data, height, min(3, len(data[PANEL].drop_duplicates())), title=title)


def frame(rows: Iterable[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """The rows, or an empty frame where no row has a number."""
    found = pd.DataFrame(list(rows), columns=columns)
    return found if found["y"].notna().any() else found.head(0)


def quality_ticks(axis: Axis, measure: str) -> None:
    """Tick labels of a quality."""
    if measure == "accuracy":
        percent(axis)
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def name_missing(axis: Axes, rows: pd.DataFrame) -> None:
    """Say below the title which arms have no speed-up."""
    missing = in_order(rows.loc[rows["y"].isna(), "arm"], LOOKS)
    if missing:
        axis.set_title(f"{axis.get_title()}\noutside the qualities of both: {', '.join(missing)}")


def span(rows: pd.DataFrame) -> tuple[float, float]:
    """The range of speed-ups that a panel shows: all points, 1, and intervals that are not far wider than those."""
    points = [1.0, *rows["y"].dropna()]
    room = max(0.15, max(points) - min(points))
    low, high = min([*points, *rows["low"].dropna()]), max([*points, *rows["high"].dropna()])
    return max(low, min(points) - room, 0) - 0.04, min(high, max(points) + room) + 0.04


def draw_interval(axis: Axes, at: float, row: Any, look: Look, edge: float, *, upright: bool = True) -> None:
    """A marker at the height (or with ``upright`` False at the right) ``row.y`` with its interval."""
    high = edge if row.open else row.high
    line, point = (axis.vlines, (at, row.y)) if upright else (axis.hlines, (row.y, at))
    line(at, row.low, high, color=look.color, linewidth=1.1, zorder=2)
    axis.plot(*point, color=look.color, marker=look.marker, linestyle="none", markersize=5, zorder=3)
    if row.open:
        end, arrow = ((at, edge), "^") if upright else ((edge, at), ">")
        axis.plot(*end, color=look.color, marker=arrow, linestyle="none", markersize=3.5, clip_on=False)


NONE = Limits(float("nan"), float("nan"), float("nan"), 0, False)


def speedups(task: Task, arms: Iterable[str], at: float) -> Iterator[tuple[Any, ...]]:
    """Arm and ``LIMITS`` of the speed-up over the baseline, at its quality at the duration ``at``.

    ``NONE`` for an arm that was run and cannot be compared.
    """
    for arm in (name for name in arms if name in task.arms):
        both = pair(task, arm, at=at)
        found = both.speedup() if both else None
        yield arm, *(limits(found) if found else NONE)
