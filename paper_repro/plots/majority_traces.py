"""Figure of "Majority Kernels" on what happens in training: how far apart the copies are, and how sharp the minimum."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_repro.plots.majority_cells import LOOKS, title
from paper_repro.plots.save import Plot
from paper_repro.plots.series import PANEL, bands, draw_lines, legend, of_panel, panel_names, with_x
from paper_repro.plots.source import Results
from paper_repro.plots.style import COLUMN, PAGE, counts, one_two_five

ARMS = ("plain", "mk2", "mk4", "noise")


class Quantity(NamedTuple):
    """What is followed. ``log``: means and bands are of its logarithm."""

    label: str
    log: bool


QUANTITIES = {
    "spread": Quantity("Spread of the copies\n(ratio)", False),
    "top_eigenvalue": Quantity("Largest curvature\n(nat per squared weight)", True),
    "train_loss": Quantity("Training loss\n(nat)", True),
}
COLUMNS = [*PANEL, "quantity", "series", "x", "y", "low", "high", "n"]


def _traces_data(results: Results) -> pd.DataFrame:
    samples = results.samples[results.samples["name"].isin(["step", *QUANTITIES])]
    if samples.empty:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat([_trace(samples, name) for name in QUANTITIES])


def _trace(samples: pd.DataFrame, name: str) -> pd.DataFrame:
    rows, log = samples[samples["name"] == name], QUANTITIES[name].log
    # the spread of a model without copies is recorded as 0
    rows = rows[rows["value"].abs() > 0] if log else rows[rows.groupby("key")["value"].transform("max") > 0]
    values = np.log(rows["value"].abs()) if log else rows["value"]
    curves = with_x(bands(rows.assign(value=values), {name: ""}), samples, "step")
    limits = ["y", "low", "high"]
    return curves.assign(quantity=name, **{at: np.exp(curves[at]) if log else curves[at] for at in limits})[COLUMNS]


def _traces(data: pd.DataFrame) -> Figure:
    names, shown = panel_names(data), [name for name in QUANTITIES if name in set(data["quantity"])]
    figure = Figure(figsize=(COLUMN if len(names) == 1 else PAGE, 1.45 * len(shown) + 0.75))
    axes = figure.subplots(len(shown), len(names), squeeze=False, sharex="col")
    for panel, column in zip(names, axes.T, strict=True):
        for name, axis in zip(shown, column, strict=True):
            rows = of_panel(data[data["quantity"] == name], panel)
            draw_lines(axis, rows, LOOKS, every=1)
            if QUANTITIES[name].log:
                low, high = rows["y"].min() / 3, rows["y"].max() * 3  # bands of few repetitions are far wider
                axis.set_yscale("log")
                axis.set_ylim(low, high)
                (counts if high > 100 * low else one_two_five)(axis.yaxis)
        column[0].set_title(title(*panel))
        column[-1].set_xlabel("Step (count)")
        column[-1].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for name, axis in zip(shown, axes[:, 0], strict=True):
        axis.set_ylabel(QUANTITIES[name].label)
    figure.align_ylabels()
    legend(figure, data["series"], LOOKS, columns=4)
    return figure


LAYER = "spread/"  # how the spread of one kernel is called
LAYERED = ("mk2", "mk4")


def _layers_data(results: Results) -> pd.DataFrame:
    """``depth``: place of the kernel in its model, 0 first and 1 last; ``series`` its name."""
    samples = results.samples
    samples = samples[samples["name"].str.startswith(LAYER) | (samples["name"] == "step")]
    samples = samples[samples["method"].isin(LAYERED)]
    columns = [*PANEL, "method", "series", "depth", "x", "y", "low", "high", "n"]
    found = []
    for (dataset, model, method), rows in samples.groupby([*PANEL, "method"]):
        names = [name for name in rows["name"].unique() if name != "step"]
        for place, name in enumerate(names):
            curve = with_x(bands(rows, {name: ""}), rows, "step")
            where = {"dataset": dataset, "model": model, "method": method, "series": name.removeprefix(LAYER)}
            found.append(curve.assign(**where, depth=place / max(1, len(names) - 1)))
    return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def _layers(data: pd.DataFrame) -> Figure:
    names, arms = panel_names(data), [arm for arm in LAYERED if arm in set(data["method"])]
    figure = Figure(figsize=(COLUMN if len(names) == 1 else PAGE, 1.6 * len(arms) + 0.75))
    axes = figure.subplots(len(arms), len(names), squeeze=False, sharex="col", sharey="col")
    for panel, column in zip(names, axes.T, strict=True):
        for arm, axis in zip(arms, column, strict=True):
            for _, line in of_panel(data[data["method"] == arm], panel).groupby("depth"):
                axis.plot(line["x"], line["y"], color=DEPTHS(float(line["depth"].iloc[0])), linewidth=1.0)
        column[0].set_ylim(0, 1.05 * of_panel(data, panel)["y"].max())  # of all in the column
        column[0].set_title(title(*panel))
        column[-1].set_xlabel("Step (count)")
        column[-1].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for arm, axis in zip(arms, axes[:, 0], strict=True):
        axis.set_ylabel(f"{arm}: spread of\nthe copies (ratio)")
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), DEPTHS), ax=axes.ravel().tolist(), pad=0.01, aspect=30)
    bar.set_ticks([0, 1], labels=["first", "last"])
    bar.set_label("Kernel (place in the model)")
    return figure


DEPTHS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, 64)))  # its lightest part is not seen in print

LAYERS = Plot(
    id="layers",
    paper="majority",
    script="paper_repro/plots/majority_traces.py",
    experiments=("student",),
    methods=LAYERED,
    caption=(
        "Spread of the copies of each kernel over training, at the main number of examples: distance to their mean "
        "over the norm of the mean, root mean square over copies; from the first kernel of a model (dark) to its head "
        "(light). Means over the few repetitions that are followed."
    ),
    data=_layers_data,
    draw=_layers,
)

TRACES = Plot(
    id="traces",
    paper="majority",
    script="paper_repro/plots/majority_traces.py",
    experiments=("student",),
    methods=ARMS,
    caption=(
        "Training at the main number of examples. Spread: distance of the copies to their mean over the norm of the "
        "mean, root mean square over copies, mean over kernels; at 0 a mixture is the mean, and nothing is random any "
        "more. Largest curvature, of the loss in the kernels' weights by power iteration, and training loss: of the "
        "folded model on its first training examples, on a log scale, where means are geometric, each arm at its own "
        "learning rate and weight decay: arms differ in training loss, so this does not compare them at an equal one. "
        "Of the curvature the absolute value. Mean over the few "
        "repetitions that are followed; bands: 95 % Student-t, pointwise, cut off where a panel ends. What is followed "
        "is not on the clock of training."
    ),
    data=_traces_data,
    draw=_traces,
)
