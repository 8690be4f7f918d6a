"""Which records the figures and tables of "Reduce, Reuse, Recycle" show, and what is computed from them.

An arm is a way of training a student; its runs are called ``<arm>@<duration>``, durations being epochs for images and
optimiser steps for masked language models. Times are those of training: data, student and teacher forward passes.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from paper_repro import iso_quality
from paper_repro.iso_quality import Curve
from paper_repro.ledger import Check, Ledger, load_ledger
from paper_repro.ledger.loader import Part
from paper_repro.plots.series import PANEL
from paper_repro.plots.source import Results
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
)
from paper_repro.stats import RESAMPLES, Interval

BASELINE, WHOLE = "ce", "kd"  # no teacher, and one teacher at every step: what the other arms are compared with
DATA = {"cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10", "imdb": "IMDB, masked LM"}


class Arm(NamedTuple):
    """How an arm is drawn everywhere, and what of it the records do not say.

    ``teacher``: the name of the one teacher that it asks; empty where there is none or where there are several.
    ``share``: of the steps, those that ask.
    """

    look: Look
    teacher: str = ""
    share: float = 0.0


FIRST_HALF = "first 50 % (kd-half, kd-50)"  # two names, as the tasks' windows are called differently
ARMS = {
    "ce": Arm(Look("no teacher (ce)", GREY, "x", DOTTED)),
    "ce-aug": Arm(Look("no teacher, augmented (ce-aug)", BLACK, "+", DASHED)),
    "smooth": Arm(Look("no teacher, smoothed labels (smooth)", BLACK, "1", DOTTED)),
    "kd": Arm(Look("teacher at every step (kd)", BLUE, "s"), "same", 1.0),
    "kd-half": Arm(Look(FIRST_HALF, GREEN, "^", DASHED), "same", 0.5),
    "kd-50": Arm(Look(FIRST_HALF, GREEN, "^", DASHED), "same", 0.5),
    "kd-35": Arm(Look("first 35 % (kd-35)", SKY, "p", DASH_DOT), "same", 0.35),
    "kd-quarter": Arm(Look("first 25 % (kd-quarter)", SKY, "v", DOTTED), "same", 0.25),
    "kd-20": Arm(Look("first 20 % (kd-20)", PURPLE, "v", DOTTED), "same", 0.2),
    "kd-half-fade": Arm(Look("first 50 %, fading (kd-half-fade)", GREEN, "h", DOTTED), "same", 0.5),
    "kd-35-fade": Arm(Look("first 35 %, fading (kd-35-fade)", SKY, "h", DOTTED), "same", 0.35),
    "kd-every2": Arm(Look("every second step (kd-every2)", PURPLE, "P", DASH_DOT), "same", 0.5),
    "kd-mse": Arm(Look("MSE on logits (kd-mse)", PURPLE, "D", DASHED), "same", 1.0),
    "kd-reversed": Arm(Look("KL reversed (kd-reversed)", PURPLE, ">", DOTTED), "same", 1.0),
    "kd-positions": Arm(Look("softmax over positions (kd-positions)", PURPLE, "X", DASHED), "same", 1.0),
    "kd-everywhere": Arm(Look("all positions (kd-everywhere)", PURPLE, "H"), "same", 1.0),
    "kd-worst": Arm(Look("a poor teacher (kd-worst)", BLACK, "v", DASH_DOT), "worst", 1.0),
    "kd-wide": Arm(Look("a wider teacher (kd-wide)", SKY, "<", DASHED), "wide", 1.0),
    "kd-deep": Arm(Look("a deeper teacher (kd-deep)", SKY, ">", DASH_DOT), "deep", 1.0),
    "kd-big": Arm(Look("bigger teacher (kd-big)", ORANGE, "o", DASH_DOT), "big", 1.0),
    "kd-big-35": Arm(Look("bigger, first 35 % (kd-big-35)", ORANGE, "d", DOTTED), "big", 0.35),
    "kd-cached": Arm(Look("bigger, logits cached (kd-cached)", VERMILION, "D", DASHED), "big", 1.0),
    "kd-sampled": Arm(Look("one of four drawn (kd-sampled)", GREY, "*"), "", 1.0),
    "kd-ensemble": Arm(Look("mean of four (kd-ensemble)", BLACK, "8", DASHED), "", 1.0),
}
LOOKS = {name: arm.look for name, arm in ARMS.items()}
# By one teacher at every step, and what it is called
TAUGHT = {arm: ARMS[arm].teacher for arm in ("kd", "kd-worst", "kd-wide", "kd-deep", "kd-big", "kd-cached")}
MAIN = ("ce", "ce-aug", "kd", "kd-half", "kd-50", "kd-35", "kd-big", "kd-cached")

RUN = [*PANEL, "arm", "duration", "seed"]
QUALITIES = ("accuracy", "loss")  # of the test set
TRAINING = (
    "seconds", "teacher_seconds", "steps", "teacher_passes", "teacher_training_seconds", "labelling_seconds",
    "training_flops",
)  # fmt: skip


def named(arms: Iterable[str]) -> set[str]:
    """``arms`` for a legend: one of those that share a label."""
    return set({LOOKS[arm].label if arm in LOOKS else arm: arm for arm in sorted(arms)}.values())


def title(dataset: str, _: str = "") -> str:
    """What people call a task."""
    return DATA.get(dataset, dataset)


@cache
def ledger() -> Ledger:
    """What the paper says."""
    return load_ledger("recycle")


def runs(results: Results) -> pd.DataFrame:
    """One row per student's run: ``RUN``, ``QUALITIES``, ``TRAINING`` (NaN where not recorded).

    ``measure`` is "accuracy" for images and "loss" for language models, which are the tasks whose duration is their
    number of steps. ``quality`` is what is to be high: the accuracy, or the loss with a minus sign.
    """
    rows = results.metrics[results.metrics["experiment"] == "student"]
    wanted = (rows["split"] == "test") & rows["metric"].isin(QUALITIES)
    rows = rows[wanted | ((rows["split"] == "train") & rows["metric"].isin(TRAINING))]
    names = rows["method"].str.extract(r"^(?P<arm>.+)@(?P<duration>[\d.e+]+)$")
    rows = rows.assign(arm=names["arm"], duration=names["duration"].astype(float)).dropna(subset="arm")
    wide = rows.pivot_table(index=RUN, columns="metric", values="value", aggfunc="first")
    wide = wide.reindex(columns=[*QUALITIES, *TRAINING]).reset_index().rename_axis(columns=None)
    in_steps = (wide["steps"] == wide["duration"]).groupby([wide[name] for name in PANEL]).transform("all")
    loss = in_steps.astype(bool)
    wide["measure"] = np.where(loss, "loss", "accuracy")
    wide["quality"] = np.where(loss, -wide["loss"], wide["accuracy"])
    return wide.dropna(subset=["quality", "seconds"]).reset_index(drop=True)


class Task:
    """The runs of one student on one data set."""

    def __init__(self, panel: tuple[str, str], rows: pd.DataFrame, tier: str) -> None:
        self.dataset, self.model = self.panel = panel
        self.rows = rows
        self.measure = str(rows["measure"].iloc[0])
        self.arms = [name for name in ARMS if name in set(rows["arm"])]
        self.arms += sorted(set(rows["arm"]) - set(ARMS))
        self.tier = tier

    def of(self, arm: str, duration: float | None = None) -> pd.DataFrame:
        """The runs of an arm, of one duration where it is given."""
        rows = self.rows[self.rows["arm"] == arm]
        return rows if duration is None else rows[rows["duration"] == duration]

    @property
    def duration(self) -> float:
        """At which qualities are compared: what most of the ledger's claims name, else the baseline's middle one."""
        return self.duration_for(self.arms)

    def duration_for(self, arms: Iterable[str]) -> float:
        """The same by the claims of speed-up of ``arms``. NaN where the baseline was not run."""
        durations = sorted(self.of(BASELINE)["duration"].unique())
        known = [iso.at for _, _, part, iso in isos(self.tier) if iso.arm in set(arms) and _is_of(part, self)]
        at = [duration for duration in known if duration in durations]
        if at:
            return max(at, key=at.count)
        return float(durations[len(durations) // 2]) if durations else float("nan")

    def after(self, duration: float) -> str:
        """A duration with its unit."""
        return f"{duration:g} {'steps' if self.measure == 'loss' else 'epochs'}"

    def shown(self, quality: float) -> float:
        """A quality in the unit in which it is shown: a loss without its minus sign."""
        return -quality if self.measure == "loss" else quality


def teaching_duration(task: Task) -> float:
    """At which teachers of different quality are compared: what most claims of other teachers than "same" name."""
    return task.duration_for([arm for arm in TAUGHT if arm not in (WHOLE, "kd-cached")])


def tasks(results: Results) -> Iterator[Task]:
    """Every task that has runs, images first."""
    found = runs(results)
    for (_, dataset, model), rows in found.groupby(["measure", *PANEL]):
        yield Task((str(dataset), str(model)), rows, results.tier)


# ---------------------------------------------------------------------------------------------------------------------
# Speed-up at equal quality


class Pair(NamedTuple):
    """The curves of two arms over the seeds that both have at all of their durations; row i is the same seed."""

    baseline: Curve
    method: Curve
    at: float  # the quality asked for

    @property
    def range(self) -> tuple[float, float] | None:
        """The qualities that both reach."""
        return iso_quality.common_range(self.baseline, self.method)

    def speedup(self, quality: float | None = None, resamples: int = RESAMPLES) -> Interval | None:
        """At ``quality``, or where none is given at that asked for; None where one of the curves does not reach it."""
        wanted = self.at if quality is None else quality
        try:
            return _speedup(_fixed(self.baseline), _fixed(self.method), wanted, resamples)
        except ValueError:
            return None

    def at_most(self) -> Interval | None:
        """The upper limit of a speed-up that does not exist as the method ends below the quality asked for; or None."""
        try:
            return iso_quality.speedup_at_most(self.baseline, self.method, self.at)
        except ValueError:
            return None

    def break_even(self, teacher_s: float) -> float:
        """Students that must share ``teacher_s`` seconds; infinity where the method saves nothing."""
        return iso_quality.break_even(self.baseline, self.method, self.at, teacher_s)


Fixed = tuple[tuple[tuple[float, ...], ...], ...]


def _fixed(curve: Curve) -> Fixed:
    return tuple(tuple(map(tuple, values.tolist())) for values in (curve.seconds, curve.quality))


@lru_cache(maxsize=4096)  # several figures and tables show the same speed-up
def _speedup(baseline: Fixed, method: Fixed, quality: float, resamples: int) -> Interval:
    slow, fast = (Curve(*(np.array(values) for values in curve)) for curve in (baseline, method))
    return iso_quality.speedup(slow, fast, quality, resamples=resamples)


def pair(
    task: Task, arm: str, baseline: str = BASELINE, charged: Mapping[str, float] | None = None, at: float | None = None,
    cost: str = "seconds",
) -> Pair | None:  # fmt: skip
    """Two arms as curves, as the ledger's checks compare them; None where one has fewer than two durations.

    ``cost``: what is compared at equal quality. ``charged``: metrics in its unit that are added to each run of ``arm``,
    times a weight. The quality asked for is the baseline's mean at the duration ``at`` (None: ``Task.duration``).
    """
    at = task.duration if at is None else at
    chosen = []
    for name in (baseline, arm):
        rows = task.of(name)
        total = rows[cost]
        for metric, weight in (charged or {}).items() if name == arm else ():
            total = total + weight * rows[metric]
        rows = rows.assign(cost=total)
        chosen.append([rows.pivot(index="seed", columns="duration", values=name) for name in ("cost", "quality")])
    shared = sorted(set.intersection(*(set(frame.dropna().index) for frames in chosen for frame in frames)))
    if not shared or at not in chosen[0][0]:
        return None
    try:
        slow, fast = (Curve(*(frame.loc[shared].to_numpy() for frame in frames)) for frames in chosen)
    except ValueError:  # one duration only, or times that do not ascend
        return None
    return Pair(slow, fast, float(chosen[0][1].loc[shared, at].mean()))


class Limits(NamedTuple):
    """An interval as figures write it: JSON has no infinity. ``open``: the upper limit is infinite."""

    y: float
    low: float
    high: float
    n: int
    open: bool


LIMITS = list(Limits._fields)


def limits(interval: Interval) -> Limits:
    """``interval`` without its infinities."""
    estimate, low, high, n = interval
    return Limits(estimate, low, high if np.isfinite(high) else float("nan"), n, bool(np.isinf(high)))


# ---------------------------------------------------------------------------------------------------------------------
# What the ledger claims of a number


def isos(tier: str) -> Iterator[tuple[str, Check, Part, Any]]:
    """The claims of a speed-up at ``tier``: name, check, part and what is compared."""
    for name, check in checks(tier):
        for part in check.parts:
            iso = part.iso or check.iso
            if iso is not None:
                yield name, check, part, iso


def checks(tier: str) -> Iterator[tuple[str, Check]]:
    """The claims that ``tier`` can judge, by their names without the paper's."""
    for entry in ledger().entries:
        for name, check in entry.checks.items():
            if name == tier:
                yield entry.id.partition("/")[2], check


def claim(name: str, part: Part) -> str:
    """The claim's part as tables of claims name it."""
    return f"{name} {part.label}" if part.label else name


def _is_of(part: Part, task: Task) -> bool:
    return part.dataset in (None, task.dataset) and part.model in (None, task.model)


class Comparison(NamedTuple):
    """A speed-up: arm, baseline, what is charged, the baseline's duration whose quality is asked for, and in what."""

    arm: str
    baseline: str
    charged: tuple[tuple[str, float], ...]
    at: float
    cost: str = "seconds"


def speedup_claims(task: Task) -> dict[Comparison, list[str]]:
    """The claims of speed-ups on ``task``, by what they compare."""
    found: dict[Comparison, list[str]] = {}
    for name, _, part, iso in isos(task.tier):
        if _is_of(part, task):
            compared = Comparison(iso.arm, iso.baseline, tuple(sorted(iso.charged.items())), iso.at, iso.cost)
            found.setdefault(compared, []).append(claim(name, part))
    return found


class Difference(NamedTuple):
    """A claim of a difference of quality, and the smallest effect that matters to it."""

    name: str
    smallest_effect: float


def difference_claims(task: Task) -> dict[tuple[str, str], list[Difference]]:
    """The claims of one method's quality minus another's on ``task``, by the two ("kd@4", "ce@4")."""
    found: dict[tuple[str, str], list[Difference]] = {}
    for name, check in checks(task.tier):
        for part in check.parts:
            terms = part.terms if part.terms is not None else check.terms or []
            methods = {term.weight: term.method for term in terms if term.metric == task.measure}
            a, b = methods.get(1), methods.get(-1)
            if len(terms) == 2 and isinstance(a, str) and isinstance(b, str) and _is_of(part, task):
                tolerance = check.tolerance if part.tolerance is None else part.tolerance
                found.setdefault((a, b), []).append(Difference(claim(name, part), tolerance))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Teachers, and the share of a step that asking one costs


def teachers(results: Results) -> pd.DataFrame:
    """Every teacher: dataset, teacher, architecture, accuracy, loss (of the test set; NaN where not recorded)."""
    rows = results.metrics[(results.metrics["experiment"] == "teacher") & (results.metrics["split"] == "test")]
    rows = rows[rows["metric"].isin(QUALITIES)].rename(columns={"method": "teacher", "model": "architecture"})
    wide = rows.pivot_table(index=["dataset", "teacher", "architecture"], columns="metric", values="value")
    return wide.reindex(columns=list(QUALITIES)).reset_index().rename_axis(columns=None)


def timed(results: Results) -> pd.DataFrame:
    """What was timed at synthetic input: a row per pair of architectures ("student|teacher") and device.

    Columns: device, pair, and the metrics of the record.
    """
    rows = results.metrics[results.metrics["experiment"] == "timing"]
    rows = rows.rename(columns={"method": "device", "model": "pair"})
    wide = rows.pivot_table(index=["device", "pair"], columns="metric", values="value", aggfunc="first")
    return wide.reset_index().rename_axis(columns=None)
