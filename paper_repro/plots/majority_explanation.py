"""What explains the gain of majority kernels, in words: it follows from the ledger's verdicts and from nothing else."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from paper_repro.ledger import REASONS, PartVerdict, Verdict
from paper_repro.plots.majority_cells import GAIN, title


class Rival(NamedTuple):
    """A simpler explanation of a gain.

    ``beaten``: claims that majority kernels are better than it. It explains the gain where one of them is refuted and
    less than the gain is left over it; and is ruled out where these and those of ``also`` are confirmed. ``alone``:
    the claim that it gains by itself, which must be confirmed, too.
    """

    name: str
    beaten: tuple[str, ...]
    also: tuple[str, ...] = ()
    alone: str | None = None


RIVALS = (
    Rival("Gaussian weight noise", ("N4",), alone="N4-noise"),
    Rival("averaging first weights", ("N2", "N3")),
    Rival("the learning rate", ("N1-lrk",), also=("N1-lr",)),
    Rival("averaging the weights of training", ("N4-swa", "N4-ema")),
    Rival("stopping early", ("N4-stopped",)),
    Rival("plain training at its rates, stopped at the same training loss", ("M-loss",)),
)


class Standing(NamedTuple):
    """What became of a rival, and the comparison with it that decides."""

    status: Literal["explains", "ruled out", "open", "not run"]
    left: PartVerdict


NOT_RUN = PartVerdict(name="", verdict="not run", reason="no_records")


def explanation(verdicts: Iterable[Verdict]) -> str:
    """One paragraph of Markdown: for each model and data set, whether there is a gain, and what explains it.

    ``verdicts`` are those of the paper's ledger; a claim that is not among them counts as not run. Accuracies must be
    fractions.
    """
    known = {verdict.id.partition("/")[2]: verdict for verdict in verdicts}
    settings = [part for claim in GAIN if claim in known for part in known[claim].parts]
    judged = [part for part in settings if part.verdict != "not run"]
    if not judged:
        return "Nothing was judged here that majority kernels gain, so there is nothing to explain."
    outcomes = [part.verdict for part in judged]
    gains, none, unclear = (outcomes.count(v) for v in ("reproduced", "not reproduced", "inconclusive"))
    counted = f"{gains} show a gain over plain training, {none} show none, {unclear} are open."
    start = f"Of {len(judged)} settings at their main sizes, {counted}"
    if not gains:
        start += " So there is no gain to explain" + (" yet." if unclear else ".")
    start += " What another choice of learning rates would give is not in the intervals."
    return " ".join([start, *(_setting(part, known) for part in settings)])


def _setting(gain: PartVerdict, known: dict[str, Verdict]) -> str:
    """What is said of one model and data set."""

    def of(claim: str) -> PartVerdict:
        parts = known[claim].parts if claim in known else []
        return next((part for part in parts if part.name == gain.name), NOT_RUN)

    name = f"**{title(*gain.name.split(', ', 1))}**:"  # parts are named by data set and model
    if gain.verdict == "not run":
        return f"{name} not run."
    if gain.verdict == "reproduced":
        standings = {rival.name: _standing(rival, gain, of) for rival in RIVALS}
        said = [f"a gain of {_points(gain)}.", *_explained(gain, standings)]
    else:
        said = [_no_gain(gain)]
        if of("N4-noise").verdict == "reproduced":
            said.append(f"Gaussian weight noise by itself gains {_points(of('N4-noise'))}.")
    return " ".join([name, *said, *_by_size(of("C1-few"), of("M-size"), of("M-noise"))])


def _standing(rival: Rival, gain: PartVerdict, of: Callable[[str], PartVerdict]) -> Standing:
    beaten = [of(claim) for claim in rival.beaten]
    run = [part for part in (*beaten, *map(of, rival.also)) if part.verdict != "not run"]
    if not run:
        return Standing("not run", NOT_RUN)
    as_good = [part for part in beaten if part.verdict == "not reproduced"]
    if as_good:
        left = min(as_good, key=_measured)
        # a gain of less than half a point is not explained by what comes within half a point of it
        smaller = left.ci_high is not None and left.ci_high < _measured(gain)
        alone = rival.alone is None or of(rival.alone).verdict == "reproduced"
        return Standing("explains" if smaller and alone else "open", left)
    undecided = [part for part in run if part.verdict != "reproduced"]
    least = min(undecided or run, key=_measured)
    complete = len(run) == len(rival.beaten) + len(rival.also)
    return Standing("open" if undecided or not complete else "ruled out", least)


def _explained(gain: PartVerdict, standings: dict[str, Standing]) -> Iterator[str]:
    """Sentences on a gain that there is."""

    def are(status: str) -> list[str]:
        found = {name: standing.left for name, standing in standings.items() if standing.status == status}
        return [name if left is NOT_RUN else f"{name} ({_points(left, ' left')})" for name, left in found.items()]

    explains, beaten, unclear, missing = (are(status) for status in ("explains", "ruled out", "open", "not run"))
    if explains:
        verb = "explains it" if len(explains) == 1 else "each explain it"
        yield f"{_capital(_listed(explains))} {verb}: less than {_half_a_point(gain)} are left over."
    if beaten:
        yield f"It is not explained in full by {_listed(beaten, 'or')}."
    if unclear:
        yield f"Open: {_listed(unclear)}."
    if missing:
        yield f"Not compared: {_listed(missing)}."
    if not explains:
        if unclear or missing:
            yield "Whether some of the gain is its own is open."
        else:
            least = min(_measured(standing.left) for standing in standings.values())
            yield f"So some of the gain is its own: {_in(least)} points or more over each of these."


def _no_gain(gain: PartVerdict) -> str:
    if gain.verdict == "inconclusive":
        return f"whether there is a gain is open ({_points(gain)}), so nothing is explained."
    if gain.ci_high is not None and gain.ci_high < -(gain.tolerance or 0):
        return f"no gain but a loss ({_points(gain)}), so there is no gain to explain."
    return f"no gain of {_half_a_point(gain)} or more ({_points(gain)}), so there is none to explain."


def _by_size(fewest_gain: PartVerdict, gap: PartVerdict, noise: PartVerdict) -> Iterator[str]:
    """Sentences on many and few examples."""
    there = {
        "reproduced": "With the fewest examples there is a gain over plain training",
        "not reproduced": "With the fewest examples plain training is not beaten{} either",
        "inconclusive": "Whether there is a gain with the fewest examples is open",
    }
    few = {
        "reproduced": "The difference to plain training is larger with few examples, seen more often, than with many",
        "not reproduced": "The difference to plain training is not larger{} with few examples than with many",
        "inconclusive": "Whether the difference to plain training is larger with few examples is open",
    }
    fewest = {
        "reproduced": "Where examples are fewest, majority kernels are better than the best weight noise",
        "not reproduced": "Where examples are fewest, majority kernels are not better{} than the best weight noise",
        "inconclusive": "Where examples are fewest, it is open whether they are better than the best weight noise",
    }
    for sentences, part in ((there, fewest_gain), (few, gap), (fewest, noise)):
        if part.verdict != "not run":
            yield f"{sentences[part.verdict].format(f' by {_half_a_point(part)} or more')} ({_points(part)})."


def _points(part: PartVerdict, what: str = "") -> str:
    """A difference of accuracies with its interval."""
    if part.measured is None:
        return REASONS[part.reason]
    if part.ci_low is None or part.ci_high is None:
        return f"{_in(part.measured)} points{what}, no interval"
    return f"{_in(part.measured)} points{what}, {_in(part.ci_low)} to {_in(part.ci_high)}"


def _half_a_point(part: PartVerdict) -> str:
    """What matters to a claim."""
    return f"{_in(part.tolerance or 0)} points"


def _in(fraction: float) -> str:
    """A fraction in points; never minus zero."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"


def _measured(part: PartVerdict) -> float:
    return float("inf") if part.measured is None else part.measured


def _listed(names: list[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
