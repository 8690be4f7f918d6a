"""Tables of "Reduce, Reuse, Recycle": the paper beside ours, with the ledger's verdicts, and GLUE.

The paper's only numbers that could be read are its two best speed-ups.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from paper_repro import stats
from paper_repro.plots.recycle_cells import (
    BASELINE,
    LOOKS,
    TAUGHT,
    WHOLE,
    Comparison,
    Task,
    checks,
    difference_claims,
    ledger,
    pair,
    speedup_claims,
    tasks,
    teachers,
    teaching_duration,
    timed,
    title,
)
from paper_repro.plots.recycle_costs import pair_title
from paper_repro.plots.save import Plot
from paper_repro.plots.series import PANEL, in_order
from paper_repro.plots.side_by_side import Line, as_text, percent_of, side_by_side
from paper_repro.plots.source import Results
from paper_repro.plots.style import look_of

SCRIPT = "paper_repro/plots/recycle_tables.py"
BEST = {"accuracy": "R1", "loss": "R2"}  # the paper's best speed-up of each kind of task
UNTAUGHT = ("ce-aug", "smooth")  # other ways to train without a teacher
UNITS = {"accuracy": "%", "loss": "nat"}


def _table(id: str, caption: str, lines: Callable[[Results], Iterator[Line]], *experiments: str) -> Plot:
    def draw(data: pd.DataFrame) -> pd.DataFrame:
        return as_text(data.assign(dataset=data["dataset"].map(title)))

    return Plot(
        id=id, paper="recycle", caption=caption, script=SCRIPT, kind="table", experiments=experiments or ("student",),
        methods=None, data=lambda results: side_by_side(results, ledger(), lines(results)), draw=draw,
    )  # fmt: skip


def _label(arm: str) -> str:
    return look_of(arm, LOOKS).label


# ---------------------------------------------------------------------------------------------------------------------
# Speed-ups


def _speedups(results: Results) -> Iterator[Line]:
    """The best arm of each task beside the paper's best, each arm over ce, and what else the ledger compares."""
    for task in tasks(results):
        claims = speedup_claims(task)
        asked = [
            Comparison(arm, BASELINE, (), task.duration, cost)
            for cost in ("seconds", "training_flops")
            for arm in task.arms
            if arm != BASELINE
        ]
        lines = {compared: _speedup(task, compared, claims) for compared in dict.fromkeys([*asked, *claims])}
        timed = [compared for compared in asked if compared.cost == "seconds" and compared.arm not in UNTAUGHT]
        known = [line for compared in timed if (line := lines[compared]).ours]
        if known:
            best = max(known, key=lambda line: line.ours.estimate if line.ours else 0.0)
            number = BEST[task.measure]
            yield best._replace(row=f"best: {best.row}", paper=ledger().entry(number).value, claims=(number,))
        yield from (line for line in lines.values() if line.ours or line.claims)


def _speedup(task: Task, compared: Comparison, claims: Mapping[Comparison, list[str]]) -> Line:
    both = None
    if {compared.arm, compared.baseline} <= set(task.arms):
        both = pair(task, compared.arm, compared.baseline, dict(compared.charged), compared.at, compared.cost)
    paid = "".join(f", charged {_paid(name, weight)}" for name, weight in compared.charged)
    kind = "speed-up" if compared.cost == "seconds" else "speed-up in FLOPs"
    quantity = f"{kind} to the quality of {compared.baseline} after {task.after(compared.at)}"
    ours = both.speedup() if both else None
    return Line(
        task.dataset, _label(compared.arm) + paid, quantity, "times", None, ours, tuple(claims.get(compared, ()))
    )


def _paid(metric: str, weight: float) -> str:
    what = metric.removesuffix("_seconds").replace("_", " ")
    return what if weight == 1 else f"1/{1 / weight:.3g} of {what}"


SPEEDUP_TABLE = _table(
    "speedup-table",
    "Speed-up: wall-clock of the baseline that is named to a quality over that of the arm; in FLOPs, the same of the "
    "operations counted, which no machine's clock disturbs. Where there is a claim and no number, there are no runs, "
    "or the curves do not both have that quality. The paper's numbers are its best ones, of which teacher, duration "
    "and quality were not found. Teacher forward passes are counted, training the teacher is not unless it says so. "
    "Intervals: 95 % over seeds.",
    _speedups,
)


# ---------------------------------------------------------------------------------------------------------------------
# Teachers, variants at equal steps


def _quality(interval: stats.Interval, measure: str) -> stats.Interval:
    return percent_of(interval) if measure == "accuracy" else interval


def _teacher_lines(results: Results) -> Iterator[Line]:
    known = teachers(results)
    for task in tasks(results):
        own = known[known["dataset"] == task.dataset].sort_values(task.measure, ascending=task.measure != "loss")
        unit, claims = UNITS[task.measure], speedup_claims(task)
        at = teaching_duration(task)
        for row in own.itertuples():
            value = stats.Interval(getattr(row, task.measure), np.nan, np.nan, 1)
            name = f"{row.teacher} ({row.architecture})"
            yield Line(task.dataset, name, task.measure, unit, None, _quality(value, task.measure))
            for arm in (arm for arm, teacher in TAUGHT.items() if teacher == row.teacher and arm in task.arms):
                student = f"... its student ({arm})"
                qualities = task.of(arm, at)[task.measure].to_numpy()
                if len(qualities):
                    ours = _quality(stats.mean_interval(qualities), task.measure)
                    yield Line(task.dataset, student, f"{task.measure} after {task.after(at)}", unit, None, ours)
                line = _speedup(task, Comparison(arm, BASELINE, (), at), claims)
                if line.ours:
                    yield line._replace(row=student)


TEACHER_TABLE = _table(
    "teacher-table",
    "The teachers from the poorest to the best, their students at the duration that the ledger names, and what these "
    "gain. A teacher is one run. Intervals: 95 % over seeds.",
    _teacher_lines,
    "student", "teacher",
)  # fmt: skip


def _differences(results: Results) -> Iterator[Line]:
    """Of each arm to kd at equal steps, and what else the ledger compares."""
    for task in tasks(results):
        claims = difference_claims(task)
        at = f"@{task.duration:g}"
        pairs = [(arm + at, WHOLE + at) for arm in task.arms if arm != WHOLE]
        pairs = [(b, a) if (b, a) in claims else (a, b) for a, b in pairs]
        for a, b in dict.fromkeys([*pairs, *claims]):
            values = [_of_method(task, method) for method in (a, b)]
            difference = (values[0] - values[1]).dropna().to_numpy()
            if len(difference):
                ours = _quality(stats.mean_interval(difference), task.measure)
                unit, what = ("points", "above") if task.measure == "accuracy" else ("nat", "below")
                names = tuple(claim.name for claim in claims.get((a, b), []))
                yield Line(task.dataset, a, f"{task.measure} {what} that of {b}", unit, None, ours, names)


def _of_method(task: Task, method: str) -> pd.Series:
    arm, _, duration = method.partition("@")
    return task.of(arm, float(duration)).set_index("seed")["quality"]


VARIANT_TABLE = _table(
    "variant-table",
    "Differences of quality on the test set, paired by seed: variants against distillation at every step (kd), and "
    "what else the ledger compares. After @: epochs of images, steps of language models. Above zero is better, also "
    "for a loss. Intervals: 95 % over seeds.",
    _differences,
)


# ---------------------------------------------------------------------------------------------------------------------
# Steps

QUANTITIES = {
    "cost_ratio": ("c_t / c_b, a teacher's forward pass over a step without", "ratio"),
    "overhead/full": ("step with one teacher over one without", "ratio"),
    "overhead/window-0.25": ("the same where one of four steps asks", "ratio"),
    "slope/sampled": ("one more teacher to draw from (0 expected)", "forward passes"),
    "slope/ensemble": ("one more teacher in the mean (1 expected)", "forward passes"),
    "forward_ratio": ("forward pass in the pool over a bare one", "ratio"),
    "overhead/loader": ("step with one teacher over one without, waiting for data", "ratio"),
}  # fmt: skip


def _step_lines(results: Results) -> Iterator[Line]:
    for _, row in timed(results).iterrows():
        known = [str(name) for name in row.dropna().index]
        agreements = {
            name: (f"measured over predicted, {name.partition('/')[2]}", "ratio")
            for name in known
            if name.startswith("agreement/") and name.count("/") == 1
        }
        models, device = row["pair"], row["device"]
        for metric, (quantity, unit) in (QUANTITIES | agreements).items():
            if metric in known:
                low, high = (row.get(f"{metric}/{end}", np.nan) for end in ("low", "high"))
                ours = stats.Interval(row[metric], low, high, _rounds(results, models, device))
                claims = tuple(_timing_claims(results.tier, models, device, metric))
                yield Line("synthetic", pair_title(models, device), quantity, unit, None, ours, claims)


def _rounds(results: Results, pair: str, device: str) -> int:
    rows = results.samples
    rows = rows[(rows["model"] == pair) & (rows["method"] == device) & (rows["name"] == "plain/step")]
    return len(rows)


def _timing_claims(tier: str, models: str, device: str, metric: str) -> Iterator[str]:
    """The claims of a metric, or of the two series that an overhead compares, for a pair of architectures."""
    kind, _, name = metric.partition("/")
    series = (f"{name}/step", "plain/step") if kind == "overhead" else None
    for entry, check in checks(tier):
        for part in check.parts if check.experiment == "timing" else ():
            terms = part.terms if part.terms is not None else check.terms or []
            rounds = check.speedup and (check.speedup.slow.sample, check.speedup.fast.sample)
            named = rounds == series if rounds else metric in {term.metric for term in terms}
            if named and part.model in (None, models) and part.method in (None, device):
                yield f"{entry} {part.label or part.model or ''}".strip()


STEP_TABLE = _table(
    "step-table",
    "Time of a training step with and without teachers, at random weights and synthetic input, interleaved in one "
    "process: medians over rounds, which n counts, with 95 % intervals. Predicted: 1 + X m c_t / c_b. Waiting for "
    "data: from a loader that is slower than a step with a teacher, which hides behind it.",
    _step_lines,
    "timing",
)


# ---------------------------------------------------------------------------------------------------------------------
# GLUE

GLUE_TASKS = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "rte": "RTE"}
MEAN = "mean"


def _glue_data(results: Results) -> pd.DataFrame:
    """GLUE's score of each task and their mean, by student; also each minus the baseline's of equal duration.

    Columns: dataset (or "mean"), model, arm, duration, quantity (score, or difference, paired by seed), y, low, high,
    n. Means are over the seeds that have all tasks.
    """
    rows = results.metrics[(results.metrics["metric"] == "score") & (results.metrics["split"] == "validation")]
    names = rows["method"].str.extract(r"^(?P<arm>.+)@(?P<duration>[\d.e+]+)$")
    rows = rows.assign(arm=names["arm"].fillna(rows["method"]), duration=names["duration"].astype(float).fillna(0))
    wide = rows.pivot_table(
        index=["model", "arm", "duration", "seed"], columns="dataset", values="value", aggfunc="first"
    )
    wide[MEAN] = wide.mean(axis=1, skipna=False)
    found: list[tuple[Any, ...]] = []
    for (model, arm, duration), group in wide.groupby(["model", "arm", "duration"]):
        scores = {"score": group.droplevel([0, 1, 2])}
        if arm != BASELINE and (model, BASELINE, duration) in wide.index.droplevel("seed"):
            scores["difference"] = scores["score"] - wide.loc[(model, BASELINE, duration)]
        for quantity, frame in scores.items():
            for dataset in frame.columns:
                values = frame[dataset].dropna().to_numpy()
                if len(values):
                    found.append((dataset, model, arm, duration, quantity, *stats.mean_interval(values)))
    data = pd.DataFrame(found, columns=[*PANEL, "arm", "duration", "quantity", "y", "low", "high", "n"])
    order = {name: place for place, name in enumerate(in_order(data["arm"], LOOKS))}
    return data.sort_values(["model", "duration", "arm"], key=lambda s: s.map(order) if s.name == "arm" else s,
                            kind="stable", ignore_index=True)  # fmt: skip


def _glue(data: pd.DataFrame) -> pd.DataFrame:
    tasks_ = [name for name in (*GLUE_TASKS, *data["dataset"].unique(), MEAN) if name in set(data["dataset"])]
    columns = [*dict.fromkeys(name for name in tasks_ if name != MEAN), MEAN]
    lines = []
    for (model, duration, arm), group in data.groupby(["model", "duration", "arm"], sort=False):
        cells = group.set_index(["quantity", "dataset"])
        line = {"student": model, "arm": _label(arm), "steps": f"{duration:g}"}
        line |= {GLUE_TASKS.get(name, name): _cell(cells, ("score", name)) for name in columns}
        line["mean minus ce's"] = _cell(cells, ("difference", MEAN))
        lines.append({**line, "seeds": f"{group['n'].max():g}"})
    return pd.DataFrame(lines)


def _cell(cells: pd.DataFrame, at: tuple[str, str]) -> str:
    """Mean and half of the interval, in points."""
    if at not in cells.index:
        return "-"
    row = cells.loc[at]
    if pd.isna(row["low"]):
        return f"{100 * row['y']:.1f}"
    return f"{100 * row['y']:.1f} ± {50 * (row['high'] - row['low']):.1f}"


GLUE = Plot(
    id="glue",
    paper="recycle",
    script=SCRIPT,
    experiments=("glue",),
    methods=None,
    kind="table",
    caption=(
        "Students that were pretrained in equally many steps, fine-tuned on tasks of GLUE: its score of each, in "
        "points, on the official development sets, on which no setting was chosen (CoLA: Matthews correlation; MRPC: "
        "mean of accuracy and F1; STS-B: mean of Pearson's and Spearman's correlation; else accuracy). Mean over "
        "seeds and half of the 95 % interval; differences are paired by seed."
    ),
    data=_glue_data,
    draw=_glue,
)
