"""Figures of "Sparse Distillation" (arXiv 2110.08536v2), ours beside the paper's; its tables are in ``sparse_tables``.

Hollow markers are the paper's numbers. They are of another teacher (RoBERTa-Large), of a thousand times as much
unlabelled text, and of one run each.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro import stats, timing
from paper_repro.plots.save import Plot
from paper_repro.plots.series import (
    PANEL,
    Panels,
    Pick,
    draw_dots,
    draw_forest,
    draw_lines,
    in_order,
    label_axes,
    legend,
    of_panel,
    panel_names,
    panels,
    pick,
)
from paper_repro.plots.source import Results
from paper_repro.plots.sparse_cells import (
    COMPETITORS,
    DEVICES,
    DOMAINS,
    LENGTHS,
    LINEAR,
    MAIN,
    NGRAMS,
    POINTS,
    STORED,
    STUDENTS,
    VARIANTS,
    Difference,
    accuracies,
    count,
    domains,
    grid,
    ledger,
    paper_speed,
    quoted,
    quoted_grid,
    speeds,
    title,
)
from paper_repro.plots.sparse_tables import TABLES
from paper_repro.plots.style import (
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
    counts,
    look_of,
    percent,
    short,
)

ACCURACY = "Accuracy (%)"
THROUGHPUT = "Throughput (documents/s)"
SEEDS = (
    "Intervals: 95 % over seeds, where none is seen smaller than the marker; deterministic baselines and the teacher "
    "have one run, and none."
)
BAND = "Bands: 95 % over seeds."


def _plot(**fields: Any) -> Plot:
    given = {"paper": "sparse", "script": "paper_repro/plots/sparse.py", "experiments": ("student",), "methods": None}
    return Plot(**{**given, **fields})


def _panels(data: pd.DataFrame, height: float = 1.9, **options: Any) -> tuple[Figure, Panels]:
    """One panel per task, all in a row where they fit."""
    columns = min(4, len(data[PANEL].drop_duplicates()))
    return panels(data, height, **{"columns": columns, "title": title, **options})


def _and(data: pd.DataFrame, rows: list[tuple[Any, ...]], columns: Sequence[str]) -> pd.DataFrame:
    """``data`` and the paper's ``rows``, which have fewer columns; an empty frame would make all numbers objects."""
    return pd.concat([data, pd.DataFrame(rows, columns=columns)], ignore_index=True) if rows else data


def _with_paper(data: pd.DataFrame, at: str, places: Mapping[tuple[str, Any], float], panel: str = "") -> pd.DataFrame:
    """``data`` and, as series 'paper', the paper's numbers (in percent, by data set and place) for its data sets."""
    ours = set(data["dataset"])
    rows = [(task, panel, "paper", place, value / 100) for (task, place), value in places.items() if task in ours]
    return _and(data, rows, [*PANEL, "series", at, "y"])


def _on_devices(data: pd.DataFrame, height: float, **options: Any) -> tuple[Figure, Panels]:
    """One panel per task and device, under the name of the machine."""
    columns = min(3, len(data[PANEL].drop_duplicates()))
    figure, axes = panels(data, height, columns, title=lambda task, device: f"{title(task)}, {device}", **options)
    _say_machines(figure, data)
    return figure, axes


def _say_machines(figure: Figure, data: pd.DataFrame) -> None:
    figure.suptitle(f"Ours: {'; '.join(data['machine'].dropna().unique())}", fontsize=7, color="#555555")


# ---------------------------------------------------------------------------------------------------------------------
# Figure 1: accuracy against throughput

POINT_LOOKS = {name: point.look for name, point in POINTS.items()}


def _figure1_data(results: Results) -> pd.DataFrame:
    timed = speeds(results).rename(columns={"y": "x", "low": "x_low", "high": "x_high"})
    timed = timed[timed["series"] == "end_to_end"].drop(columns=["series", "n"])
    wanted = {(name, point.competitor): point.accuracy for name, point in POINTS.items() if point.accuracy}
    found = pick(results.metrics, wanted, at="competitor").drop(columns="model")
    found.loc[found["series"].str.startswith("minilm"), ["low", "high"]] = np.nan  # one teacher
    ours = found.merge(timed, on=["dataset", "competitor"])
    twelve = quoted("T12")
    rows = [
        (dataset, device, name, row, twelve[dataset, row] / 100, twelve[f"{dataset}-{DEVICES[device]}", row])
        for dataset, device in ours[PANEL].drop_duplicates().itertuples(index=False)
        for name, point in POINTS.items()
        for row in point.quoted
        if (dataset, row) in twelve
    ]
    columns = [*PANEL, "series", "competitor", "x", "x_low", "x_high", "y", "low", "high", "n", "machine"]
    return _and(ours, rows, [*PANEL, "series", "competitor", "y", "x"])[columns]


def _figure1(data: pd.DataFrame) -> Figure:
    figure, axes = _on_devices(data, 2.7)
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        for name in in_order(rows["series"], POINT_LOOKS):
            points, look = rows[rows["series"] == name], look_of(name, POINT_LOOKS)
            axis.hlines(points["y"], points["x_low"], points["x_high"], color=look.color, linewidth=1)
            axis.vlines(points["x"], points["low"], points["high"], color=look.color, linewidth=1)
            axis.plot(
                points["x"], points["y"], color=look.color, marker=look.marker, markerfacecolor=look.face,
                markeredgecolor=look.color if look.hollow else "white", markeredgewidth=0.8 if look.hollow else 0.4,
                linestyle="none", markersize=5, zorder=3 - look.hollow,
            )  # fmt: skip
        axis.set_xscale("log")
        counts(axis.xaxis)
        percent(axis.yaxis)
    label_axes(figure, THROUGHPUT, ACCURACY)
    legend(figure, data["series"], POINT_LOOKS, points=set(data["series"]))
    return figure


FIGURE1 = _plot(
    id="figure1",
    experiments=("student", "timing"),
    methods=(MAIN, "kd", "scratch", *DEVICES),
    models=(*dict.fromkeys(point.accuracy.model for point in POINTS.values() if point.accuracy), "table-12"),
    caption=(
        "Accuracy against throughput, as the paper's figure 1. Filled: ours, from raw text to label in batches of 32 "
        "on the machine that is named. Accuracy is that of the students trained here, throughput that of the paper's "
        "sizes, which are larger (DAN, LSTM, CNN), and of baselines fitted on 4,000 texts. MiniLM's accuracy is of "
        "the labels (bf16), also for ONNX in int8, where it was not measured. Hollow: the paper's table 12 "
        "(fp32, on 56 CPUs or a GPU), which leaves tokenisation out and has another teacher, so filled and hollow "
        f"compare only in how far their own points lie apart. {SEEDS} Throughput: medians over rounds, 95 %."
    ),
    data=_figure1_data,
    draw=_figure1,
)


# ---------------------------------------------------------------------------------------------------------------------
# Table 2 and table 6 as figures

GROUPS = {
    "dan": Look("n-gram student (DAN)", BLUE, "s"),
    "others": Look("other students", PURPLE, "^"),
    "baselines": Look("baselines, not distilled", ORANGE, "o"),
    "teacher": Look("our teacher", BLACK, "*"),
    "paper": Look("the paper's (its teacher: RoBERTa-Large)", GREY, "D", hollow=True),
}


def _dots(data: pd.DataFrame, rows: Sequence[str], titled: Callable[[str, str], str] = title) -> tuple[Figure, Panels]:
    """Accuracies, one line for each of ``rows`` that has any."""
    shown = [name for name in rows if name in set(data["row"])]
    figure, axes = _panels(data, 0.17 * len(shown) + 0.75, share_y=True, title=titled)
    for panel, axis in axes.items():
        draw_dots(axis, of_panel(data, panel), GROUPS, shown)
        percent(axis.xaxis, 5)
        axis.set_xlabel(ACCURACY)
    return figure, axes


def _main_data(results: Results) -> pd.DataFrame:
    found, rows = accuracies(results), results.metrics
    validation = rows[(rows["split"] == "validation") & (rows["metric"] == "accuracy")]
    means = validation.groupby(["dataset", "model"])["value"].mean()
    best = {}
    for dataset in found["dataset"].unique():
        known = {name: means.get((dataset, STUDENTS[name].cell.model), np.nan) for name in LINEAR}
        best[dataset] = max(known, key=lambda name: np.nan_to_num(known[name]))
    found["best_linear"] = found["row"] == found["dataset"].map(best)
    two = quoted("T2")
    places = {
        (dataset, name): two[dataset, student.quoted]
        for dataset in best
        for name, student in STUDENTS.items()
        if (dataset, student.quoted) in two
    }
    return _with_paper(found, "row", places).fillna({"best_linear": False})


def _main(data: pd.DataFrame) -> Figure:
    figure, axes = _dots(data, list(STUDENTS))
    line: dict[str, Any] = {"color": ORANGE, "linewidth": 0.9, "linestyle": DOTTED}
    for panel, axis in axes.items():
        rows = of_panel(data, panel)
        for value in rows.loc[rows["best_linear"].astype(bool), "y"]:
            axis.axvline(value, zorder=1, **line)
    best = Line2D([], [], label="linear baseline, best on validation", **line)
    legend(figure, data["series"], GROUPS, best, columns=3, points=set(data["series"]))
    return figure


MAIN_TABLE = _plot(
    id="main-table",
    methods=tuple(dict.fromkeys(student.cell.method for student in STUDENTS.values())),
    models=tuple(dict.fromkeys(student.cell.model for student in STUDENTS.values())),
    caption=(
        "The main result, the paper's table 2, with the baselines that the paper lacks: accuracy on the test set. "
        "Dotted: the linear baseline (TF-IDF with logistic regression or NBSVM) that is better on validation data. "
        f"{SEEDS}"
    ),
    data=_main_data,
    draw=_main,
)


def _domains_data(results: Results) -> pd.DataFrame:
    found, six = domains(results), quoted("T6")
    for target, source in found[PANEL].drop_duplicates().itertuples(index=False):
        places = {
            (target, name): six[f"{source}-to-{target}", step.quoted]
            for name, step in DOMAINS.items()
            if (f"{source}-to-{target}", step.quoted) in six
        }
        found = _with_paper(found, "row", places, source)
    return found


def _domains(data: pd.DataFrame) -> Figure:
    figure, _ = _dots(data, list(DOMAINS), lambda target, source: f"{title(source)} to {title(target)}")
    legend(figure, data["series"], GROUPS, points=set(data["series"]))
    return figure


DOMAIN_PLOT = _plot(
    id="domains",
    models=("dan",),
    caption=(
        "Domain generalisation, the paper's table 6: a student distilled from the teacher of another task, on "
        f"unlabelled text only, then fine-tuned on the target task. {SEEDS}"
    ),
    data=_domains_data,
    draw=_domains,
)


# ---------------------------------------------------------------------------------------------------------------------
# Figure 4: vocabulary and dimension

BUDGETS = {
    "10m": Look("10 million parameters", SKY, "v", DASH_DOT),
    "30m": Look("30 million", GREEN, "^", DASHED),
    "100m": Look("100 million (the main student)", BLUE, "s"),
    "500m": Look("the paper's: 500 million", GREY, "o", DOTTED, hollow=True),
    "1b": Look("1 billion (its main student)", BLACK, "s", hollow=True),
    "2b": Look("2 billion", VERMILION, "D", DASHED, hollow=True),
}


def _budget(parameters: float) -> str:
    """Parameters in a table to one digit, as the paper speaks of them."""
    return short(float(f"{parameters:.0e}"))


def _grid_data(results: Results) -> pd.DataFrame:
    found = grid(results)
    found["series"] = [_budget(row.x * row.dimension) for row in found.itertuples()]
    columns = [*PANEL, "series", "x", "dimension", "y"]
    rows = [("imdb", "the paper's", _budget(size), x, dimension, y / 100) for size, x, dimension, y in quoted_grid()]
    data = _and(found.assign(model="ours"), rows if "imdb" in set(found["dataset"]) else [], columns)
    return data[[*columns, "low", "high", "n"]].sort_values([*PANEL, "series", "x"], ignore_index=True)


def _grid(data: pd.DataFrame) -> Figure:
    shown = {panel: of_panel(data, panel) for panel in panel_names(data)}
    figure, axes = panels(
        data, 2.4, len(shown), title=lambda dataset, whose: f"{title(dataset)}, {whose}",
        widths=[rows["x"].nunique() for rows in shown.values()],
    )  # fmt: skip
    limits = {panel: rows[["y", "low", "high"]].stack().agg(["min", "max"]) for panel, rows in shown.items()}
    span = max(low_high["max"] - low_high["min"] for low_high in limits.values())
    for panel, axis in axes.items():
        rows = shown[panel]
        draw_lines(axis, rows, BUDGETS, every=1)
        rank, of = rows.groupby("x")["y"].rank(ascending=False), rows.groupby("x")["y"].transform("size")
        for row, place, last in zip(rows.itertuples(), rank, of, strict=True):  # so that neighbours' labels do not meet
            beside = (3, 2) if place == 1 else (3, -8) if place == last else (-3, -8)
            axis.annotate(
                f"{row.dimension:g}", (row.x, row.y), xytext=beside, textcoords="offset points", fontsize=6,
                ha="left" if beside[0] > 0 else "right",
            )  # fmt: skip
        middle, sizes = limits[panel].mean(), sorted(rows["x"].unique())
        axis.set_ylim(middle - 0.6 * span, middle + 0.65 * span)
        axis.set_xscale("log")
        axis.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.9)
        axis.minorticks_off()
        axis.set_xticks(sizes, [short(size) for size in sizes])
        percent(axis.yaxis)
    label_axes(figure, "Size of the vocabulary (n-grams); labels: dimension", ACCURACY)
    legend(figure, data["series"], BUDGETS, columns=3)
    return figure


FIGURE4 = _plot(
    id="figure4",
    methods=("kd",),
    caption=(
        "Size of the vocabulary against dimension (KD), as the paper's figure 4 and table 8; lines join tables with "
        "equally many parameters. Ours are smaller than the paper's smallest. Both panels span equally many points of "
        f"accuracy. {BAND}"
    ),
    data=_grid_data,
    draw=_grid,
)


# ---------------------------------------------------------------------------------------------------------------------
# Lines over a few places: pruning, shorter n-grams, coverage, amount of unlabelled text


def _lines(
    id: str, caption: str, wanted: Mapping[tuple[str, Any], Pick], looks: dict[str, Look], x: str, y: str,
    ticks: Callable[[Axes], Any], quote: Callable[[], Mapping[tuple[str, Any], float]] = dict, columns: int = 3,
) -> Plot:  # fmt: skip
    """One panel per data set on which the first series of ``wanted`` has several places; what else has is drawn too."""
    first = next(iter(wanted))[0]

    def data(results: Results) -> pd.DataFrame:
        found = pick(results.metrics, wanted)
        found = found[found.groupby(["dataset", "series"])["x"].transform("size") > 1]
        return _with_paper(found[found["dataset"].isin(found.loc[found["series"] == first, "dataset"])], "x", quote())

    def draw(data: pd.DataFrame) -> Figure:
        figure, axes = _panels(data)
        for panel, axis in axes.items():
            draw_lines(axis, of_panel(data, panel), looks, every=1)
            ticks(axis)
            if y == ACCURACY:
                percent(axis.yaxis)
        label_axes(figure, x, y)
        legend(figure, data["series"], looks, columns=columns)
        return figure

    cells = wanted.values()
    return _plot(
        id=id, caption=f"{caption} {BAND}", data=data, draw=draw,
        methods=tuple(dict.fromkeys(cell.method for cell in cells)),
        models=tuple(dict.fromkeys(cell.model for cell in cells)),
    )  # fmt: skip


SHARES = (0.01, 0.03, 0.1, 0.3)
STATED = {("imdb", 0.03): 90.0}  # the paper's sentence on figure 5 (claim 11); its curves could not be read


def _share_ticks(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xticks([*SHARES, 1], [f"{100 * share:g}" for share in (*SHARES, 1)])


FIGURE5 = _lines(
    "figure5",
    "Pruning after training, as the paper's figure 5: accuracy of the student (KD + fine-tuning) when only the most "
    "frequent n-grams are kept, without retraining.",
    {
        (f"keep-{by}", share): Pick("dan", MAIN, f"accuracy/keep-{by}/{share:g}" if share < 1 else "accuracy")
        for by in ("train", "all")
        for share in (*SHARES, 1)
    },
    {
        "keep-train": Look("ranked by frequency in the training set", BLUE, "s"),
        "keep-all": Look("ranked by frequency in all text", ORANGE, "o", DASHED),
        "paper": Look("the paper: above 90 %", GREY, "^", "none", hollow=True),
    },
    "N-grams kept (%)",
    ACCURACY,
    _share_ticks,
    lambda: STATED,
)

NGRAM_PLOT = _lines(
    "ngrams",
    "What longer n-grams are worth: disabled at inference without retraining, as the paper's table 10, and left out of "
    "training, which the paper does not show.",
    NGRAMS,
    {
        "trained": Look("trained with n-grams up to n (KD)", ORANGE, "o", DASHED),
        "disabled/kd": Look("longer ones disabled at inference (KD)", BLUE, "s"),
        f"disabled/{MAIN}": Look("the same (KD + fine-tuning)", GREEN, "^", DASH_DOT),
        "paper": Look("the paper's, disabled (KD + fine-tuning)", GREY, "D", DOTTED, hollow=True),
    },
    "Longest n-gram (words)",
    ACCURACY,
    lambda axis: axis.set_xticks(LENGTHS),
    lambda: {("imdb", n): quoted("T10")["imdb", f"n{n}"] for n in LENGTHS},
    columns=2,
)

METHODS = {
    "kd": Look("KD", BLUE, "s"),
    MAIN: Look("KD + fine-tuning", GREEN, "^", DASH_DOT),
    "scratch": Look("from scratch, on the training set's labels", GREY, "x", DOTTED),
}
QUARTERS = {1: "lowest", 2: "2nd", 3: "3rd", 4: "highest"}


def _quarter_ticks(axis: Axes) -> None:
    axis.set_xticks(list(QUARTERS), list(QUARTERS.values()))
    axis.set_xlim(0.8, 4.2)


FIGURE6 = _lines(
    "figure6",
    "Loss on the test set by coverage, the share of a text's n-grams that the vocabulary has, as the paper's figure 6 "
    "(whose values could not be read): quarters of the texts, from the least to the best covered.",
    {(m, q): Pick("dan", m, f"cross_entropy/coverage-q{q}") for m in ("kd", MAIN) for q in QUARTERS},
    METHODS,
    "Coverage (quarter)",
    "Cross-entropy (nats)",
    _quarter_ticks,
)

AMOUNTS = {"kd-train": 0.0, "kd-u25": 0.25, "kd": 1.0}


def _amount_ticks(axis: Axes) -> None:
    axis.set_xticks(list(AMOUNTS.values()), [f"{100 * share:g}" for share in AMOUNTS.values()])


AMOUNT = _lines(
    "amount",
    "What unlabelled text is worth: distillation on the training set and a share of the corpus, with equally many "
    "updates. At 0 % the teacher labels the training set only.",
    {
        **{("kd", share): Pick("dan", method) for method, share in AMOUNTS.items()},
        **{("scratch", share): Pick("dan", "scratch") for share in (0.0, 1.0)},
    },
    METHODS,
    "Unlabelled text used (%)",
    ACCURACY,
    _amount_ticks,
)


# ---------------------------------------------------------------------------------------------------------------------
# Table 5 and other variants, and stored precision, as paired differences


def _differences(results: Results, wanted: Mapping[str, Difference]) -> pd.DataFrame:
    rows = results.metrics[results.metrics["split"] == "test"]
    values = rows.groupby([*PANEL, "method", "metric", "seed"])["value"].first()
    found = []
    for dataset in rows["dataset"].unique():
        for name, of in wanted.items():
            try:
                difference = (values.loc[(dataset, *of.a)] - values.loc[(dataset, *of.b)]).dropna()
            except KeyError:
                continue
            checks = ledger().entry(of.claim.partition(" ")[0]).checks
            effect = next((check.tolerance for tier, check in checks.items() if tier == results.tier), np.nan)
            paper = np.nan
            if of.quoted and dataset == "imdb":
                a, b = (quoted("T5")["imdb", row] for row in of.quoted)
                paper = (a - b) / 100
            found.append((dataset, "", name, *stats.mean_interval(difference.to_numpy()), effect, paper, of.claim))
    columns = [*PANEL, "row", "mean", "low", "high", "n", "smallest_effect", "paper", "claim"]
    return pd.DataFrame(found, columns=columns)


FOREST = {
    "clear": Look("excludes zero", BLUE, "s"),
    "open": Look("includes zero", BLUE, "s", hollow=True),
    "paper": Look("the paper's", GREY, "D", hollow=True),
}


def _forest(id: str, caption: str, wanted: Mapping[str, Difference], base: str) -> Plot:
    def draw(data: pd.DataFrame) -> Figure:
        rows = [name for name in wanted if name in set(data["row"])]
        figure, axes = _panels(data, 0.19 * len(rows) + 0.85, share_y=True)
        limit = 1.15 * np.nanmax(np.abs(data[["mean", "low", "high", "paper", "smallest_effect"]].to_numpy()))
        for panel, axis in axes.items():
            draw_forest(axis, of_panel(data, panel).set_index("row"), rows, limit)
            axis.set_xlabel(f"Difference to\n{base} (points)")
            percent(axis.xaxis, 5)
        legend(figure, FOREST if data["paper"].notna().any() else ["clear", "open"], FOREST, columns=4, points=FOREST)
        return figure

    how = (
        "paired by seed. A filled marker: the 95 % interval excludes zero; at the right, the number of seeds. Grey "
        "band: less than the smallest effect of interest."
    )
    cells = [cell for difference in wanted.values() for cell in (difference.a, difference.b)]
    return _plot(
        id=id, caption=f"{caption} {how}", data=lambda results: _differences(results, wanted), draw=draw,
        methods=tuple(dict.fromkeys(cell.method for cell in cells)),
        models=tuple(dict.fromkeys(cell.model for cell in cells)),
    )  # fmt: skip


VARIANT_PLOT = _forest(
    "variants",
    "Variants of the student (KD), of which the paper's table 5 has the first five (hollow diamonds: its "
    "differences, of one run each): accuracy minus that of the main student, which has mean pooling, one hidden "
    "layer, ReLU and scikit-learn's tokens,",
    VARIANTS,
    "the main student",
)
PRECISION = _forest(
    "precision",
    "What storing the table in fewer bits costs: accuracy of the exported student (KD + fine-tuning) minus that in "
    "fp32,",
    STORED,
    "fp32",
)


# ---------------------------------------------------------------------------------------------------------------------
# Speed: tables 3 and 12; the cost of a training step

SPEEDS = {
    "model": Look("model only", ORANGE, "o"),
    "tokenise": Look("tokenisation only", PURPLE, "^"),
    "end_to_end": Look("end to end", BLUE, "s"),
    "paper": Look("the paper's, model only", GREY, "D", hollow=True),
}


def _speed_data(results: Results) -> pd.DataFrame:
    found = speeds(results)
    rows = [
        (dataset, device, competitor, "paper", value)
        for dataset, device, competitor in found[[*PANEL, "competitor"]].drop_duplicates().itertuples(index=False)
        if (value := paper_speed(dataset, device, competitor)) is not None
    ]
    return _and(found, rows, [*PANEL, "competitor", "series", "y"])


def _speed(data: pd.DataFrame) -> Figure:
    data = data.assign(row=data["competitor"].map(lambda name: COMPETITORS.get(name, name)))
    rows = [name for name in dict.fromkeys([*COMPETITORS.values(), *data["row"]]) if name in set(data["row"])]
    figure, axes = _on_devices(data, 0.22 * len(rows) + 0.7, share_y=True)
    for panel, axis in axes.items():
        draw_dots(axis, of_panel(data, panel), SPEEDS, rows, apart=0.2)
        axis.set_xscale("log")
        counts(axis.xaxis)
        axis.set_xlabel(THROUGHPUT)
    legend(figure, data["series"], SPEEDS, points=set(data["series"]))
    return figure


SPEED = _plot(
    id="speed",
    experiments=("timing",),
    models=("table-12",),
    caption=(
        "Throughput at the paper's own sizes (TREC's text has fewer n-grams than its table; random weights, batches of "
        "32, fp32 unless said otherwise), its tables 3 and 12: model only, as the paper times it (on 56 CPUs), "
        "tokenisation only, and end to end from raw text to label. Interleaved in one process; medians over rounds "
        "with 95 % intervals, often smaller than the markers."
    ),
    data=_speed_data,
    draw=_speed,
)


STEPS = {
    "spread": Look("ours", BLUE, "s"),
    "first-rows": Look("ours, always the same rows", GREY, "x", DOTTED),
    "torch": Look("torch's", ORANGE, "o"),
}


def _step_data(results: Results) -> pd.DataFrame:
    rows = results.samples[results.samples["model"] == "step"]
    found = []
    for (dataset, device, name, key), group in rows.groupby(["dataset", "method", "name", "key"], sort=False):
        parts = re.fullmatch(r"(torch-)?(v\d+[kmb])(-first-rows)?/step", str(name))
        if parts is not None:
            series = "torch" if parts[1] else "first-rows" if parts[3] else "spread"
            interval = timing.median_interval(1000 * group["value"].to_numpy())
            found.append((dataset, device, series, count(parts[2]), *interval, results.machines[str(key)]))
    data = pd.DataFrame(found, columns=[*PANEL, "series", "x", "y", "low", "high", "n", "machine"])
    return data.sort_values([*PANEL, "x"], ignore_index=True)


def _step(data: pd.DataFrame) -> Figure:
    figure, axes = panels(data, 1.7, title=lambda _, device: f"training step, {device}")
    for panel, axis in axes.items():
        draw_lines(axis, of_panel(data, panel), STEPS, every=1)
        axis.set_ylim(bottom=0)
        axis.set_xscale("log")
        counts(axis.xaxis)
    label_axes(figure, "Size of the table (n-grams)", "Time of a step (ms)")
    legend(figure, data["series"], STEPS)
    _say_machines(figure, data)
    return figure


STEP = _plot(
    id="step",
    experiments=("timing",),
    models=("step",),
    caption=(
        "The cost of a training step against the number of n-grams, each batch touching equally many of them: the "
        "paper's section 2.5. Torch's: its EmbeddingBag and SparseAdam. Where every table is asked for the same rows, "
        "what is left is due to its size alone, not to memory that no cache holds. Medians over interleaved rounds; "
        "band: 95 % interval."
    ),
    data=_step_data,
    draw=_step,
)

TABLE2, TABLE3, TABLE5, TABLE6, TABLE8, TABLE9, LOOK_UPS, TABLE10, TABLE13 = TABLES
PLOTS = {
    plot.id: plot
    for plot in (
        FIGURE1, MAIN_TABLE, TABLE2, SPEED, TABLE3, STEP, TABLE9, LOOK_UPS, FIGURE4, TABLE8, FIGURE5, NGRAM_PLOT,
        TABLE10, FIGURE6, TABLE13, AMOUNT, DOMAIN_PLOT, TABLE6, VARIANT_PLOT, TABLE5, PRECISION,
    )
}  # fmt: skip
