"""What came of the promise of ten times the teacher's throughput within half a point of its accuracy, in words.

It follows from the ledger's verdicts and from nothing else.
"""

from collections.abc import Iterable

from paper_repro.ledger import REASONS, PartVerdict, Verdict
from paper_repro.plots.combined import title

SPEED, ACCURACY = "combined/S1-speed-", "combined/S1-accuracy-"


def answer(verdicts: Iterable[Verdict]) -> str:
    """One sentence of Markdown for each data set on which the promise was judged at the papers' tiers."""
    parts: dict[str, dict[str, PartVerdict]] = {}
    for verdict in verdicts:
        for prefix in (SPEED, ACCURACY):
            if verdict.id.startswith(prefix):
                parts |= {part.name: parts.get(part.name, {}) | {prefix: part} for part in verdict.parts}
    run = {name: of for name, of in parts.items() if any(part.verdict != "not run" for part in of.values())}
    said = [_sentence(name, of) for name, of in run.items() if len(of) == 2]
    return " ".join(said) or "Nothing was judged here of ten times the throughput within half a point."


def _sentence(name: str, of: dict[str, PartVerdict]) -> str:
    speed, lost = of[SPEED], of[ACCURACY]
    verdicts = {speed.verdict, lost.verdict}
    held = "holds" if verdicts == {"reproduced"} else "does not hold" if "not reproduced" in verdicts else "is open"
    numbers = f"{_with_limits(speed, 1, ' times the throughput')}; {_with_limits(lost, 100, ' points lost')}"
    return f"**{title(name)}**: the promise {held} ({numbers})."


def _with_limits(part: PartVerdict, scale: float, unit: str) -> str:
    if part.measured is None:
        return REASONS[part.reason]
    value = f"{scale * part.measured:.2f}{unit}"
    if part.ci_low is None or part.ci_high is None:
        return value
    return f"{value}, {scale * part.ci_low:.2f} to {scale * part.ci_high:.2f}"
