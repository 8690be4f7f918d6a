"""From result frames to the numbers that a check speaks of: which records, joined how."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from paper_repro.iso_quality import Curve, speedup_at_most
from paper_repro.iso_quality import speedup as iso_speedup
from paper_repro.ledger.loader import (
    Check,
    Discordant,
    Exceeds,
    Fraction,
    Iso,
    Matched,
    Part,
    Selection,
    Series,
    Speedup,
    Term,
)
from paper_repro.results.frame import CELL
from paper_repro.stats import Interval, paired_error

AXES = ("dataset", "model", "method")
ONE_SIDED = 1.645  # standard errors, of a test at 5 %
ROUNDING = 1e-9  # a difference of two means that equals the threshold may come out a rounding error above it


class NoRecords(Exception):
    """Nothing was recorded for a selection."""


class RunsFailed(NoRecords):
    """There are records for a selection, but none of them is of a run that succeeded."""


class Ambiguous(Exception):
    """Two successful records answer the same selection and seed, as after a change of configuration."""


class NotShared(Exception):
    """A record that was to stand for every seed exists for several."""


class NotComparable(Exception):
    """Two curves reach no quality in common, or not the one that is asked for."""


class Cells:
    """The records of one paper and tier, as ``results.load`` and ``results.load_samples`` give them."""

    def __init__(self, records: pd.DataFrame, samples: pd.DataFrame | None, experiment: str) -> None:
        rows = records[records["experiment"] == experiment]
        good = rows.loc[rows["status"] == "ok", ["metric", "split", "key", "seed", "value", "n"]]
        self.of_metric = dict(iter(good.groupby(["metric", "split"])))  # thousands of look-ups, each in a few rows
        self.cells = rows[[*CELL, "status"]].drop_duplicates("key")
        self.samples = samples

    def per_seed(self, terms: list[Term], part: Part) -> pd.Series:
        """The weighted sum of ``terms`` for every seed that has all of them; index: seed.

        A shared term adds the same number to every seed. Raises NotShared when it has more than one record.
        """
        series = [term.weight * self._mean(self._members(term, part)) for term in terms if not term.shared]
        constant = sum(term.weight * self._shared(term, part) for term in terms if term.shared)
        return (pd.concat(series, axis=1, join="inner").sum(axis=1, skipna=False) + constant).dropna().sort_index()

    def exceeding(self, exceeds: Exceeds, part: Part) -> np.ndarray:
        """Boolean, one per selected cell: whether the metric is above the threshold."""
        term, found = Term(metric=exceeds.metric, split=exceeds.split), []
        for keys in self._keys(part):
            values = self._metric(term, keys)
            if exceeds.discordant:
                values = values - ONE_SIDED * self._paired_error(exceeds.discordant, term.split, keys)
            if exceeds.of:
                counted = self._metric(Term(metric=exceeds.of.metric, split=exceeds.split), keys) < exceeds.of.limit
                values = values[counted.reindex(values.index, fill_value=False)]
            found.append(values)
        return pd.concat(found).dropna().to_numpy() > exceeds.threshold + ROUNDING

    def test_error(self, discordant: Discordant, term: Term, part: Part) -> float:
        """Standard error that the test examples give to the difference ``term``, which all seeds have in common."""
        errors = [self._paired_error(discordant, term.split, keys) for keys in self._keys(_filled(term, part))]
        return float(pd.concat(errors).mean())

    def iso(self, iso: Iso, part: Part, level: float) -> Interval:
        """The iso-quality speed-up, over the seeds that both arms have at all durations.

        Where the arm's longest runs do not come to the quality, from 0 to what the speed-up can be at most.
        """
        baseline, method = self._runs(iso.baseline, iso, part), self._runs(iso.arm, iso, part)
        if iso.at not in baseline:
            raise NoRecords
        frames = [*baseline.values(), *method.values()]
        seeds = sorted(set.intersection(*(set(frame.index) for frame in frames)))
        if not seeds or min(len(baseline), len(method)) < 2:
            raise NoRecords
        try:
            wanted = float(baseline[iso.at].loc[seeds, "quality"].mean())
            curves = _curve_of(baseline, seeds), _curve_of(method, seeds)
            measure = speedup_at_most if wanted > curves[1].range[1] + ROUNDING else iso_speedup
            return measure(*curves, wanted, level=level)
        except ValueError as problem:
            raise NotComparable(str(problem)) from None

    def matched(self, matched: Matched, part: Part) -> pd.Series:
        """See ``at_equal_loss``."""
        quality, loss = Term(metric=matched.quality, split=matched.split), Term(metric=matched.loss, split="train")

        def read(method: str) -> pd.DataFrame:
            (keys,) = self._keys(Selection(dataset=part.dataset, model=part.model, method=method))
            columns = {"quality": self._metric(quality, keys), "loss": self._metric(loss, keys)}
            return pd.concat(columns, axis=1, join="inner").dropna()

        return at_equal_loss(read(matched.arm), [read(method) for method in matched.baseline])

    def _runs(self, arm: str, iso: Iso, part: Part) -> dict[float, pd.DataFrame]:
        """Of an arm for each duration, ascending: ``quality`` and ``cost`` by seed."""
        cells = self.cells
        for axis in ("dataset", "model"):
            cells = cells if getattr(part, axis) is None else cells[cells[axis] == getattr(part, axis)]
        names = {name: float(name.partition("@")[2]) for name in cells["method"] if name.startswith(f"{arm}@")}
        found = {}
        for name, duration in sorted(names.items(), key=lambda item: item[1]):
            (keys,) = self._keys(Selection(dataset=part.dataset, model=part.model, method=name))
            quality = self._metric(Term(metric=iso.quality), keys) * (-1 if iso.less_is_better else 1)
            cost = self._metric(Term(metric=iso.cost, split="train"), keys)
            for metric, weight in iso.charged.items() if arm == iso.arm else ():
                cost = cost + weight * self._metric(Term(metric=metric, split="train"), keys)
            found[duration] = pd.concat({"quality": quality, "cost": cost}, axis=1, join="inner").dropna()
        if not found:
            raise NoRecords
        return found

    def rounds(self, speedup: Speedup, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Two series whose quotient, round by round, is the speed-up: seconds, or with ``relative_to`` speed-ups.

        One selected cell holds the slow and the fast competitor. The rounds of two cells are no pairs: where one has
        more of them, the rest is left out.
        """
        slow, fast = (self._series(series, part) for series in (speedup.slow, speedup.fast))
        fast = fast + speedup.deferred * slow
        if speedup.relative_to is None:
            return slow, fast
        other = self._series(speedup.relative_to.slow, part) / self._series(speedup.relative_to.fast, part)
        n = min(len(slow), len(other))
        return (slow / fast)[:n], other[:n]

    def _members(self, term: Term, part: Part) -> list[pd.Series]:
        """One number per seed of each member of the selection."""
        read: Callable[[Term, pd.Series], pd.Series] = self._metric if term.metric else self._curve
        if isinstance(term.at, Fraction):
            at = self._mean(self._members(Term(**term.at.model_dump()), part))
            read = partial(self._curve, at=at)
        members = [read(term, keys) for keys in self._keys(_filled(term, part))]
        return [np.log(member) for member in members] if term.log else members

    @staticmethod
    def _mean(members: list[pd.Series]) -> pd.Series:
        return pd.concat(members, axis=1, join="inner").mean(axis=1, skipna=False)

    def _shared(self, term: Term, part: Part) -> float:
        members = self._members(term, part)
        if any(len(member) > 1 for member in members):
            raise NotShared
        if any(member.empty for member in members):
            raise NoRecords
        return float(np.mean([member.iloc[0] for member in members]))

    def _series(self, series: Series, part: Part) -> np.ndarray:
        keys = [key for member in self._keys(_filled(series, part)) for key in member]
        if len(keys) != 1:
            raise Ambiguous
        return self._raw(keys, series.sample)["value"].to_numpy()

    def _keys(self, selection: Selection) -> list[pd.Series]:
        """For each member of the selection the keys of its successful cells; index: seed."""
        names = [getattr(selection, axis) for axis in AXES]
        found = []
        for choice in product(*(name if isinstance(name, list) else [name] for name in names)):
            cells = self.cells
            for axis, name in zip(AXES, choice, strict=True):
                cells = cells if name is None else cells[cells[axis] == name]
            good = cells[cells["status"] == "ok"]
            if good.empty:
                raise NoRecords if cells.empty else RunsFailed
            if good["seed"].duplicated().any():
                raise Ambiguous
            found.append(good.set_index("seed")["key"])
        return found

    def _metric(self, term: Term, keys: pd.Series) -> pd.Series:
        return self._rows(str(term.metric), term.split, keys)["value"]

    def _rows(self, metric: str, split: str, keys: pd.Series) -> pd.DataFrame:
        """Of one metric the rows of some cells; index: seed."""
        rows = self.of_metric.get((metric, split))
        rows = None if rows is None else rows[rows["key"].isin(keys)]
        if rows is None or rows.empty:
            raise NoRecords
        return rows.set_index("seed")

    def _paired_error(self, discordant: Discordant, split: str, keys: pd.Series) -> pd.Series:
        first, second = (
            self._metric(Term(metric=name, split=split), keys) for name in (discordant.first, discordant.second)
        )
        return paired_error(first, second, self._rows(discordant.first, split, keys)["n"].astype(float))

    def _curve(self, term: Term, keys: pd.Series, at: pd.Series | None = None) -> pd.Series:
        fractions, curves = self._raw(keys, "curve/fraction"), self._raw(keys, str(term.curve))
        points = fractions.merge(curves, on=["seed", "index"], suffixes=("_x", "_y")).groupby("seed")
        where = pd.Series(term.at, index=keys.index) if at is None else at
        heights = {seed: np.interp(where[seed], p["value_x"], p["value_y"]) for seed, p in points if seed in where}
        return pd.Series(heights, dtype="float64")

    def _raw(self, keys: Iterable[str], name: str) -> pd.DataFrame:
        """The samples called ``name`` of some cells, in order: seed, index, value."""
        if self.samples is None:
            raise NoRecords
        rows = self.samples[(self.samples["name"] == name) & self.samples["key"].isin(list(keys))]
        if rows.empty:
            raise NoRecords
        return rows[["seed", "index", "value"]].sort_values(["seed", "index"])


def at_equal_loss(arm: pd.DataFrame, baseline: Sequence[pd.DataFrame]) -> pd.Series:
    """The arm's mean quality less the baseline's at the same mean logarithm of the training loss, as one number for
    each seed that all have, whose mean and spread are the difference's (jackknife pseudo-values; Tukey, 1958); index:
    seed.

    Frames have columns quality and loss, index: seed; ``baseline`` has one for each duration, the shortest first.
    Between durations quality is interpolated by a curve without bends of its own (PCHIP; Fritsch and Butland, 1984):
    straight lines would lie below a quality that saturates, and favour the arm. Raises NotComparable where the arm's
    loss is not between two of theirs, or theirs does not fall with the duration: one loss is then that of several
    durations, as where weight decay sets a floor to it. Both must hold without any one seed as well.
    """
    runs = [arm, *baseline]
    seeds = sorted(set.intersection(*(set(frame.index) for frame in runs)))
    quality = np.array([frame.loc[seeds, "quality"] for frame in runs], dtype=float)
    loss = np.log(np.array([frame.loc[seeds, "loss"] for frame in runs], dtype=float))

    def gap(kept: np.ndarray) -> float:
        (own, *others), (place, *losses) = quality[:, kept].mean(axis=1), loss[:, kept].mean(axis=1)
        if (np.diff(losses) >= 0).any():
            raise NotComparable("the baseline's training loss does not fall with the duration")
        if not losses[-1] <= place <= losses[0]:
            raise NotComparable("the baseline has no runs on both sides of the arm's training loss")
        return float(own - PchipInterpolator(losses[::-1], others[::-1])(place))

    n = len(seeds)
    if n < 2:
        return pd.Series([gap(np.ones(n, dtype=bool)) for _ in seeds], index=seeds, dtype=float)
    whole, others = gap(np.ones(n, dtype=bool)), [gap(np.arange(n) != left_out) for left_out in range(n)]
    return pd.Series(n * whole - (n - 1) * np.array(others), index=seeds, dtype=float)


def _filled(selection: Selection, part: Part) -> Selection:
    return Selection(**{axis: getattr(selection, axis) or getattr(part, axis) for axis in AXES})


def _curve_of(runs: dict[float, pd.DataFrame], seeds: list[int]) -> Curve:
    columns = [frame.loc[seeds] for frame in runs.values()]
    cost, quality = (np.stack([frame[name] for frame in columns], axis=1) for name in ("cost", "quality"))
    return Curve(cost, quality)


def terms_of(check: Check, part: Part) -> list[Term]:
    """The terms that hold for ``part``."""
    return part.terms if part.terms is not None else check.terms or []
