"""A paper's table beside our numbers: paper, ours, interval, and what the ledger's claims say of that line."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from paper_repro.ledger import Check, Ledger, Verdict, judge
from paper_repro.ledger.loader import Part
from paper_repro.ledger.verdicts import PartVerdict
from paper_repro.plots.claims import number
from paper_repro.plots.source import Results
from paper_repro.stats import Interval

COLUMNS = ["dataset", "row", "quantity", "unit", "paper", "ours", "low", "high", "n", "verdict"]


class Line(NamedTuple):
    """One number. ``paper`` and ``ours`` are in ``unit``; None where there is none.

    ``claims`` name entries of the ledger by id; what follows a blank is the label or the model of the part that is
    meant, as in "1 KD over scratch". Only parts of the line's data set, and of ``method`` where it is given, count.
    """

    dataset: str
    row: str
    quantity: str
    unit: str
    paper: float | None = None
    ours: Interval | None = None
    claims: tuple[str, ...] = ()
    method: str | None = None


def side_by_side(results: Results, ledger: Ledger, lines: Iterable[Line]) -> pd.DataFrame:
    """``COLUMNS``, one row per line; empty where there is no number of ours at all.

    Judges with the records of ``results``: what a claim needs must be among them.
    """
    verdict_of = _judge(results, ledger)
    rows = [
        (
            *line[:4], line.paper, *(line.ours or (None, None, None, None)),
            "; ".join(text for claim in line.claims for text in _verdicts(line, claim, verdict_of)),
        )
        for line in lines
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(["paper", "ours", "low", "high", "n"], "float64"))
    found = found.replace(np.inf, np.nan)  # an upper limit that there is not
    return found if found["ours"].notna().any() else found.head(0)


def as_text(data: pd.DataFrame) -> pd.DataFrame:
    """The frame of ``side_by_side`` as people read it."""

    def text(value: float) -> str:
        return "-" if pd.isna(value) else number(value)

    return pd.DataFrame(
        {
            "data": data["dataset"],
            "": data["row"],
            "quantity": data["quantity"] + " (" + data["unit"] + ")",
            "paper": data["paper"].map(text),
            "ours": data["ours"].map(text),
            "interval (95 %)": [_interval(row.low, row.high) for row in data.itertuples()],
            "n": data["n"].map(text),
            "verdict": data["verdict"].replace("", "not judged"),
        }
    )


def _interval(low: float, high: float) -> str:
    if pd.isna(low):
        return "-"
    return f"at least {number(low)}" if pd.isna(high) else f"{number(low)} to {number(high)}"


def percent_of(interval: Interval) -> Interval:
    """An interval of fractions in percent."""
    return Interval(100 * interval.estimate, 100 * interval.low, 100 * interval.high, interval.n)


Judged = tuple[Check | None, Verdict]


def _judge(results: Results, ledger: Ledger) -> Callable[[str], Judged]:
    @cache
    def judged(name: str) -> Judged:
        entry = ledger.entry(name)
        check = next((check for tier, check in entry.checks.items() if tier == results.tier), None)
        return check, judge(results.metrics, entry, results.tier, results.samples)

    return judged


def _verdicts(line: Line, claim: str, verdict_of: Callable[[str], Judged]) -> list[str]:
    name, _, label = claim.partition(" ")
    check, verdict = verdict_of(name)
    if check is None:
        return []
    parts: Iterable[tuple[Part, PartVerdict]] = zip(check.parts, verdict.parts, strict=True)
    return [
        f"{name}: {judged.verdict}"
        for part, judged in parts
        if part.dataset in (None, line.dataset)
        and line.method in (None, part.method)
        and (not label or label in (part.label, part.model))
    ]
