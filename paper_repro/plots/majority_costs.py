"""Figures of "Majority Kernels" on what training costs: accuracy over FLOPs, and the time of a step."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN

from paper_repro import stats
from paper_repro.plots.majority_cells import BASELINE, LOOKS, SHORTER, tasks, title
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    draw_dots,
    draw_lines,
    draw_points,
    in_order,
    label_axes,
    legend,
    of_panel,
    panels,
    reference,
)
from paper_repro.plots.source import Results
from paper_repro.plots.style import (
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
    look_of,
    one_two_five,
    percent,
)

SCRIPT = "paper_repro/plots/majority_costs.py"


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy against FLOPs of training

CHARGED = (BASELINE, SHORTER, "mk2", "mk4", "noise", "swa", "stopped", "ensemble4", "selected4", "selected4-tuned")
APART = 1.05  # factor between markers of equal cost
ROOM = 0.15  # accuracy below that of plain training down to which a panel reaches


def _compute_data(results: Results) -> pd.DataFrame:
    """One row per arm and duration at the main size; x in GFLOP, y accuracy."""
    found: list[tuple[Any, ...]] = []
    for task in tasks(results):
        for arm in CHARGED:
            for share in task.durations(arm):
                runs = task.of(arm, duration=share).dropna(subset=["accuracy", "flops"])
                if len(runs):
                    interval = stats.mean_interval(runs["accuracy"].to_numpy())
                    found.append((*task.panel, arm, share, runs["flops"].mean() / 1e9, *interval))
    return pd.DataFrame(found, columns=[*PANEL, "series", "duration", "x", "y", "low", "high", "n"])


def _compute(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, 2.2, title=title)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        draw_lines(axis, rows[rows["series"] == SHORTER], LOOKS, every=1)
        bottom = _bottom(rows)
        for row in _side_by_side(rows[rows["series"] != SHORTER]).itertuples():
            look = LOOKS[row.series]
            if row.y >= bottom:
                draw_points(axis, pd.DataFrame([row]), look, joined=False)
            else:
                _below(axis, row.x, row.y, look)
        if bottom > 0:
            axis.set_ylim(bottom=bottom)
        axis.set_xscale("log")
        one_two_five(axis.xaxis)
        percent(axis.yaxis)
    label_axes(figure, "Training (GFLOP, log scale)", "Accuracy (%)")
    legend(figure, data["series"], LOOKS, columns=3, points=set(data["series"]) - {SHORTER})
    return figure


def _bottom(rows: pd.DataFrame) -> float:
    """The least accuracy that is shown: all of plain training, and others within ``ROOM`` of its best."""
    plain = rows[rows["series"].isin([BASELINE, SHORTER])]
    if plain.empty:
        return 0.0
    shown = rows.loc[rows["y"] > plain["y"].max() - ROOM, ["y", "low"]].min().min()
    lowest = min(plain[["y", "low"]].min().min(), shown)
    return float(lowest - 0.06 * (rows["y"].max() - lowest))


def _below(axis: Axes, x: float, y: float, look: Look) -> None:
    """An arrow at the lower edge for what lies below it."""
    across = axis.get_xaxis_transform()
    mark: dict[str, Any] = {"color": look.color, "linestyle": "none", "transform": across}
    axis.plot(x, 0.11, marker=look.marker, markersize=4.5, **mark)
    axis.plot(x, 0.04, marker=CARETDOWN, **mark)
    axis.annotate(f"{100 * y:.0f} %", (x, 0.11), (4, 0), xycoords=across, textcoords="offset points", va="center",
                  fontsize=6.5, color="#555555")  # fmt: skip


def _side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Arms that cost the same, to 1 %, moved apart to both sides of what they cost."""
    groups = rows.groupby(rows["x"].map(lambda x: round(np.log(x) / 0.01)))["x"]
    return rows.assign(x=rows["x"] * APART ** (groups.cumcount() - (groups.transform("size") - 1) / 2))


COMPUTE = Plot(
    id="compute",
    paper="majority",
    script=SCRIPT,
    experiments=("student",),
    methods=None,
    caption=(
        "Accuracy on the test set against what training costs, tuning not charged, at the main number of examples. "
        "Line: plain training of 10 to 200 % of the steps at the rates of mk2, each run annealed to its own end. "
        "Ensembles are charged for their members, selections for the wider model. Counted are three forward passes per "
        "example and step; not drawing and mixing kernels, whose time is in the overhead. Arms of equal cost stand "
        "side by side around it, at most 10 % off. An arrow: that accuracy, below the panel. Intervals and band: 95 % "
        "over repetitions, of means; differences, which are paired, are in the forest."
    ),
    data=_compute_data,
    draw=_compute,
)


# ---------------------------------------------------------------------------------------------------------------------
# Time of a step

BAR = 1.1  # of plain training's step: what the ledger takes "minimal" to mean
NAMES = {"mlp": "MLP", "resnet50": "ResNet-50", "vit-b-16": "ViT-B/16", "t5-small": "T5-small"}
COPIES = {
    "mk1": Look("k = 1", GREY, "x", DOTTED),
    "mk2": Look("k = 2", BLUE, "s"),
    "mk3": Look("k = 3", GREEN, "^", DASHED),
    "mk4": Look("k = 4", VERMILION, "D", DASH_DOT),
    "mk8": Look("k = 8", PURPLE, "v", DOTTED),
}
BESIDE = 1.05  # factor between batches at which the same batch of different k is drawn
MEMORY = {"memory": Look("bytes of weights, gradients, optimiser", SKY, "o", hollow=True)}


def timed(results: Results) -> pd.DataFrame:
    """What was timed: a row per architecture, device and batch. Columns: method, model, device, batch, n (rounds), and
    the metrics of the record."""
    rows = results.metrics[results.metrics["experiment"] == "timing"]
    wide = rows.pivot_table(index=["model", "method"], columns="metric", values="value", aggfunc="first")
    names = rows["method"].str.extract(r"^(?P<device>.+)-batch(?P<batch>\d+)$")
    rows = rows.assign(device=names["device"], batch=names["batch"].astype(float))
    heads = rows.groupby(["model", "method"]).agg(device=("device", "first"), batch=("batch", "first"), n=("n", "max"))
    return heads.join(wide).reset_index().sort_values(["model", "device", "batch"], ignore_index=True)


def copies(row: Any) -> list[str]:
    """The competitors with copies that a row of ``timed`` has, as "mk3"."""
    names = (str(name).removeprefix("overhead/") for name in row.dropna().index if str(name).startswith("overhead/"))
    return in_order((name for name in names if "/" not in name), COPIES)


def _overhead_data(results: Results) -> pd.DataFrame:
    """Over plain training: ``series`` "mk<k>" for the time of a step, "memory" for bytes. dataset: the device."""
    found: list[tuple[Any, ...]] = []
    for _, row in timed(results).iterrows():
        place = (row["device"], row["model"], row["batch"])
        for name in copies(row):
            time = (row.get(f"overhead/{name}{end}", np.nan) for end in ("", "/low", "/high"))  # few rounds: no limits
            found.append((*place, name, name, *time, row["n"]))
            found.append((*place, name, "memory", row.get(f"memory_ratio/{name}", np.nan), np.nan, np.nan, 1))
    data = pd.DataFrame(found, columns=[*PANEL, "x", "copies", "series", "y", "low", "high", "n"])
    return data.dropna(subset="y")


def _overhead(data: pd.DataFrame) -> Figure:
    batches = data.groupby(PANEL)["x"].transform("nunique")
    lines, single = data[(batches > 1) & (data["series"] != "memory")], data[batches == 1]
    groups = [group for _, group in lines.groupby(PANEL)]
    count = len(groups) + bool(len(single))
    figure = Figure(figsize=(PAGE, 2.9))
    axes = figure.subplots(1, count, squeeze=False, width_ratios=[*[1.0] * len(groups), *[1.15] * bool(len(single))])[0]
    for group, axis in zip(groups, axes, strict=False):
        device, model = group[PANEL].iloc[0]
        axis.set_title(f"{NAMES.get(model, model)}, {device}")
        reference(axis, 1.0)
        reference(axis, BAR, f"bar: {BAR:g}", at=0.15)
        for place, name in enumerate(in_order(group["series"], COPIES)):
            rows = group[group["series"] == name]
            draw_points(axis, rows.assign(x=rows["x"] * BESIDE**place), look_of(name, COPIES, place))
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(group["x"].unique()), [f"{batch:g}" for batch in sorted(group["x"].unique())])
        axis.set_xlabel("Batch (examples)")
        axis.set_ylabel("Time of a step\n(over that of plain training)")
    if len(single):
        _overhead_rows(axes[-1], single)
    looks = {**COPIES, **MEMORY}
    points = set(looks) - set(lines["series"])
    shown = {*lines["series"], *single["series"]}
    legend(figure, shown, looks, columns=5, points=points)
    return figure


def _overhead_rows(axis: Axes, data: pd.DataFrame) -> None:
    """Architectures at one batch: time and memory on one line each."""
    rows = [
        f"{NAMES.get(row.model, row.model)}, {row.dataset},\nbatch {row.x:g}, k = {row.copies.removeprefix('mk')}"
        for row in data.itertuples()
    ]
    looks = {**COPIES, **MEMORY}
    draw_dots(axis, data.assign(row=rows), looks, list(dict.fromkeys(rows)))
    for value in (1.0, BAR):
        axis.axvline(value, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    axis.set_title("one batch each")
    axis.set_xlabel("Time of a step, and memory (over plain training's)")


OVERHEAD = Plot(
    id="overhead",
    paper="majority",
    script=SCRIPT,
    experiments=("timing",),
    methods=None,
    caption=(
        "Time of a training step with majority kernels over that of the plain model: draw, forward, loss, backward and "
        "optimiser, at random weights and synthetic input that lies on the device, interleaved in one process. Medians "
        f"over rounds with 95 % intervals. Dotted: no overhead, and {BAR:g}, the ledger's bar for what the paper calls "
        "minimal, without a number. Hollow: bytes of weights, gradients and optimiser state over those of plain "
        "training, counted and not measured."
    ),
    data=_overhead_data,
    draw=_overhead,
)
