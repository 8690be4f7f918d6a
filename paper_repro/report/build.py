"""From a results folder and its figures to one HTML file that needs no network."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from paper_repro.errors import UserError
from paper_repro.ledger import REASONS, Entry, Verdict, judge_all, listed, load_ledger, papers
from paper_repro.paths import write_atomic
from paper_repro.plots import save
from paper_repro.plots.claims import expected, interval, number
from paper_repro.plots.cost import cost_table, environment_table
from paper_repro.plots.own import plots
from paper_repro.plots.source import TIERS, code_name
from paper_repro.report.deviations import deviation_rows
from paper_repro.results import Record, Store, samples_to_frame, to_frame

VERDICTS = ("reproduced", "inconclusive", "not reproduced", "not run")


def build(results: Path | str, figures: Path | str, out: Path | str, tier: str | None = None) -> Path:
    """Write the report on every paper and tier that ``results`` has records of (or on ``tier`` only) to ``out``.

    ``figures`` is where the notebooks drew; a figure drawn from other records than these says so. Raises UserError
    when there are no records, or a record or a figure's data is damaged.
    """
    records = [record for record in Store(results).records() if tier in (None, record.tier)]
    if not records:
        at = "" if tier is None else f" at tier '{tier}'"
        raise UserError(f"There are no records in {results}{at}; run 'paper-repro run all' first.")
    groups = [
        (paper, name, [record for record in records if (record.paper, record.tier) == (paper, name)])
        for paper in papers()
        for name in TIERS
    ]
    groups = [group for group in groups if group[2]]
    ledgers = {paper: load_ledger(paper) for paper in dict.fromkeys(paper for paper, *_ in groups)}
    verdicts = [
        verdict
        for paper, name, found in groups
        for verdict in judge_all(to_frame(found), ledgers[paper].entries, name, samples_to_frame(found))
    ]
    entries = {entry.id: entry for ledger in ledgers.values() for entry in ledger.entries}
    claims = [_claim(verdict, entries[verdict.id]) for verdict in listed(verdicts)]
    environment = Environment(
        loader=PackageLoader("paper_repro.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        papers={paper: ledger.title for paper, ledger in ledgers.items()},
        tiers=[name for name in TIERS if name in {record.tier for record in records}],
        verdicts=VERDICTS,
        counts=_counts(claims),
        claims=claims,
        unlisted=len({v.id for v in verdicts} - {c["id"] for c in claims}),
        figures=[figure for paper in ledgers for figure in _figures(Path(figures) / paper, records)],
        failures=[record for record in records if record.status != "ok"],
        costs=cost_table(records).to_dict("records"),
        environments=environment_table(records).to_dict("records"),
        deviations={paper: deviation_rows(ledger) for paper, ledger in ledgers.items()},
        versions=sorted({code_name(record.code) for record in records}),
        n_records=len(records),
    )
    target = Path(out)
    write_atomic(target, page)
    return target


def _claim(verdict: Verdict, entry: Entry) -> dict[str, Any]:
    """A verdict as the template shows it."""
    return {
        **verdict.model_dump(),
        "paper_value": _paper_value(entry),
        "expected": expected(verdict),
        "ours": number(verdict.measured),
        "interval": interval(verdict).removesuffix(" (95%)"),
        "why": REASONS[verdict.reason],
        "note": entry.note,
        "parts": [
            {
                **part.model_dump(),
                "ours": number(part.measured),
                "low": number(part.ci_low),
                "high": number(part.ci_high),
            }
            for part in verdict.parts
        ],
    }


def _paper_value(entry: Entry) -> str:
    """The paper's number; for a claim, whether it is a direction only or no statement of the paper at all."""
    if entry.value is not None:
        return f"{entry.value:g} {entry.unit or ''}".strip()
    return {"number": "not found", "claim": "direction only"}.get(entry.kind, "not in the paper")


def _counts(claims: list[dict[str, Any]]) -> dict[str, int]:
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in VERDICTS}


def _figures(folder: Path, records: list[Record]) -> list[dict[str, Any]]:
    """Figures and tables of one paper, in the order in which its notebook draws them as far as that is known."""
    known = {record.key[:12] for record in records}
    found = []
    for path in sorted(folder.glob("*.json"), key=_rank):
        head, data = save.read(path)
        picture = path.with_suffix(".png")
        foreign = len(set(head["keys"]) - known)
        found.append(
            {
                **head,
                "picture": _data_uri(picture, "image/png") if picture.exists() else None,
                "table": None if picture.exists() else _table(path, data),
                "data": _data_uri(path, "application/json"),
                "foreign": foreign,
                "used": len(head["keys"]),
            }
        )
    return found


def _rank(path: Path) -> tuple[int, str]:
    order = list(plots(path.parent.name))
    return (order.index(path.stem) if path.stem in order else len(order), path.stem)


def _table(path: Path, data: Any) -> dict[str, list[Any]]:
    """A table as people read it."""
    plot = plots(path.parent.name).get(path.stem)
    shown = plot.draw(data) if plot else data
    return {"columns": list(shown.columns), "rows": shown.astype(str).values.tolist()}


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
