"""Two sets of verdicts: do the numbers agree, and did a committed verdict get worse?"""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from paper_repro.config import Config
from paper_repro.errors import UserError
from paper_repro.ledger.verdicts import Outcome, Verdict, listed
from paper_repro.paths import write_atomic

FLOOR = 0.001  # one test example in 1,000: near-ties that rounding flips on another machine even at equal seeds
Z = 2.58  # two-sided 99 %: about one false alarm in 100 comparisons
_RANK: dict[Outcome, int] = {"not run": 0, "not reproduced": 1, "inconclusive": 2, "reproduced": 3}


class Comparison(Config):
    """One number of one claim, measured twice."""

    id: str
    part: str
    new: float
    committed: float
    tolerance: float
    agrees: bool


class Regression(Config):
    """A committed verdict that got worse. ``after`` is None when the ledger no longer has the entry."""

    id: str
    tier: str
    before: Outcome
    after: Outcome | None


def claims_path(root: Path | str, paper: str, tier: str) -> Path:
    """Where the verdicts on a paper at a tier are kept, beside the records that they come from."""
    return Path(root) / paper / tier / "claims.json"


def write_verdicts(verdicts: Iterable[Verdict], root: Path | str) -> list[Path]:
    """Write ``<root>/<paper>/<tier>/claims.json`` for each paper and tier among ``verdicts``, as ``listed``."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in listed(verdicts):
        groups.setdefault((verdict.paper, verdict.tier), []).append(verdict)
    written = []
    for (paper, tier), group in groups.items():
        path = claims_path(root, paper, tier)
        write_atomic(path, json.dumps([verdict.to_json() for verdict in group], indent=1, allow_nan=False) + "\n")
        written.append(path)
    return written


def read_verdicts(root: Path | str, paper: str, tier: str) -> list[Verdict]:
    """The verdicts that ``write_verdicts`` wrote; an empty list when there are none. UserError if damaged."""
    path = claims_path(root, paper, tier)
    if not path.exists():
        return []
    try:
        return TypeAdapter(list[Verdict]).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"{path} is not a list of verdicts ({problem}); restore it or write it again.") from None


def compare(new: Iterable[Verdict], committed: Iterable[Verdict]) -> list[Comparison]:
    """Each part of each claim that was measured in both.

    They agree when they differ by at most ``max(FLOOR, 2.58 sqrt(se_new^2 + se_committed^2))``: the same seeds on
    another machine follow other rounding errors and end like fresh seeds, so the two means are as good as independent.
    Timings are left out, as are numbers from one seed, which have no standard error.
    """
    old = {(verdict.id, part.name): part for verdict in committed for part in verdict.parts}
    found = []
    for verdict in new:
        for part in verdict.parts:
            other = old.get((verdict.id, part.name))
            if other is None or part.measured is None or other.measured is None:
                continue
            if part.standard_error is None or other.standard_error is None:
                continue
            tolerance = max(FLOOR, Z * (part.standard_error**2 + other.standard_error**2) ** 0.5)
            agrees = abs(part.measured - other.measured) <= tolerance
            found.append(
                Comparison(
                    id=verdict.id,
                    part=part.name,
                    new=part.measured,
                    committed=other.measured,
                    tolerance=tolerance,
                    agrees=agrees,
                )
            )
    return found


def regressions(new: Iterable[Verdict], committed: Iterable[Verdict]) -> list[Regression]:
    """The committed verdicts that got worse: reproduced > inconclusive > not reproduced > not run.

    Losing a verdict to failed runs counts, as does losing the entry. Where records are missing, as after a run of some
    cells only, there is nothing to compare.
    """
    after = {(verdict.id, verdict.tier): verdict for verdict in new}
    found = []
    for verdict in committed:
        now = after.get((verdict.id, verdict.tier))
        if now is not None and now.reason in ("no_records", "part_missing"):
            continue
        if now is None or _RANK[now.verdict] < _RANK[verdict.verdict]:
            outcome = None if now is None else now.verdict
            found.append(Regression(id=verdict.id, tier=verdict.tier, before=verdict.verdict, after=outcome))
    return found
