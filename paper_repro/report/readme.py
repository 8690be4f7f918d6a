"""The table of results in README.md, between two markers: written from the reference results, never by hand."""

from pathlib import Path

import pandas as pd

from paper_repro.errors import UserError
from paper_repro.ledger import judge_results
from paper_repro.papers import PAPERS, TITLES
from paper_repro.paths import REPO, RESULTS, write_atomic
from paper_repro.plots.claims import ORDER, claims_table
from paper_repro.plots.save import markdown

README = REPO / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TIER = "cpu"
_COLUMNS = ["claim", "statement", "setting", "measured", "interval", "n", "verdict"]
HEADLINES = {  # what the papers' titles and abstracts say, and what the combination was to show, whatever the verdicts
    "titans": ["C1-weak", "C1-strong", "speed-nlp-amortised"],
    "sparse": ["1-kd", "4", "speed-cpu-end-to-end"],
    "recycle": ["T1", "T1-lm", "T3"],
    "majority": ["C1-mlp", "C1-resnet", "C1-transformer", "C3-resnet"],
    "combined": ["S1-accuracy-imdb", "S1-speed-imdb", "S1-accuracy-sst2", "S1-speed-sst2", "S1-accuracy-trec",
                 "S1-speed-trec"],
}  # fmt: skip


def results_table(results: Path = RESULTS, tier: str = TIER) -> str:
    """The verdicts of ``tier`` on every paper, as Markdown: the headlines, and all of them in tables that unfold."""
    tables = {paper: claims_table(judge_results(results, paper, tier), judged_only=True) for paper in PAPERS}
    headlines = pd.concat(
        table[table["claim"].isin(HEADLINES[paper])].assign(paper=f"`{paper}`") for paper, table in tables.items()
    )
    parts = [markdown(headlines[["paper", *_COLUMNS]])]
    for paper, table in tables.items():
        if len(table):
            found = table["verdict"].value_counts()
            counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in ORDER if verdict in found)
            head = f"<summary><b>{TITLES[paper]}</b>, tier <code>{tier}</code>: {counts}</summary>"
            parts.append(f"<details>\n{head}\n\n{markdown(table[_COLUMNS])}\n\n</details>")
        else:
            parts.append(f"**{TITLES[paper]}**: no reference results at tier `{tier}` yet.")
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
