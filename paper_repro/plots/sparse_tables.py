"""Tables of "Sparse Distillation", each line of the paper beside ours, and the ledger's verdicts on it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from paper_repro import stats, timing
from paper_repro.plots.save import Plot
from paper_repro.plots.series import PANEL, Pick, pick
from paper_repro.plots.side_by_side import Line, as_text, percent_of, side_by_side
from paper_repro.plots.source import Results
from paper_repro.plots.sparse_cells import (
    COMPETITORS,
    DOMAINS,
    LENGTHS,
    MAIN,
    NGRAMS,
    PUBLISHED,
    STUDENTS,
    TASKS,
    VARIANTS,
    accuracies,
    domains,
    grid,
    ledger,
    paper_speed,
    quoted,
    quoted_grid,
    speeds,
    title,
)

SHORT = ("sst2", "trec")  # tasks of short texts, on which the ledger claims little about speed
NOTE = (
    "Absolute numbers are not judged, as teacher, unlabelled text and machine differ; the verdicts are those of the "
    "ledger's claims on this line. Intervals are over seeds, of timings over rounds; n counts them."
)


def _table(id: str, caption: str, lines: Callable[[Results], Iterator[Line]], **records: Any) -> Plot:
    def draw(data: pd.DataFrame) -> pd.DataFrame:
        return as_text(data.assign(dataset=data["dataset"].map(title)))

    return Plot(
        id=id, paper="sparse", caption=f"{caption} {NOTE}", script="paper_repro/plots/sparse_tables.py", kind="table",
        data=lambda results: side_by_side(results, ledger(), lines(results)), draw=draw,
        **{"experiments": ("student",), "methods": None, **records},
    )  # fmt: skip


def _by_place(data: pd.DataFrame, at: str) -> dict[tuple[str, Any], stats.Interval]:
    """What ``pick`` found, by data set and place."""
    places = zip(data["dataset"], data[at], strict=True)
    values = data[["y", "low", "high", "n"]].itertuples(index=False, name=None)
    return {place: stats.Interval(*interval) for place, interval in zip(places, values, strict=True)}


def _accuracy(
    dataset: str, row: str, paper: float | None, ours: stats.Interval | None, claims: tuple[str, ...]
) -> Line:
    return Line(dataset, row, "accuracy", "%", paper, None if ours is None else percent_of(ours), claims)


def _table2(results: Results) -> Iterator[Line]:
    for (dataset, name), ours in sorted(_by_place(accuracies(results), "row").items(), key=_by_task):
        student = STUDENTS[name]
        yield _accuracy(dataset, name, quoted("T2").get((dataset, student.quoted)), ours, student.claims)


def _by_task(item: tuple[tuple[str, str], Any]) -> tuple[int, str]:
    dataset = item[0][0]  # sorting is stable: rows keep their order
    return list(TASKS).index(dataset) if dataset in TASKS else len(TASKS), dataset


class Ratio(NamedTuple):
    """Two timed series, one of which is ``slow / fast`` times as fast, and what is claimed of that."""

    row: str
    quantity: str
    slow: str
    fast: str
    claims: tuple[str, ...] = ()
    short: bool = False  # of short texts too

    def names(self, device: str) -> tuple[str, str]:
        """The two series on that device."""
        return self.slow, self.fast.replace("published", PUBLISHED[device])

    def paper(self, dataset: str, device: str) -> float | None:
        """What the paper prints or, for what it does not print, what follows from its figures."""
        (slow, column), (fast, _) = (name.split("/") for name in self.names(device))
        if slow == "roberta-large" and column == "model":
            return paper_speed(dataset, device, fast, "-x")
        if (dataset, fast, column) == ("imdb", PUBLISHED[device], "end_to_end") and slow == "roberta-large":
            return ledger().entry(f"speed-{'cpu' if device == 'cpu' else 'gpu'}-end-to-end").value
        quick, steady = paper_speed(dataset, device, fast), paper_speed(dataset, device, slow)
        return quick / steady if column == "model" and quick and steady else None


def _over_roberta(competitor: str, claims: tuple[str, ...] = (), row: str = "") -> Ratio:
    row = f"{row or COMPETITORS[competitor]} over RoBERTa-Large"
    return Ratio(row, "model only", "roberta-large/model", f"{competitor}/model", claims, short=True)


QUOTED = ("distilroberta", "distilbert", "mobilebert", "lstm", "cnn")
RATIOS = [
    *(_over_roberta(competitor) for competitor in QUOTED),
    _over_roberta("published", ("speed-cpu-model", "speed-gpu-model"), "DAN as published"),
    _over_roberta("dan-padded", ("speed-cpu-padded",)),
    _over_roberta("dan"),
    _over_roberta("dan-1core", ("15",)),
    Ratio(
        "DAN as published over RoBERTa-Large", "end to end", "roberta-large/end_to_end", "published/end_to_end",
        ("speed-cpu-end-to-end", "speed-gpu-end-to-end"),
    ),
    *(
        Ratio(f"{name} over {COMPETITORS[slow]}", "end to end", f"{slow}/end_to_end", f"{fast}/end_to_end", (claim,))
        for slow, ending in (("roberta-large", ""), ("roberta-large-sorted", "-sorted"))
        for name, fast, claim in (("DAN", "dan", f"B8-fp32{ending}"), ("DAN, int8,", "dan-int8", f"B8-int8{ending}"))
    ),
    Ratio("DAN, int8, over fp32", "end to end", "dan/end_to_end", "dan-int8/end_to_end", ("B10",)),
    Ratio("DAN over MiniLM-L6, ONNX int8", "end to end", "minilm-onnx-int8/end_to_end", "dan/end_to_end", ("B12",)),
    Ratio("DAN over fastText", "end to end", "fasttext/end_to_end", "dan/end_to_end", ("B2-speed",)),
    Ratio("DAN as published over LSTM", "model only", "lstm/model", "published/model", ("16-speed",)),
    Ratio("DAN as published over its padded look-up", "model only", "dan-padded/model", "published/model", ("B11",)),
    Ratio("our n-grams over scikit-learn's", "tokenisation", "sklearn/tokenise", "dan/tokenise", ("B9",)),
    Ratio("the same on one core", "tokenisation", "sklearn-1core/tokenise", "dan-1core/tokenise", ("B9-1core",)),
    Ratio("scikit-learn's n-grams", "time over the model's", "sklearn/tokenise", "published/model", ("17",)),
    Ratio("our n-grams", "time over the model's", "dan/tokenise", "dan/model", ("17-ours",)),
]  # fmt: skip


def _table3(results: Results) -> Iterator[Line]:
    found = speeds(results)
    of = {key: group["value"].to_numpy() for key, group in results.samples.groupby(["dataset", "method", "name"])}
    for dataset, device in sorted(found[PANEL].drop_duplicates().itertuples(index=False, name=None)):
        chosen = found[(found["dataset"] == dataset) & (found["model"] == device) & (found["series"] == "model")]
        ours = _by_place(chosen, "competitor")
        for competitor, name in COMPETITORS.items():
            paper = paper_speed(dataset, device, competitor)
            if paper is not None and (dataset, competitor) in ours:
                yield Line(dataset, name, f"model only, {device}", "documents/s", paper, ours[dataset, competitor])
        for ratio in RATIOS:
            if device == "cuda" and ratio.fast.startswith("dan/") and ratio.slow.startswith("roberta-large/"):
                continue  # there it is the student as published
            slow, fast = (of.get((dataset, device, name)) for name in ratio.names(device))
            if slow is None or fast is None or not (ratio.short or dataset not in SHORT):
                continue
            paper = ratio.paper(dataset, device)
            if paper is not None or ratio.claims:
                quantity, value = f"{ratio.quantity}, {device}", timing.ratio(slow, fast)
                yield Line(dataset, ratio.row, quantity, "times", paper, value, ratio.claims, device)


def _table5(results: Results) -> Iterator[Line]:
    wanted = {("kd", name): variant.a for name, variant in VARIANTS.items()} | {
        ("kd", "main student"): Pick("dan", "kd")
    }
    found = _by_place(pick(results.metrics, wanted, at="row"), "row")
    for dataset in sorted({dataset for dataset, name in found if name in VARIANTS}):
        cells = quoted("T5") if dataset == "imdb" else {}
        main = cells.get(("imdb", "pooling-mean"))
        yield _accuracy(dataset, "main student (mean pooling)", main, found.get((dataset, "main student")), ())
        for name, variant in VARIANTS.items():
            paper = cells.get(("imdb", variant.quoted[0])) if variant.quoted else None
            yield _accuracy(dataset, name, paper, found.get((dataset, name)), (variant.claim,))


def _table6(results: Results) -> Iterator[Line]:
    data = domains(results)
    for (target, source), rows in data.groupby(PANEL, sort=False):
        found = _by_place(rows, "row")
        for name, step in DOMAINS.items():
            paper = quoted("T6").get((f"{source}-to-{target}", step.quoted))
            row = f"{title(str(source))} to {title(str(target))}: {name}"
            yield _accuracy(str(target), row, paper, found.get((str(target), name)), step.claims)


GRID_CLAIMS = {
    "dan": ("9 d 30 to 100", "9-diminishing"),
    "dan-v1m-d10": ("B5 dan-v1m-d10",),
    "dan-v1m-d30": ("9 d 10 to 30",),
    "dan-v333k-d30": ("8-steps 10 million, d 10 to 30",),
    "dan-v333k-d90": ("8-steps 30 million, d 30 to 90",),
    "dan-v100k-d100": ("8 10 million parameters", "8-steps 10 million, d 30 to 100", "B5 dan-v100k-d100"),
    "dan-v100k-d300": ("8 30 million parameters", "8-steps 30 million, d 90 to 300"),
}


def _table8(results: Results) -> Iterator[Line]:
    def row(ngrams: float, dimension: float) -> str:
        return f"{ngrams:,.0f} n-grams, d {dimension:g}"

    data = grid(results).sort_values(["dataset", "dimension", "x"])
    for ours in data.itertuples():
        interval = stats.Interval(ours.y, ours.low, ours.high, ours.n)
        claims = GRID_CLAIMS.get(str(ours.model), ())
        yield _accuracy(str(ours.dataset), row(ours.x, ours.dimension), None, interval, claims)
    if "imdb" in set(data["dataset"]):
        for _, ngrams, dimension, value in sorted(quoted_grid()):
            yield _accuracy("imdb", row(ngrams, dimension), value, None, ())


# Row of table 9, whose tokeniser is timed for it, and the claim
TOKENISERS = {
    "BPE (RoBERTa), all cores": ("bpe", "roberta-large", ()),
    "WordPiece (DistilBERT), all cores": ("wordpiece", "distilbert", ()),
    "n-grams, scikit-learn, one core": ("ngram", "sklearn-1core", ()),
    "n-grams, scikit-learn, all cores": ("", "sklearn", ()),
    "n-grams, ours, one core": ("", "dan-1core", ("B9-1core",)),
    "n-grams, ours, all cores": ("", "dan", ("B9",)),
}


def _table9(results: Results) -> Iterator[Line]:
    rows = results.samples[results.samples["model"] == "table-12"]
    for (dataset, device), group in rows.groupby(["dataset", "method"]):
        for name, (row, competitor, named) in TOKENISERS.items():
            seconds = 25_000 * group.loc[group["name"] == f"{competitor}/tokenise", "value"].to_numpy()
            if len(seconds):
                claims = named if dataset == "imdb" else ()
                paper = quoted("T9").get((str(dataset), row))
                ours = timing.median_interval(seconds)
                yield Line(str(dataset), name, "25,000 texts", "seconds", paper, ours, claims, str(device))


LOOK_UPS = {  # quantity -> what records call it, our unit of it, and how many of theirs that is
    "size of the table": ("table_bytes", "GB", 1e9),
    "look-ups per text": ("look_ups_per_document", "rows", 1.0),
    "bytes per look-up": ("bytes_per_look_up", "bytes", 1.0),
    "time per look-up": ("look_up_ns", "ns", 1.0),
    "rows read": ("bytes_per_s", "GB/s", 1e9),
    "... of what memory gives in order": ("share_of_read", "%", 0.01),
}
TABLES_OF = ("dan-torch", "dan", "dan-1core", "dan-bf16", "dan-int8", "dan-int8-1core")


def _look_ups(results: Results) -> Iterator[Line]:
    rows = results.metrics[results.metrics["model"] == "table-12"]
    for (dataset, device), group in rows.groupby(["dataset", "method"]):
        found = group.set_index("metric")["value"]
        for competitor in TABLES_OF:
            for quantity, (name, unit, scale) in LOOK_UPS.items():
                value, low, high = (
                    found.get(f"{competitor}/{name}{limit}", np.nan) / scale for limit in ("", "/low", "/high")
                )
                if not np.isnan(value):
                    several = _rounds(results, str(dataset), str(device)) if low < high else 1
                    ours = stats.Interval(value, low, high, several)
                    yield Line(str(dataset), f"{COMPETITORS[competitor]}, {device}", quantity, unit, None, ours)


def _rounds(results: Results, dataset: str, device: str) -> int:
    rows = results.samples[(results.samples["dataset"] == dataset) & (results.samples["method"] == device)]
    return int(rows.groupby("name")["value"].size().max())


STEPS = {
    1: ("10 step 1 to 2 above five steps 2 to 3",),
    3: ("10 step 2 to 3 above step 3 to 4", "10-flat"),
}
TRAINED = {1: ("B13 n = 1",), 2: ("B13 n <= 2",)}


def _table10(results: Results) -> Iterator[Line]:
    """On data sets that the paper has or on which students were trained with shorter n-grams; a figure has the rest."""
    sizes = {("size", n): Pick("dan", MAIN, f"vocabulary/n{n}") for n in LENGTHS}
    data = pick(results.metrics, NGRAMS | sizes)
    found = {str(name): _by_place(rows, "x") for name, rows in data.groupby("series")}
    disabled, trained = found.get(f"disabled/{MAIN}", {}), found.get("trained", {})
    for dataset in data["dataset"].unique():
        if dataset != "imdb" and (dataset, 1) not in trained:
            continue
        for n in LENGTHS:
            row, cells = f"n <= {n}", quoted("T10") if dataset == "imdb" else {}
            left = found.get("size", {}).get((dataset, n))
            yield Line(dataset, row, "left", "n-grams", cells.get(("imdb-size", f"n{n}")), left and _alike(left))
            paper, ours = cells.get(("imdb", f"n{n}")), disabled.get((dataset, n))
            line = _accuracy(dataset, row, paper, ours, STEPS.get(n, ()))
            yield line._replace(quantity="accuracy, longer ones disabled")
            if (dataset, 1) in trained:
                line = _accuracy(dataset, row, None, trained.get((dataset, n)), TRAINED.get(n, ()))
                yield line._replace(quantity="accuracy, trained with these (KD)")


def _alike(interval: stats.Interval) -> stats.Interval:
    """A property of the vocabulary, which all seeds share."""
    return interval._replace(low=np.nan, high=np.nan, n=1)


OVERLAPS = {
    "vocabulary seen in the training set": ("v0-in-train", "coverage/v0-in-train"),
    "vocabulary seen in the test set": ("v0-in-dev", "coverage/v0-in-test"),
    "test set's n-grams in the vocabulary": ("dev-by-v0", "coverage/test-by-v0"),
    "... and seen in the training set": ("dev-by-both", "coverage/test-by-v0-and-train"),
}


def _table13(results: Results) -> Iterator[Line]:
    wanted = {("kd", name): Pick("dan", "kd", metric) for name, (_, metric) in OVERLAPS.items()}
    for (dataset, name), ours in sorted(
        _by_place(pick(results.metrics, wanted, at="row"), "row").items(), key=_by_task
    ):
        paper = quoted("T13").get((dataset, OVERLAPS[name][0]))
        yield Line(dataset, name, "share", "%", paper, _alike(percent_of(ours)))


DISTILLED = ("kd",)
TABLES = (
    _table(
        "table2", "The main result, the paper's table 2, with the baselines that it lacks.", _table2,
        methods=tuple(dict.fromkeys([*(s.cell.method for s in STUDENTS.values()), "kd-train"])),
        models=tuple(dict.fromkeys(s.cell.model for s in STUDENTS.values())),
    ),
    _table(
        "table3",
        "Speed, the paper's tables 3 and 12: what the paper has a number for or the ledger claims; the figure 'speed' "
        "shows the rest. Ratios end to end are derived, as the paper leaves tokenisation out.",
        _table3, experiments=("timing",), models=("table-12",),
    ),
    _table(
        "table5", "Variants of the student (KD), the paper's table 5.", _table5, methods=DISTILLED,
        models=("dan", *(variant.a.model for variant in VARIANTS.values())),
    ),
    _table("table6", "Domain generalisation, the paper's table 6.", _table6, models=("dan",)),
    _table(
        "table8",
        "Vocabulary and dimension, the paper's table 8 (KD). No size is in both: ours are below the paper's smallest.",
        _table8, methods=DISTILLED,
    ),
    _table(
        "table9",
        "Tokenising 25,000 texts, as the paper's table 9, which is of IMDB's training set with one worker; ours of "
        "test texts in batches of 32, scaled to as many. Sub-words on all cores.",
        _table9, experiments=("timing",), models=("table-12",),
    ),
    _table(
        "look-ups",
        "The model's look-ups ('model only') on the timed texts, in tables of 1,000 dimensions and a million n-grams "
        "or as many as a task's text has: time and bytes of each, and how near they come to what memory gives when it "
        "is read in order. The same texts come again in every round, so a cache holds a part of their rows.",
        _look_ups, experiments=("timing",), models=("table-12",),
    ),
    _table(
        "table10", "Shorter n-grams, the paper's table 10 (KD + fine-tuning), and students trained with them.",
        _table10, methods=("kd", MAIN), models=("dan", "dan-n1", "dan-n2", "dan-n3"),
    ),
    _table(
        "table13", "What the vocabulary has in common with the data, the paper's table 13. The paper's sets are its "
        "development sets, ours the test sets.", _table13, methods=DISTILLED, models=("dan",),
    ),
)  # fmt: skip
