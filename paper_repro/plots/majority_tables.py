"""Tables of "Majority Kernels": accuracy of every arm, and the time of a step. The paper has no number beside them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from paper_repro import stats
from paper_repro.plots.majority_cells import BASELINE, WHAT, ledger, tasks, title
from paper_repro.plots.majority_costs import NAMES, copies, timed
from paper_repro.plots.save import Plot
from paper_repro.plots.series import PANEL
from paper_repro.plots.side_by_side import Line, as_text, side_by_side
from paper_repro.plots.source import Results
from paper_repro.stats import Interval

SCRIPT = "paper_repro/plots/majority_tables.py"

# ---------------------------------------------------------------------------------------------------------------------
# Accuracy

NONE = Interval(np.nan, np.nan, np.nan, 0)


def _accuracy_data(results: Results) -> pd.DataFrame:
    """Whole runs of every arm, at the main number of examples first. ``gap``: to plain training, paired."""
    found: list[tuple[Any, ...]] = []
    for task in tasks(results):
        for size in sorted(task.sizes, key=lambda size: (size != task.size, size)):
            for arm in task.arms:
                runs = task.of(arm, size).dropna(subset=["accuracy"])
                if runs.empty:
                    continue
                gap = None if arm == BASELINE else task.gap(arm, BASELINE, size)
                seconds = runs["seconds"].dropna()
                parts = (
                    stats.mean_interval(runs["accuracy"].to_numpy()), gap or NONE,
                    stats.t_interval(seconds.to_numpy()) if len(seconds) else NONE,
                )  # fmt: skip
                limits = [limit for part in parts for limit in part[:3]]
                found.append((*task.panel, size, arm, len(runs), *limits, runs["train_accuracy"].mean()))
    ends = ("", "_low", "_high")
    names = [f"{name}{end}" for name in ("accuracy", "gap", "seconds") for end in ends]
    return pd.DataFrame(found, columns=[*PANEL, "size", "arm", "n", *names, "train_accuracy"])


def _accuracy(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model and data": [title(*panel) for panel in data[PANEL].itertuples(index=False)],
            "examples": data["size"].map("{:,}".format),
            "arm": data["arm"],
            "": data["arm"].map(lambda arm: WHAT.get(arm, "")),
            "accuracy (%)": _with_half(data, "accuracy", 100, "{:.1f}", "{:.1f}"),
            "minus plain (points)": _with_half(data, "gap", 100, "{:+.1f}", "{:.1f}"),
            "on its training examples (%)": data["train_accuracy"].map(lambda share: f"{100 * share:.1f}"),
            "training (s)": _with_half(data, "seconds", 1, "{:.3g}", "{:.1g}"),
            "n": data["n"].astype(str),
        }
    )


def _with_half(data: pd.DataFrame, name: str, scale: float, style: str, half_style: str) -> list[str]:
    """Means with half of their intervals; "-" where there is none."""
    texts = []
    for mean, low, high in data[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False):
        half = "" if pd.isna(low) else " ± " + half_style.format(scale * (high - low) / 2)
        texts.append("-" if pd.isna(mean) else style.format(scale * mean) + half)
    return texts


ACCURACY_TABLE = Plot(
    id="accuracy-table",
    paper="majority",
    script=SCRIPT,
    experiments=("student",),
    methods=None,
    kind="table",
    caption=(
        "Every arm, the main number of examples first: accuracy on the test set, its difference to plain training "
        "(paired by repetition), accuracy on its own training examples, and wall-clock of training, in which an "
        "ensemble's members and a wider model are charged and tuning is not. Mean over repetitions, which n counts, "
        "and half of the 95 % interval. Seconds are of runs side by side on one machine: they bear no small comparison."
    ),
    data=_accuracy_data,
    draw=_accuracy,
)


# ---------------------------------------------------------------------------------------------------------------------
# Rates

CHOSEN = ("lr", "weight_decay", "strength")


def _rates_data(results: Results) -> pd.DataFrame:
    """What was chosen for each arm and size that has candidates of its own, and where in their range it lies.

    ``lr_end``, ``weight_decay_end``, ``strength_end``: "lowest", "highest" or "". ``candidates``: how many were tried.
    """
    rows = results.metrics[results.metrics["metric"].isin([*CHOSEN, "accuracy"])]
    cell = [*PANEL, "method"]
    tried = rows[(rows["experiment"] == "tuning") & (rows["split"] != "test")]
    tried = tried.pivot_table(index=[*cell, "key"], columns="metric", values="value").reset_index()
    tried = tried.reindex(columns=[*cell, "key", *CHOSEN, "accuracy"])
    chosen = rows[(rows["experiment"] == "student") & (rows["split"] == "train")]
    chosen = chosen.pivot_table(index=cell, columns="metric", values="value", aggfunc="first")
    chosen = chosen.reindex(columns=list(CHOSEN))
    found: list[tuple[Any, ...]] = []
    for name, group in tried.groupby(cell, sort=False):
        if name not in chosen.index:
            continue
        values = chosen.loc[name]
        same = {"lr": group[group["weight_decay"] == values["weight_decay"]]}  # decays have few rates of their own
        ends = [_end(same.get(column, group)[column], values[column]) for column in CHOSEN]
        tried = len(group[list(CHOSEN)].drop_duplicates())
        found.append((*name, *values, *ends, group["accuracy"].max(), tried))
    return pd.DataFrame(found, columns=[*cell, *CHOSEN, *(f"{one}_end" for one in CHOSEN), "accuracy", "candidates"])


def _end(candidates: pd.Series, chosen: float) -> str:
    if candidates.nunique() < 2:
        return ""
    return "lowest" if chosen <= candidates.min() else "highest" if chosen >= candidates.max() else ""


def _rates(data: pd.DataFrame) -> pd.DataFrame:
    def with_end(name: str) -> pd.Series:
        values = data[name].map(lambda value: "-" if pd.isna(value) else f"{value:g}")
        return values + data[f"{name}_end"].map(lambda end: f" ({end})" if end else "")

    return pd.DataFrame(
        {
            "model and data": [title(*panel) for panel in data[PANEL].itertuples(index=False)],
            "arm": data["method"],
            "learning rate": with_end("lr"),
            "weight decay": with_end("weight_decay"),
            "strength": with_end("strength"),
            "best on validation data (%)": data["accuracy"].map(lambda share: f"{100 * share:.1f}"),
            "tried": data["candidates"].astype(str),
        }
    )


RATES_TABLE = Plot(
    id="rates-table",
    paper="majority",
    script=SCRIPT,
    experiments=("student", "tuning"),
    methods=None,
    kind="table",
    caption=(
        "What validation data chose for each arm, after @ at another number of examples; lowest and highest: at an end "
        "of the candidates, of a learning rate among those of the same weight decay, beyond which something better may "
        "lie. Strength: of noise, dropout, averages and penalties, or a temperature. The best is of the "
        "mean over the repetitions that choose, and so too high."
    ),
    data=_rates_data,
    draw=_rates,
)


# ---------------------------------------------------------------------------------------------------------------------
# Steps

CLAIMS = {"overhead/mk3": ("C3-mlp", "C3-resnet", "C3-transformer"), "overhead/mk4": ("C3-mlp-fused",),
          "folded_ratio": ("C2-latency",)}  # fmt: skip


def _step_lines(results: Results) -> Iterator[Line]:
    for _, row in timed(results).iterrows():
        rounds = int(row["n"])
        quantities = {"plain/step_s": ("step of the plain model", "ms")}
        for name in copies(row):
            k = name.removeprefix("mk")
            quantities[f"{name}/step_s"] = (f"step, k = {k}", "ms")
            quantities[f"overhead/{name}"] = (f"step over the plain one's, k = {k}", "ratio")
            quantities[f"memory_ratio/{name}"] = (f"bytes of training over plain training's, k = {k}", "ratio")
        quantities["folded_ratio"] = ("forward pass of the folded model over the plain one's", "ratio")
        for metric, (quantity, unit) in quantities.items():
            unit_s = 1000 if unit == "ms" else 1
            value, low, high = (unit_s * row.get(f"{metric}{end}", np.nan) for end in ("", "/low", "/high"))
            if np.isfinite(value):
                ours = Interval(value, low, high, 1 if metric.startswith("memory") else rounds)
                claims = tuple(f"{claim} {row['model']}" for claim in CLAIMS.get(metric, ()))
                where = f"{NAMES.get(row['model'], row['model'])}, batch {row['batch']:g}, {row['device']}"
                yield Line("synthetic", where, quantity, unit, None, ours, claims, row["method"])


STEP_TABLE = Plot(
    id="step-table",
    paper="majority",
    script=SCRIPT,
    experiments=("timing",),
    methods=None,
    kind="table",
    caption=(
        "Time of a training step, at random weights and synthetic input, interleaved in one process: medians over "
        "rounds, which n counts, with 95 % intervals. Bytes are those of weights, gradients and optimiser state, "
        "counted and not measured. The paper says that the overhead is minimal, and gives no number."
    ),
    data=lambda results: side_by_side(results, ledger(), _step_lines(results)),
    draw=lambda data: as_text(data).drop(columns=["data", "paper"]),
)
