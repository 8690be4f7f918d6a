"""The table every notebook ends with: claim, expected, measured, interval, seeds, verdict. For all papers alike.

The numbers of a paper's tables that a tier does not judge are left out: they are shown where tables stand side by side.
"""

from collections.abc import Iterable

import pandas as pd

from paper_repro.ledger import REASONS, Verdict, listed

COLUMNS = ["claim", "statement", "setting", "expected", "measured", "interval", "n", "verdict", "why"]
ORDER = ["reproduced", "inconclusive", "not reproduced", "not run"]


def claims_table(verdicts: Iterable[Verdict], *, judged_only: bool = False) -> pd.DataFrame:
    """One row of texts per verdict that is ``listed``; ``setting`` is the part that decides it.

    ``judged_only`` leaves out what this tier did not run.
    """
    rows = [
        [
            verdict.id.partition("/")[2],
            verdict.statement,
            verdict.decided_by or "",
            expected(verdict),
            number(verdict.measured),
            interval(verdict),
            f"{verdict.n_seeds} {verdict.n_unit}" if verdict.n_seeds else "",
            verdict.verdict,
            REASONS[verdict.reason],
        ]
        for verdict in listed(verdicts)
        if not judged_only or verdict.verdict != "not run"
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def counts_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """How many entries of each kind, among those that are ``listed``, got which verdict."""
    rows = pd.DataFrame(
        [(v.paper, v.tier, v.kind, v.verdict) for v in listed(verdicts)], columns=["paper", "tier", "kind", "verdict"]
    )
    counts = rows.value_counts().unstack("verdict", fill_value=0)
    return counts.reindex(columns=ORDER, fill_value=0).rename_axis(columns=None).reset_index()


def expected(verdict: Verdict) -> str:
    """What the claim asks of the number, with its unit; accuracies are fractions."""
    return (
        f"{verdict.expected} ({verdict.unit})" if verdict.unit and verdict.expected != "not found" else verdict.expected
    )


def number(value: float | None) -> str:
    """Four significant digits, as in all tables; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def interval(verdict: Verdict) -> str:
    """The interval with its level."""
    if verdict.ci_low is not None and verdict.ci_high is None:
        return f"at least {number(verdict.ci_low)} ({verdict.level:.0%})"
    if verdict.ci_low is None or verdict.ci_high is None or verdict.level is None:
        return ""
    return f"{number(verdict.ci_low)} to {number(verdict.ci_high)} ({verdict.level:.0%})"
