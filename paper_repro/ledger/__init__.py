"""What the papers say, and how it is judged. Imports no torch."""

from paper_repro.ledger.compare import (
    Comparison,
    Regression,
    claims_path,
    compare,
    read_verdicts,
    regressions,
    write_verdicts,
)
from paper_repro.ledger.deviations import deviations
from paper_repro.ledger.loader import Check, Entry, Ledger, load_ledger, papers
from paper_repro.ledger.verdicts import REASONS, PartVerdict, Verdict, judge, judge_all, judge_results, listed

__all__ = [
    "REASONS",
    "Check",
    "Comparison",
    "Entry",
    "Ledger",
    "PartVerdict",
    "Regression",
    "Verdict",
    "claims_path",
    "compare",
    "deviations",
    "judge",
    "judge_all",
    "judge_results",
    "listed",
    "load_ledger",
    "papers",
    "read_verdicts",
    "regressions",
    "write_verdicts",
]
