"""Judging: from records to reproduced / not reproduced / inconclusive / not run, each with its interval and reason.

The intervals are over repetitions (seeds) of the student, given the teacher and the test set, which repetitions share;
where a check says ``discordant``, over other test examples too.
A claim in several parts must hold in all of them, so to confirm one needs no correction for several comparisons; one
of m parts is enough to refute it, which where all m just hold is wrong in up to m times 2.5 %.
"""

from collections.abc import Callable, Iterable
from functools import cache
from math import isfinite, isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from paper_repro import results, stats, timing
from paper_repro.config import Config
from paper_repro.ledger.loader import Check, Entry, Ledger, Part, Relation, load_ledger
from paper_repro.ledger.statistics import Ambiguous, Cells, NoRecords, NotComparable, NotShared, RunsFailed, terms_of

Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not run"]
Reason = Literal[
    "interval_supports", "interval_refutes", "interval_too_wide", "too_few_seeds", "direction_unknown",
    "part_missing", "no_records", "runs_failed", "ambiguous_records", "not_shared", "not_comparable",
    "no_check_at_tier", "value_not_found",
]  # fmt: skip
REASONS: dict[Reason, str] = {
    "interval_supports": "the interval lies where the claim puts it",
    "interval_refutes": "the interval excludes the claim, or any effect that would matter",
    "interval_too_wide": "the interval allows both; more seeds would decide",
    "too_few_seeds": "fewer repetitions than a verdict needs",
    "direction_unknown": "the paper compares, but which way it came out could not be read",
    "part_missing": "some of the claim's settings were not run",
    "no_records": "nothing was recorded for it",
    "runs_failed": "every run it needs has failed",
    "ambiguous_records": "two configurations of the same cell are in the results; delete the older",
    "not_shared": "a record that was to stand for all seeds exists for several of them",
    "not_comparable": "the two curves do not both reach the quality asked for, and nothing is extrapolated",
    "no_check_at_tier": "this tier cannot judge it",
    "value_not_found": "the paper's number could not be found",
}
_BY_VERDICT: dict[Outcome, Reason] = {
    "reproduced": "interval_supports",
    "not reproduced": "interval_refutes",
    "inconclusive": "interval_too_wide",
}
_WORST_FIRST: list[Outcome] = ["not reproduced", "inconclusive", "not run", "reproduced"]


class PartVerdict(Config):
    """The verdict in one setting. ``standard_error`` is None for timings, which differ between machines by nature.

    ``ci_low`` and ``ci_high`` are None where there is no interval, and where it has no such limit.
    """

    name: str
    verdict: Outcome
    reason: Reason
    measured: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n_seeds: int = 0
    tolerance: float | None = None
    standard_error: float | None = None


class Verdict(Config):
    """The verdict on one entry at one tier.

    ``measured`` and the interval are those of ``decided_by``, the part that decides; ``level`` is the interval's
    (0.9 for 'equal' and 'differs': two one-sided tests at 5 %); ``n_seeds`` counts what ``n_unit`` says; ``table`` is
    that of the entry.
    """

    id: str
    kind: str
    paper: str
    tier: str
    statement: str
    source: str
    certainty: str
    table: str | None = None
    verdict: Outcome
    reason: Reason
    expected: str
    measured: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    level: float | None = None
    unit: str | None = None
    n_seeds: int = 0
    n_unit: str = "seeds"
    decided_by: str | None = None
    parts: list[PartVerdict] = Field(default_factory=list)
    tolerance: float | None = None
    derivation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return self.model_dump(mode="json")


def decide(relation: Relation, low: float, high: float, value: float, tolerance: float) -> Outcome:
    """The rule of each relation, for an interval from ``low`` to ``high``.

    greater: above ``value`` reproduces it; wholly below the smallest effect of interest refutes it; an effect that
    is resolved but small counts as reproduced. at_least: non-inferior by less than ``tolerance``. equal: within the
    margin. differs: the mirror image of equal. identity: ``low`` and ``high`` are the extreme runs.
    """
    if relation in ("less", "at_most"):
        mirrored: Relation = "greater" if relation == "less" else "at_least"
        return decide(mirrored, -high, -low, -value, tolerance)
    inside = value - tolerance <= low and high <= value + tolerance
    outside = high < value - tolerance or low > value + tolerance
    supports, refutes = {
        "greater": (low > value, high < value + tolerance),
        "at_least": (low >= value - tolerance, high < value - tolerance),
        "equal": (inside, outside),
        "differs": (outside, inside),
        "identity": (inside, not inside),
        "open": (False, False),
    }[relation]
    return "reproduced" if supports else "not reproduced" if refutes else "inconclusive"


def judge(records: pd.DataFrame, entry: Entry, tier: str, samples: pd.DataFrame | None = None) -> Verdict:
    """The verdict on ``entry`` at ``tier``, from the frames of ``results.load`` and ``results.load_samples``."""
    return judge_all(records, [entry], tier, samples)[0]


def _judge(entry: Entry, tier: str, cells_of: Callable[[str, str], Cells]) -> Verdict:
    paper = entry.id.partition("/")[0]
    source = " ".join(filter(None, [f"{entry.source.paper}{entry.source.version or ''},", entry.source.where]))
    check = next((check for name, check in entry.checks.items() if name == tier), None)
    common: dict[str, Any] = {
        "id": entry.id, "kind": entry.kind, "paper": paper, "tier": tier, "statement": entry.statement,
        "source": source, "certainty": entry.certainty, "table": entry.table,
    }  # fmt: skip
    if check is None:
        unknown = entry.kind == "number" and entry.value is None
        expected = "not found" if unknown else f"= {entry.value:g}" if entry.value is not None else "not judged"
        reason: Reason = "value_not_found" if unknown else "no_check_at_tier"
        return Verdict(**common, verdict="not run", reason=reason, expected=expected, unit=entry.unit)
    cells = cells_of(paper, check.experiment)
    parts = [_judge_part(cells, check, part) for part in check.parts]
    outcome, reason = _combine(parts)
    # The part with the worst verdict decides; among equals the one whose interval is nearest to failing.
    deciding = min(parts, key=lambda part: (_WORST_FIRST.index(part.verdict), _slack(check, part)))
    return Verdict(
        **common, verdict=outcome, reason=reason, expected=check.expected, measured=deciding.measured,
        ci_low=deciding.ci_low, ci_high=deciding.ci_high, level=_level(check), unit=check.unit,
        n_seeds=deciding.n_seeds, n_unit="rounds" if check.speedup else "runs" if check.exceeds else "seeds",
        decided_by=deciding.name, parts=parts, tolerance=deciding.tolerance or check.tolerance,
        derivation=" ".join(check.derivation.split()),
    )  # fmt: skip


def judge_all(
    records: pd.DataFrame, entries: Iterable[Entry], tier: str, samples: pd.DataFrame | None = None
) -> list[Verdict]:
    """``judge`` for each entry, in the order of the ledger."""

    @cache
    def cells_of(paper: str, experiment: str) -> Cells:
        return Cells(records[(records["paper"] == paper) & (records["tier"] == tier)], samples, experiment)

    return [_judge(entry, tier, cells_of) for entry in entries]


def listed(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """``verdicts`` without the numbers of a paper's tables that the tier does not judge: hundreds, and no claims."""
    return [verdict for verdict in verdicts if verdict.table is None or verdict.verdict != "not run"]


def judge_results(root: Path | str, paper: str, tier: str) -> list[Verdict]:
    """Verdicts on all entries of ``paper``'s ledger from the results folder ``root``; UserError as in ``load``."""
    ledger: Ledger = load_ledger(paper)
    store = results.Store(root)
    found = store.records(paper, tier)
    return judge_all(results.to_frame(found), ledger.entries, tier, results.samples_to_frame(found))


def _judge_part(cells: Cells, check: Check, part: Part) -> PartVerdict:
    tolerance = check.tolerance if part.tolerance is None else part.tolerance
    try:
        interval, standard_error = _measure(cells, check, part)
    except RunsFailed:
        return PartVerdict(name=part.name, verdict="not run", reason="runs_failed")
    except NoRecords:
        return PartVerdict(name=part.name, verdict="not run", reason="no_records")
    except Ambiguous:
        return PartVerdict(name=part.name, verdict="inconclusive", reason="ambiguous_records")
    except NotShared:
        return PartVerdict(name=part.name, verdict="inconclusive", reason="not_shared")
    except NotComparable:
        return PartVerdict(name=part.name, verdict="inconclusive", reason="not_comparable")
    verdict: Outcome
    reason: Reason
    if interval.n < check.min_seeds or isnan(interval.low):
        verdict, reason = "inconclusive", "too_few_seeds"
    elif check.relation == "open":
        verdict, reason = "inconclusive", "direction_unknown"
    else:
        verdict = decide(check.relation, interval.low, interval.high, check.value, tolerance)
        reason = _BY_VERDICT[verdict]
    return PartVerdict(
        name=part.name, verdict=verdict, reason=reason, measured=interval.estimate, ci_low=_finite(interval.low),
        ci_high=_finite(interval.high), n_seeds=interval.n, tolerance=tolerance, standard_error=_finite(standard_error),
    )  # fmt: skip


def _measure(cells: Cells, check: Check, part: Part) -> tuple[stats.Interval, float]:
    """The estimate with its interval, and its standard error (NaN where it is no mean over seeds)."""
    if check.speedup:
        return timing.ratio(*cells.rounds(check.speedup, part), _level(check)), float("nan")
    if iso := part.iso or check.iso:
        return cells.iso(iso, part, _level(check)), float("nan")
    if check.exceeds:
        above = cells.exceeding(check.exceeds, part)
        if not len(above):
            raise NoRecords
        share = float(above.mean())
        return stats.proportion_interval(int(above.sum()), len(above)), float(np.sqrt(share * (1 - share) / len(above)))
    if matched := part.matched or check.matched:
        values = cells.matched(matched, part).to_numpy()
    else:
        values = cells.per_seed(terms_of(check, part), part).to_numpy()
    if not len(values):
        raise NoRecords
    if check.relation == "identity":
        worst = values[np.abs(values - check.value).argmax()]
        return stats.Interval(float(worst), float(values.min()), float(values.max()), len(values)), 0.0
    interval = stats.mean_interval(values, _level(check))
    if check.discordant:
        (term,) = terms_of(check, part)
        interval = stats.widened(interval, cells.test_error(check.discordant, term, part), _level(check))
    return interval, stats.standard_error(values)


def _combine(parts: list[PartVerdict]) -> tuple[Outcome, Reason]:
    """All parts must be reproduced; one that is not refutes the claim."""
    verdicts = [part.verdict for part in parts]
    if "not reproduced" in verdicts:
        return "not reproduced", "interval_refutes"
    if all(verdict == "not run" for verdict in verdicts):
        return "not run", parts[0].reason
    if "not run" in verdicts:
        return "inconclusive", "part_missing"
    if "inconclusive" in verdicts:
        return "inconclusive", parts[verdicts.index("inconclusive")].reason
    return "reproduced", "interval_supports"


def _slack(check: Check, part: PartVerdict) -> float:
    """How far the interval is on the claim's side of ``value``: smaller is nearer to failing."""
    if part.ci_low is None or part.ci_high is None:
        return float("inf")
    if check.relation in ("greater", "at_least"):
        return part.ci_low - check.value
    if check.relation in ("less", "at_most"):
        return check.value - part.ci_high
    if check.relation == "differs":
        return max(part.ci_low - check.value, check.value - part.ci_high)
    return -max(abs(part.ci_low - check.value), abs(part.ci_high - check.value))


def _level(check: Check) -> float:
    return 0.9 if check.relation in ("equal", "differs") else 0.95


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
