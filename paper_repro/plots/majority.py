"""Figures of "Majority Kernels" (arXiv 2402.05033v2): is there a gain, where, and what for. Costs, tables and the
explanation in words are in ``majority_costs``, ``majority_tables`` and ``majority_explanation``.

Of the paper only the abstract could be read, so these are not shapes of its figures. One panel per model and data set.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from paper_repro.plots.majority_cells import (
    BASELINE,
    GAIN,
    NOISE,
    RUNNING,
    smallest_effect,
    tasks,
    title,
)
from paper_repro.plots.majority_costs import COMPUTE, OVERHEAD
from paper_repro.plots.majority_tables import ACCURACY_TABLE, RATES_TABLE, STEP_TABLE
from paper_repro.plots.majority_traces import LAYERS, TRACES
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    draw_forest,
    draw_points,
    legend,
    of_panel,
    panel_names,
    panels,
    reference,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import BLUE, COLUMN, DASH_DOT, DASHED, GREEN, ORANGE, PAGE, Look, percent, short

DIFFERENCE = "Difference (points)"
INTERVALS = "Intervals: 95 % over repetitions, which are paired."
GREY_BAND = "Grey: less than the ledger's smallest effect of interest, where it has a claim."
ACCURACY = "Accuracies are of the folded model on the test set, batch norms re-estimated."


def _plot(**fields: Any) -> Plot:
    given = {
        "paper": "majority", "script": "paper_repro/plots/majority.py", "experiments": ("student",), "methods": None,
    }  # fmt: skip
    return Plot(**{**given, **fields})


def _zero(axis: Axes, effect: float) -> None:
    """No difference, and what is too small to matter."""
    reference(axis, 0.0)
    if effect > 0:
        axis.axhspan(-effect, effect, color="#EEEEEE", linewidth=0, zorder=0)


# ---------------------------------------------------------------------------------------------------------------------
# How many copies

KS = {"mk1": 1, "mk2": 2, "mk3": 3, "mk4": 4, "mk8": 8}


def _gap_k_data(results: Results) -> pd.DataFrame:
    found = [
        (*task.panel, k, *gap, smallest_effect(results.tier, GAIN, task.panel))
        for task in tasks(results)
        for arm, k in KS.items()
        if (gap := task.gap(arm, BASELINE)) is not None
    ]
    return pd.DataFrame(found, columns=[*PANEL, "x", "y", "low", "high", "n", "smallest_effect"])


def _gap_k(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, 1.8, title=title)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        _zero(axis, rows["smallest_effect"].iloc[0])
        draw_points(axis, rows, Look("", BLUE, "s"))
        axis.set_xscale("log", base=2)
        axis.set_xlim(0.85, 9.4)
        axis.xaxis.set_major_locator(FixedLocator(list(KS.values())))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("Copies of each kernel, k (count)")
        axis.set_ylabel(DIFFERENCE)
        percent(axis.yaxis)
    return figure


GAP_K = _plot(
    id="gap-k",
    caption=(
        "Accuracy of majority kernels minus that of plain training against the number of copies, at the main number of "
        "training examples. With one copy the two are the same. Each k has rates of its own, and what another "
        f"choice of them would give is not in the intervals. {ACCURACY} {INTERVALS} {GREY_BAND}"
    ),
    data=_gap_k_data,
    draw=_gap_k,
)


# ---------------------------------------------------------------------------------------------------------------------
# The map: many or few examples, and what is left over simpler methods

COMPARED = {
    "plain": Look("minus plain training", BLUE, "s"),
    "equal-loss": Look("minus plain training at its rates and training loss", GREEN, "o", DASHED),
    "noise": Look("minus the best weight noise", ORANGE, "^", DASH_DOT),
}
MAPPED = {"mk2": 2, "mk4": 4}
MATCHED = "mk2"  # whose rates the shorter plain runs have
APART = 0.07  # of the distance between two sizes: so far apart stand points of the same size


def _map_data(results: Results) -> pd.DataFrame:
    """Differences by k and number of examples; ``train_accuracy`` and ``train_loss`` are those of plain training."""
    found: list[tuple[Any, ...]] = []
    for task in tasks(results):
        effect = smallest_effect(results.tier, GAIN, task.panel)
        for arm, k in MAPPED.items():
            for size in task.sizes:
                gaps = {
                    "plain": task.gap(arm, BASELINE, size),
                    "equal-loss": task.gap_at_equal_loss(arm, size) if arm == MATCHED else None,
                    "noise": task.gap(arm, NOISE, size),
                }
                plain = task.of(BASELINE, size)[["train_accuracy", "train_loss"]].mean()
                known = {series: gap for series, gap in gaps.items() if gap is not None}
                found += [(*task.panel, k, series, size, *gap, *plain, effect) for series, gap in known.items()]
    columns = [*PANEL, "k", "series", "x", "y", "low", "high", "n", "train_accuracy", "train_loss", "smallest_effect"]
    return pd.DataFrame(found, columns=columns)


def _map(data: pd.DataFrame) -> Figure:
    names, ks = panel_names(data), sorted(data["k"].unique())
    figure = Figure(figsize=(COLUMN if len(names) == 1 else PAGE, 1.75 * len(ks) + 0.75))
    axes = figure.subplots(len(ks), len(names), squeeze=False, sharex="col", sharey="col")
    for panel, column in zip(names, axes.T, strict=True):
        for k, axis in zip(ks, column, strict=True):
            rows = of_panel(data[data["k"] == k], panel)
            _zero(axis, of_panel(data, panel)["smallest_effect"].iloc[0])
            for place, (series, look) in enumerate(COMPARED.items()):
                _draw_mapped(axis, rows[rows["series"] == series], look, place - 1)
        column[0].set_title(title(*panel))
        column[-1].set_xlabel("Examples (count),\nfitted by plain (%)")
        _size_ticks(column[-1], of_panel(data, panel))
    for k, axis in zip(ks, axes[:, 0], strict=True):
        axis.set_ylabel(f"k = {k}\n{DIFFERENCE}")
    for axis in axes.flat:
        percent(axis.yaxis)
    legend(figure, data["series"], COMPARED, columns=3)
    return figure


def _draw_mapped(axis: Axes, rows: pd.DataFrame, look: Look, place: int) -> None:
    """One series, drawn beside the others; a cross at the bottom where there is nothing to compare."""
    step = np.exp(place * APART * _distance(rows["x"]))
    rows = rows.assign(x=rows["x"] * step)
    draw_points(axis, rows.dropna(subset="y"), look)
    for x in rows.loc[rows["y"].isna(), "x"]:
        axis.plot(x, 0.05, color=look.color, marker="x", linestyle="none", transform=axis.get_xaxis_transform())


def _distance(sizes: pd.Series) -> float:
    """The smallest distance of two sizes on a logarithmic axis."""
    logs = np.log(np.unique(sizes))
    return float(np.diff(logs).min()) if len(logs) > 1 else 1.0


def _size_ticks(axis: Axes, rows: pd.DataFrame) -> None:
    fits = rows.groupby("x")["train_accuracy"].first()
    axis.set_xscale("log")
    room = np.exp(0.4 * _distance(rows["x"]))
    axis.set_xlim(fits.index.min() / room, fits.index.max() * room)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(fits.index), [f"{short(size)}\n{100 * share:.0f} %" for size, share in fits.items()])


MAP = _plot(
    id="map",
    caption=(
        "Where majority kernels gain, and what is left of the gain: their accuracy minus that of plain training, of "
        "plain training at the rates of k = 2 that has its training loss, and of Gaussian weight noise of the best "
        "size, against the number of training examples; upper row k = 2, lower row k = 4. All runs have the same "
        "number of steps, so that few examples are seen often. The share below an axis is the accuracy of plain "
        "training on its training examples: near 100 %, a model has capacity to spare and can over-fit; far below, it "
        "under-fits. The same training loss: interpolated between plain runs of 10 to 200 % of the steps, each "
        "annealed to its own end, over means of repetitions; mostly they come to it with fewer steps, so this is no "
        "gain at equal compute. A cross at the bottom: no two of them enclose it, or plain training's loss does not "
        "fall with the steps. Learning rates and the noise were chosen on validation data at each size. "
        f"{ACCURACY} {INTERVALS} {GREY_BAND}"
    ),
    data=_map_data,
    draw=_map,
)


# ---------------------------------------------------------------------------------------------------------------------
# Forest: what could explain a gain, and the open choices

Row = tuple[str, str, tuple[str, ...]]  # two arms, and the claims of their difference
GROUPS: dict[str, list[Row]] = {
    "Is there a gain?": [("mk2", "plain", GAIN), ("mk4", "plain", ())],
    "The learning rate?": [("mk2-lr", "plain-slow", ("N1-lr",)), ("mk2-lrk", "plain", ("N1-lrk",))],
    "Copies alone?": [
        ("mk2", "const2", ("N2",)), ("mk2-lr", "const2-lr", ("N1-lr-constant",)), ("mk2-lrk", "const2-lrk", ()),
        ("const2", "plain", ()),
    ],
    "Smaller first weights?": [("mk2", "plain-small", ("N3",)), ("plain-small", "plain", ())],
    "Weight noise?": [("mk2", "noise", ("N4",)), ("mk4", "noise", ()), ("noise", "plain", ("N4-noise",))],
    "Averages of weights?": [("mk2", "swa", ("N4-swa",)), ("mk2", "ema", ("N4-ema",))],
    "Dropout? Early stopping?": [("mk2", "dropout", ("N4-dropout",)), ("mk2", "stopped", ("N4-stopped",))],
    "A weight-space simplex?": [("mk2", "simplex2", ("N6",)), ("mk2", "simplex2-apart", ("N6-apart",))],
    "The paper's baselines": [
        ("mk4", "ensemble4", ("C4",)), ("mk4", "selected4", ("C5",)), ("mk4", "selected4-tuned", ("C5-tuned",)),
    ],
    "Open choices": [
        ("mk2", "mk2-network", ("N5-network",)), ("mk2", "mk2-unit", ("N5-unit",)),
        ("mk2", "mk2-element", ("N5-element",)), ("mk2", "mk2-uniform", ("N5-uniform",)),
        ("mk2", "mk2-one-hot", ("N5-one-hot",)), ("mk2", "mk2-identical", ("N5-identical",)), ("mk2", "mk2-scaled", ()),
        ("mk2", "mk2-hidden", ("N5-hidden",)), ("mk2", f"mk2{RUNNING}", ("M-norms",)),
    ],
}  # fmt: skip
MOST = 0.08  # the largest difference that a panel makes room for, interval included


def _forest_data(results: Results) -> pd.DataFrame:
    found: list[tuple[Any, ...]] = []
    for task in tasks(results):
        for group, rows in GROUPS.items():
            for a, b, claims in rows:
                gap = task.gap(a, b)
                if gap is not None:
                    effect = smallest_effect(results.tier, claims, task.panel)
                    found.append((*task.panel, group, f"{a} \N{MINUS SIGN} {b}", *gap, effect))
    return pd.DataFrame(found, columns=[*PANEL, "group", "row", "mean", "low", "high", "n", "smallest_effect"])


def _forest(data: pd.DataFrame) -> Figure:
    present = {group: list(rows["row"].unique()) for group, rows in data.groupby("group")}
    labels = [label for group in GROUPS if group in present for label in (group, *present[group])]
    columns = min(4, len(panel_names(data)))
    figure, axes = panels(data, 0.155 * len(labels) + 0.6, columns, share_y=True, title=title)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        limits = rows[["low", "high"]].abs().max(axis=1)
        within = max(limits[limits <= MOST], default=MOST)  # a run that collapses would leave no room for the others
        draw_forest(axis, rows.set_index("row"), labels, 1.12 * max(within, 1e-3))
        axis.set_ylim(-0.8, len(labels) - 0.2)
        axis.set_title(axis.get_title().replace(", ", ",\n"))
        axis.set_xlabel(DIFFERENCE)
        percent(axis.xaxis, 4)
    for label in figure.axes[0].get_yticklabels():
        if label.get_text() in GROUPS:
            label.set_fontweight("bold")
    return figure


FOREST = _plot(
    id="forest",
    caption=(
        "What could explain a gain: differences of accuracy, right of zero where the first of the two is better. lr, "
        "lrk: at the plain model's own rates, so that the mean of the copies moves less (slow: plain kernels at half "
        "the rate, or 0.87 of it with AdamW), or as far. const: constant coefficients. small: plain training from "
        "weights as small as the mean of two copies. noise, dropout, stopped (fewer steps), swa (average at the end), "
        "ema (average all along): plain training with the best of each, chosen on validation data. ensemble4: "
        "distilled from 4 models (five trainings); selected4: neurons of a model with about 4 times the parameters, "
        "tuned: trained on. Open choices: one draw per network, unit or weight; uniform numbers over their sum; one "
        "copy at a time; copies that begin equal, or scaled; one head; norms' statistics of training (running). "
        f"{ACCURACY} {INTERVALS} At the right, their number; a filled marker: the interval excludes zero, as one in "
        "twenty does by chance; an arrow: beyond the panel. The verdicts on open choices, which are on equality, use "
        f"90 %. {GREY_BAND}"
    ),
    data=_forest_data,
    draw=_forest,
)


PLOTS = {
    plot.id: plot
    for plot in (MAP, GAP_K, FOREST, ACCURACY_TABLE, RATES_TABLE, COMPUTE, TRACES, LAYERS, OVERHEAD, STEP_TABLE)
}  # fmt: skip
