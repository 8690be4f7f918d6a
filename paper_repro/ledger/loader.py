"""The ledger: what a paper says, how certain we are that it says so, and what would confirm or refute it.

A ledger is data, ``<paper>.yaml`` beside this file. Tolerances and their derivations were written before the results.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from paper_repro.config import Config, load_yaml
from paper_repro.errors import UserError

FOLDER = Path(__file__).resolve().parent
Tier = Literal["smoke", "cpu", "gpu", "paper"]
Relation = Literal["greater", "at_least", "less", "at_most", "equal", "differs", "identity", "open"]
Name = str | list[str]


class Source(Config):
    """Where a statement comes from. ``where``: table, figure, equation or section; for a control, our design."""

    paper: str
    version: str | None = None
    where: str


class Selection(Config):
    """Which cells. A list means all of its members: their mean within each seed (for ``Exceeds``, each counts)."""

    dataset: Name | None = None
    model: Name | None = None
    method: Name | None = None


class Fraction(Selection):
    """A student fraction per seed: a metric, perhaps of another method."""

    metric: str


class Term(Selection):
    """``weight`` times one number per seed: a metric, or the height of a stored curve at student fraction ``at``."""

    weight: float = 1.0
    metric: str | None = None
    split: str = "test"
    curve: str | None = None
    at: Annotated[float, Field(ge=0, le=1)] | Fraction | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "Term":
        if (self.metric is None) == (self.curve is None) or (self.curve is None) != (self.at is None):
            raise ValueError("a term needs either 'metric', or 'curve' and 'at'")
        return self


class Part(Selection):
    """One setting in which the claim must hold. What a term leaves open is filled in from here."""

    label: str | None = None
    tolerance: float | None = Field(default=None, ge=0)  # where this setting needs its own
    terms: list[Term] | None = None

    @property
    def name(self) -> str:
        names = [self.label, self.dataset, self.model, self.method]
        return ", ".join(" / ".join(name) if isinstance(name, list) else name for name in names if name) or "all"


class Exceeds(Config):
    """Share of the selected cells in which a metric is above ``threshold``, with an exact binomial interval."""

    metric: str
    threshold: float
    split: str = "test"


class Series(Selection):
    """Raw samples, seconds per round, of one selected record."""

    sample: str


class Speedup(Config):
    """Median over interleaved rounds of seconds ``slow / (fast + deferred * slow)``; see ``timing.ratio``.

    With ``deferred`` > 0 it is the speed-up of a cascade that runs the slow model on that share.
    """

    slow: Series
    fast: Series
    deferred: float = Field(default=0.0, ge=0, le=1)


class Check(Config):
    """What is measured at a tier, and when it confirms the statement.

    Exactly one of ``terms`` (a linear combination of one number per seed: a mean, a paired difference, a difference
    of differences), ``exceeds`` and ``speedup``. ``tolerance`` is in the unit of the measured number: the smallest
    effect of interest for 'greater' and 'less', the margin for the other relations; ``derivation`` says where it
    comes from.
    """

    terms: list[Term] | None = None
    exceeds: Exceeds | None = None
    speedup: Speedup | None = None
    experiment: str = "student"
    relation: Relation
    value: float = 0.0
    tolerance: float = Field(ge=0)
    derivation: str = Field(min_length=20)
    unit: str = "fraction"
    min_seeds: int = Field(default=3, ge=1)
    parts: list[Part] = Field(default_factory=lambda: [Part()], min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Check":
        has_terms = self.terms is not None or all(part.terms is not None for part in self.parts)
        if has_terms + (self.exceeds is not None) + (self.speedup is not None) != 1:
            raise ValueError("a check needs exactly one of 'terms', 'exceeds' and 'speedup'")
        if self.relation in ("equal", "differs") and self.tolerance == 0:
            raise ValueError(f"the relation '{self.relation}' needs a positive tolerance")
        return self

    @property
    def expected(self) -> str:
        """The relation in words and numbers, for people."""
        value, within = f"{self.value:g}", f"{self.tolerance:g}"
        return {
            "greater": f"> {value}",
            "less": f"< {value}",
            "at_least": f">= {value} - {within}",
            "at_most": f"<= {value} + {within}",
            "equal": f"= {value} +- {within}",
            "differs": f"outside {value} +- {within}",
            "identity": f"= {value} in every run (to {within})",
            "open": f"compared with {value}; direction not known",
        }[self.relation]


class Entry(Config):
    """One number or claim of a paper, one control of its design, or one claim of ours beyond it.

    ``certainty``: quoted (read in the paper's own text), secondary (stated by another text), recalled, derived
    (arithmetic from the method's formulas), design (follows from the design and was not read); never upgraded.
    ``value`` None on a number: the paper has it, and we could not find it. ``paper_seeds`` and ``selection_rule`` of
    None: not known.
    """

    id: str = Field(pattern=r"^[a-z]+/[A-Za-z0-9.-]+$")
    kind: Literal["number", "claim", "control", "beyond"]
    statement: str
    source: Source
    certainty: Literal["quoted", "secondary", "recalled", "derived", "design"]
    value: float | None = None
    unit: str | None = None
    paper_seeds: int | None = None
    selection_rule: str | None = None
    hyperparameters: list[str] = Field(default_factory=list)  # names of groups of settings
    note: str | None = None
    checks: dict[Tier, Check] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _enough_seeds(self) -> "Entry":
        for tier, check in self.checks.items():
            if tier in ("cpu", "gpu") and check.min_seeds < 3 and check.relation != "identity":
                raise ValueError(f"a claim judged at tier '{tier}' needs min_seeds of at least 3")
        return self


class Setting(Config):
    """One hyper-parameter or protocol choice: what the paper says, and what we do.

    ``ours`` may quote our configuration, as in ``{methods/md/alpha}``, so that it cannot go stale.
    """

    name: str
    status: Literal["paper", "code", "guessed", "silent"]
    paper: str | None = None  # what it says, with certainty; None when it is silent
    ours: str
    why: str | None = None

    @model_validator(mode="after")
    def _said(self) -> "Setting":
        if (self.status == "silent") != (self.paper is None):
            raise ValueError("'paper' is given exactly when the status is not 'silent'")
        return self


class Ledger(Config):
    """All entries of one paper, and the settings that they rest on."""

    paper: str
    title: str
    citation: str
    settings: dict[str, Annotated[list[Setting], Field(min_length=1)]]
    entries: list[Entry]

    @model_validator(mode="after")
    def _references(self) -> "Ledger":
        ids = [entry.id for entry in self.entries]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"ids occur twice: {', '.join(repeated)}")
        for entry in self.entries:
            unknown = sorted(set(entry.hyperparameters) - set(self.settings))
            if unknown or not entry.id.startswith(f"{self.paper}/"):
                raise ValueError(f"entry {entry.id}: unknown settings {unknown} or an id of another paper")
        return self

    def entry(self, name: str) -> Entry:
        """The entry with this id, with or without the paper's prefix."""
        for entry in self.entries:
            if entry.id in (name, f"{self.paper}/{name}"):
                return entry
        raise UserError(f"The ledger of {self.paper} has no entry '{name}'; 'paper-repro claims' lists them.")


def papers() -> list[str]:
    """The papers that have a ledger."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_ledger(paper: str) -> Ledger:
    """The ledger of ``paper``. Raises UserError when there is none or when it is not valid."""
    if paper not in papers():
        raise UserError(f"There is no ledger for the paper '{paper}'; choose one of: {', '.join(papers())}.")
    return load_yaml(FOLDER / f"{paper}.yaml", Ledger)
