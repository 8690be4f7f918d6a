"""The one look of all figures: print size, colour-blind-safe, told apart in grey too, fonts embedded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column, and the page

# Okabe and Ito's palette without its yellow, which is too light on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777",
)  # fmt: skip


DASHED, DOTTED, DASH_DOT = (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5))


class Look(NamedTuple):
    """How one series is drawn, and what the legend calls it. Hollow markers are a paper's numbers, not ours."""

    label: str
    color: str
    marker: str
    line: Any = "-"  # any line style of matplotlib
    hollow: bool = False

    @property
    def face(self) -> str:
        return "white" if self.hollow else self.color


_SPARES = [Look("", color, marker) for color, marker in zip((SKY, ORANGE, GREEN, PURPLE), "hXd*", strict=True)]

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # embedded TrueType: searchable, and accepted by publishers
    "ps.fonttype": 42,
    "savefig.dpi": 200,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw with ``SETTINGS`` on top of matplotlib's own defaults, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        backend = mpl.get_backend()
        mpl.rcdefaults()
        ours: Any = {**SETTINGS, "backend": backend}
        mpl.rcParams.update(ours)
        yield


def look_of(name: str, looks: dict[str, Look], position: int = 0) -> Look:
    """The look of a series; one that ``looks`` does not know gets a spare look and its own name as label."""
    return looks.get(name) or _SPARES[position % len(_SPARES)]._replace(label=name)


def short(number: float) -> str:
    """A count as labels have room for it: 500, 10k, 2m, 1b."""
    units = (("b", 1e9), ("m", 1e6), ("k", 1e3), ("", 1))
    name, unit = next(((name, unit) for name, unit in units if number >= unit), units[-1])
    return f"{number / unit:.3g}{name}"


def counts(axis: Axis) -> None:
    """Tick labels of a logarithmic axis, at powers of ten only, as ``short``."""
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def one_two_five(axis: Axis) -> None:
    """Tick labels of a logarithmic axis at 1, 2, 5, 10 and so on."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def percent(axis: Axis, most: int = 6) -> None:
    """Tick labels in percent for data that are fractions; the axis label has to name the unit."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}".replace("-", "\N{MINUS SIGN}"))
    )
