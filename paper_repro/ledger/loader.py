"""The ledger: what a paper says, how certain we are that it says so, and what would confirm or refute it.

A ledger is data, ``<paper>.yaml`` beside this file. Tolerances and their derivations were written before the results.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paper_repro.config import Config, load_yaml
from paper_repro.errors import UserError
from paper_repro.papers import PAPERS

FOLDER = Path(__file__).resolve().parent
Tier = Literal["smoke", "cpu", "gpu", "paper"]
Relation = Literal["greater", "at_least", "less", "at_most", "equal", "differs", "identity", "open"]
Name = str | list[str]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9+-]+$")]  # no dot: it separates the steps of a cell's id
Certainty = Literal["quoted", "secondary", "recalled", "derived", "design"]


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
    """``weight`` times one number per seed: a metric, or the height of a stored curve at student fraction ``at``.

    ``shared``: one record (of a deterministic baseline, of a teacher) stands for every seed of the other terms.
    ``log``: its natural logarithm instead, so that a difference of two terms is that of a ratio.
    """

    weight: float = 1.0
    shared: bool = False
    log: bool = False
    metric: str | None = None
    split: str = "test"
    curve: str | None = None
    at: Annotated[float, Field(ge=0, le=1)] | Fraction | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "Term":
        if (self.metric is None) == (self.curve is None) or (self.curve is None) != (self.at is None):
            raise ValueError("a term needs either 'metric', or 'curve' and 'at'")
        return self


class Iso(Config):
    """Iso-quality speed-up of ``arm`` over ``baseline``: see ``iso_quality``.

    An arm's runs are the methods ``<arm>@<duration>``. The quality asked for is the baseline's mean at the duration
    ``at``. ``less_is_better``: for a loss. ``cost``: what is compared at that quality. ``charged``: metrics in the unit
    of ``cost`` that are added to each run of the arm, times a weight, as for a teacher that so many students share.
    """

    arm: str
    baseline: str
    at: float
    quality: str = "accuracy"
    less_is_better: bool = False
    cost: Literal["seconds", "training_flops"] = "seconds"
    charged: dict[str, float] = Field(default_factory=dict)


class Matched(Config):
    """``quality`` of ``arm`` less that of the baseline where its ``loss`` on the training data is the same.

    ``baseline``: methods that differ in duration only, the shortest first. Between their mean losses quality is
    interpolated over the logarithm of the loss; nothing is extrapolated.
    """

    arm: str
    baseline: list[str] = Field(min_length=2)
    quality: str = "accuracy"
    split: str = "test"
    loss: str = "loss"


class Part(Selection):
    """One setting in which the claim must hold. What a term leaves open is filled in from here."""

    label: str | None = None
    tolerance: float | None = Field(default=None, ge=0)  # where this setting needs its own
    terms: list[Term] | None = None
    iso: Iso | None = None
    matched: Matched | None = None

    @property
    def name(self) -> str:
        names = [self.label, self.dataset, self.model, self.method]
        return ", ".join(" / ".join(name) if isinstance(name, list) else name for name in names if name) or "all"


class Discordant(Config):
    """Of a difference of two accuracies on the same test examples: the metrics that are the shares of which one side
    alone is right, ``first`` and ``second``. They say what other test examples would change (``stats.paired_error``).
    """

    first: str
    second: str


class Below(Config):
    """Of cells, those in which a metric is below ``limit``."""

    metric: str
    limit: float


class Exceeds(Config):
    """Share of the selected cells in which a metric is above ``threshold``, with an exact binomial interval.

    ``of``: only of these cells. With ``discordant`` a cell counts only where its test examples show it, by a one-sided
    test at 5 %.
    """

    metric: str
    threshold: float
    split: str = "test"
    of: Below | None = None
    discordant: Discordant | None = None


class Series(Selection):
    """Raw samples, seconds per round, of one selected record."""

    sample: str


class Pace(Config):
    """Two competitors of one record, timed in the same rounds."""

    slow: Series
    fast: Series


class Speedup(Pace):
    """Median over interleaved rounds of seconds ``slow / (fast + deferred * slow)``; see ``timing.ratio``.

    With ``deferred`` > 0 it is the speed-up of a cascade that runs the slow model on that share. With ``relative_to``
    it is divided by that other speed-up, as for how much longer texts are worth.
    """

    deferred: float = Field(default=0.0, ge=0, le=1)
    relative_to: Pace | None = None


class Check(Config):
    """What is measured at a tier, and when it confirms the statement.

    Exactly one of ``terms`` (a linear combination of one number per seed: a mean, a paired difference, a difference of
    differences), ``exceeds``, ``speedup``, ``iso`` and ``matched`` (or of each part its own). ``discordant``, with a
    single term: the interval also covers other test examples, not other seeds alone. ``tolerance`` is in the
    unit of the measured number: the smallest effect of interest for 'greater' and 'less', the margin for the other
    relations; ``derivation`` says where it comes from.
    """

    terms: list[Term] | None = None
    exceeds: Exceeds | None = None
    speedup: Speedup | None = None
    iso: Iso | None = None
    matched: Matched | None = None
    discordant: Discordant | None = None
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
        of_parts = ("terms", "iso", "matched")
        given = [
            getattr(self, name) is not None or all(getattr(p, name) is not None for p in self.parts)
            for name in of_parts
        ]
        if sum(given) + (self.exceeds is not None) + (self.speedup is not None) != 1:
            raise ValueError("a check needs exactly one of 'terms', 'exceeds', 'speedup', 'iso' and 'matched'")
        if self.discordant and (self.terms is None or len(self.terms) != 1):
            raise ValueError("'discordant' goes with a single term")
        for terms in (self.terms, *(part.terms for part in self.parts)):
            if terms is not None and all(term.shared for term in terms):
                raise ValueError("one term at least must have a number per seed, not 'shared'")
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
    (arithmetic on quoted numbers or from the method's formulas), design (follows from the design and was not read);
    never upgraded. ``value`` None on a number: the paper has it, and we could not find it. ``paper_seeds`` and
    ``selection_rule`` of None: not known. ``table``: the one whose cell this number is; None for what stands alone.
    """

    id: str = Field(pattern=r"^[a-z]+/[A-Za-z0-9.+-]+$")
    kind: Literal["number", "claim", "control", "beyond"]
    statement: str
    source: Source
    certainty: Certainty
    value: float | None = None
    unit: str | None = None
    table: str | None = None
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


class Heading(Config):
    """What a row or column of a table is called in the paper. A bare text is its name."""

    name: str
    unit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw


class Row(Heading):
    """One row of a table: a number, or null where the paper has none ("-", "n/a"), for each column in order."""

    values: list[float | None]
    note: str | None = None


class Table(Config):
    """A table of a paper as it is printed. Each of its numbers becomes an entry ``<paper>/<table>.<column>.<row>``.

    ``statement`` is a template with ``{row}`` and ``{column}``. The unit of a number is that of its row, else of its
    column, else of the table. ``notes``, by ``<column>.<row>``, say what is odd about one number; a ``note`` of the
    table or of a row goes to all of its numbers.
    """

    source: Source
    certainty: Certainty
    statement: str
    unit: str | None = None
    paper_seeds: int | None = None
    selection_rule: str | None = None
    note: str | None = None
    columns: dict[Slug, Heading] = Field(min_length=1)
    rows: dict[Slug, Row] = Field(min_length=1)
    notes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> "Table":
        for name, row in self.rows.items():
            if len(row.values) != len(self.columns):
                raise ValueError(f"row '{name}' has {len(row.values)} values for {len(self.columns)} columns")
        cells = self.cells()
        bare = [f"{c}.{r}" for c, r in cells if not (self.rows[r].unit or self.columns[c].unit or self.unit)]
        unknown = sorted(set(self.notes) - {f"{column}.{row}" for column, row in cells})
        if bare or unknown:
            raise ValueError(f"numbers without a unit: {bare}; notes on no number: {unknown}")
        if "{row}" not in self.statement or "{column}" not in self.statement:
            raise ValueError("the statement of a table names its {row} and its {column}")
        return self

    def cells(self) -> dict[tuple[str, str], float]:
        """The numbers by column and row, row by row."""
        return {
            (column, name): value
            for name, row in self.rows.items()
            for column, value in zip(self.columns, row.values, strict=True)
            if value is not None
        }

    def entries(self, paper: str, table: str) -> list[Entry]:
        """One entry per number, row by row."""
        return [self._entry(f"{paper}/{table}", *cell, value) for cell, value in self.cells().items()]

    def _entry(self, prefix: str, column: str, row: str, value: float) -> Entry:
        across, down = self.columns[column], self.rows[row]
        notes = [self.notes.get(f"{column}.{row}"), down.note, self.note]
        return Entry(
            id=f"{prefix}.{column}.{row}", kind="number", table=prefix.partition("/")[2],
            statement=self.statement.replace("{row}", down.name).replace("{column}", across.name),
            source=self.source.model_copy(update={"where": f"{self.source.where}, {down.name}, {across.name}"}),
            certainty=self.certainty, value=value, unit=down.unit or across.unit or self.unit,
            paper_seeds=self.paper_seeds, selection_rule=self.selection_rule,
            note=" ".join(note for note in notes if note) or None,
        )  # fmt: skip


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
    """All entries of one paper, and the settings that they rest on.

    ``entries`` holds those of the file, then one for each number of ``tables``.
    """

    paper: str
    title: str
    citation: str
    settings: dict[str, Annotated[list[Setting], Field(min_length=1)]]
    entries: list[Entry]
    tables: dict[Slug, Table] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _references(self) -> "Ledger":
        by_hand = [entry.id for entry in self.entries if entry.table is not None]
        if by_hand:
            raise ValueError(f"entries of a table belong under 'tables': {', '.join(by_hand)}")
        for name, table in self.tables.items():  # the list is this model's own: validation made it
            self.entries.extend(table.entries(self.paper, name))
        counts = Counter(entry.id for entry in self.entries)
        repeated = sorted(name for name, count in counts.items() if count > 1)
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
    """The papers that have a ledger, in the order of ``PAPERS``."""
    return [paper for paper in PAPERS if (FOLDER / f"{paper}.yaml").is_file()]


def load_ledger(paper: str) -> Ledger:
    """The ledger of ``paper``. Raises UserError when there is none or when it is not valid."""
    if paper not in papers():
        raise UserError(f"There is no ledger for the paper '{paper}'; choose one of: {', '.join(papers())}.")
    return load_yaml(FOLDER / f"{paper}.yaml", Ledger)
