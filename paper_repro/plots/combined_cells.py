"""The combined experiment's records as one row per technique: quality, what it took, and what it costs deployed."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from paper_repro import stats
from paper_repro.plots.source import Results

PLAIN, TEACHER, SUMMONS, CORPUS = "plain", "teacher", "+teacher", "+corpus"
COLUMNS = [
    "dataset", "model", "technique", "arm", "accuracy", "low", "high", "n", "n_test", "gain", "gain_low", "gain_high",
    "deferred", "student_s", "teacher_s", "labelling_s", "latency_s", "latency_s/high", "throughput_per_s",
    "throughput_per_s/low", "weights_bytes",
]  # fmt: skip
SAME = 1.05  # costs nearer than this are equal: clocks of two processes on one machine differ by as much (our choice)


def techniques(results: Results) -> pd.DataFrame:
    """One row per data set and technique: the teacher, each arm, and each timed arm's cascade ("<arm>+teacher").

    ``accuracy`` is a mean over ``n`` seeds on ``n_test`` examples, its interval as of ``accuracy_interval``; ``gain``
    is over plain training, paired by seed; ``deferred`` a share of the test examples. Seconds of training: the
    student's own, and where a technique needs them the teacher's and those of labelling. ``latency_s``: of an example
    alone; ``throughput_per_s`` in batches: medians over rounds with a limit, means over the timed seeds. Of seconds of
    training it is the median over seeds, as what else a machine does makes single runs slower. NaN for what was not
    measured.
    """
    rows = [row for dataset, part in results.metrics.groupby("dataset") for row in _of_dataset(str(dataset), part)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_dataset(dataset: str, rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    students = rows[rows["experiment"] == "student"]
    if students.empty:
        return []
    timing = rows[rows["experiment"] == "timing"]
    speed = timing.groupby("metric")["value"].mean()
    n_test = int(students.loc[(students["metric"] == "accuracy") & (students["split"] == "test"), "n"].iloc[0])

    def values(arm: str, metric: str, split: str = "test") -> pd.Series:
        chosen = (students["method"] == arm) & (students["metric"] == metric) & (students["split"] == split)
        return students[chosen].set_index("seed")["value"].dropna().sort_index()

    plain = values(PLAIN, "accuracy")

    def row(name: str, arm: str, right: pd.Series, served: str, deferred: float, seconds: Sequence[float]) -> Any:
        both = (right - plain).dropna()
        gain = (np.nan,) * 3 if name in (PLAIN, TEACHER) or both.empty else stats.mean_interval(both.to_numpy())[:3]
        deployed = [float(speed.get(f"{served}/{what}", np.nan)) for what in COLUMNS[-5:]]
        mean = stats.mean_interval(right.to_numpy())
        accuracy = (mean.estimate, *accuracy_interval(mean.estimate, (mean.high - mean.low) / 2, n_test), mean.n)
        return (dataset, "", name, arm, *accuracy, n_test, *gain, deferred, *seconds, *deployed)

    arms = list(dict.fromkeys(students.sort_values(["seed", "key"])["method"]))
    teacher_s = values(arms[0], "teacher_training_seconds", "train").mean()
    found = [
        row(TEACHER, TEACHER, values(arms[0], "teacher_accuracy").iloc[:1], TEACHER, np.nan, (0.0, teacher_s, 0.0))
    ]
    for arm in arms:
        given = given_of(students[students["method"] == arm])
        own, labels = (values(arm, f"{what}seconds", "train").median() for what in ("", "labelling_"))
        seconds = (own, teacher_s if given.get("kd") else 0.0, labels)
        served = student_of(students[students["method"] == arm], speed.index)
        found.append(row(arm, arm, values(arm, "accuracy"), served, np.nan, seconds))
        if f"{arm}{SUMMONS}/latency_s" in speed.index:
            deferred = float(values(arm, "cascade/deferred").mean())
            right, seconds = values(arm, "cascade/accuracy"), (own, teacher_s, labels)
            found.append(row(f"{arm}{SUMMONS}", arm, right, f"{arm}{SUMMONS}", deferred, seconds))
    return found


def accuracy_interval(accuracy: float, half: float, n_test: int) -> tuple[float, float]:
    """95 % limits of a mean accuracy over seeds, whose own interval has the width 2 ``half`` (NaN for a single seed),
    on a test set of ``n_test``: what seeds and what the choice of test examples leave open (exact binomial limits),
    added as independent errors (our choice)."""
    sampling = stats.proportion_interval(round(accuracy * n_test), n_test)
    half = 0.0 if math.isnan(half) else half
    low = accuracy - math.hypot(max(accuracy - sampling.low, 0.0), half)
    high = accuracy + math.hypot(max(sampling.high - accuracy, 0.0), half)
    return max(0.0, low), min(1.0, high)


def given_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The arm's configuration without what is not set, from the first of its students' records."""
    found: dict[str, Any] = json.loads(rows["param.run"].iloc[0])["arm"]
    return found


def student_of(rows: pd.DataFrame, timed: Iterable[str]) -> str:
    """What the metrics ``timed`` call the student of an arm, from its records: where n-grams were counted in the corpus
    too, the student has another vocabulary, and another speed, than without it."""
    given = given_of(rows)
    wider = f"{given['student']}{CORPUS}"
    return wider if given.get("corpus") and f"{wider}/latency_s" in set(timed) else str(given["student"])


def with_dominance(rows: pd.DataFrame) -> pd.DataFrame:
    """``techniques`` with the whole of training, ``training_s``, and ``dominated``: whether another technique on the
    same data has at least its mean accuracy and costs no more (training, latency, time per example, memory), and is
    better in something that can be told apart: in accuracy by intervals that do not overlap, in a cost by more than
    ``SAME``. A NaN is never better, nor bettered. What is not dominated need not be worth having: it may only be too
    close to call.
    """
    rows = rows.assign(training_s=rows[["student_s", "teacher_s", "labelling_s"]].sum(axis=1))
    costs = rows[["training_s", "latency_s", "weights_bytes"]].assign(each_s=1 / rows["throughput_per_s"])
    dominated = pd.Series(False, index=rows.index)
    for _, group in rows.groupby("dataset"):
        at = group.index
        for place in at:
            no_worse = (rows["accuracy"][at] >= rows["accuracy"][place]) & (
                costs.loc[at] <= SAME * costs.loc[place]
            ).all(axis=1)
            better = (rows["low"][at] > rows["high"][place]) | (SAME * costs.loc[at] < costs.loc[place]).any(axis=1)
            dominated[place] = bool((no_worse & better).any())
    return rows.assign(dominated=dominated)
