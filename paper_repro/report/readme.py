"""The table of results in README.md, between two markers: written from the reference results, never by hand."""

from pathlib import Path

from paper_repro.errors import UserError
from paper_repro.ledger import judge_results
from paper_repro.papers import PAPERS, TITLES
from paper_repro.paths import REPO, RESULTS, write_atomic
from paper_repro.plots.claims import claims_table
from paper_repro.plots.save import markdown

README = REPO / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TIER = "cpu"
_COLUMNS = ["claim", "statement", "setting", "measured", "interval", "n", "verdict"]


def results_table(results: Path = RESULTS, tier: str = TIER) -> str:
    """The verdicts of ``tier`` on every paper, as Markdown; a sentence where nothing has been judged."""
    parts = []
    for paper in PAPERS:
        verdicts = judge_results(results, paper, tier)
        table = claims_table(verdicts, judged_only=True)
        text = markdown(table[_COLUMNS]) if len(table) else f"No reference results at tier `{tier}` yet."
        parts.append(f"**{TITLES[paper]}, tier `{tier}`**\n\n{text}")
    return "\n\n".join(parts)


def filled(text: str, table: str) -> str:
    """``text`` with what stands between the markers replaced. Raises UserError when it has no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md lacks the markers {BEGIN} and {END}; put them where the table belongs.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write_readme(path: Path = README) -> Path:
    """Write the table into README.md; a test fails while it is stale."""
    write_atomic(path, filled(path.read_text(encoding="utf-8"), results_table()))
    return path
