"""What a notebook starts with. It reads a results folder and the ledger, writes figures, and never computes anything.

``PAPER_REPRO_RESULTS`` (default: the repository's results), ``PAPER_REPRO_TIER`` (cpu) and ``PAPER_REPRO_FIGURES``
(the repository's figures) say what is read and written.
"""

import os
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

from paper_repro import paths
from paper_repro.ledger import Verdict, judge_all, load_ledger
from paper_repro.plots.claims import claims_table
from paper_repro.plots.save import Plot, provenance, save
from paper_repro.plots.source import Results, choose_tier
from paper_repro.plots.style import style
from paper_repro.results import Record, Store


def settings() -> tuple[Path, str, Path]:
    """Results folder, wanted tier and figures folder, from the environment."""
    results = Path(os.environ.get("PAPER_REPRO_RESULTS") or paths.RESULTS)
    figures = Path(os.environ.get("PAPER_REPRO_FIGURES") or paths.FIGURES)
    return results, os.environ.get("PAPER_REPRO_TIER") or "cpu", figures


class Session:
    """The results of one paper at the wanted tier, or at another one where there are none, which it says."""

    def __init__(self, paper: str) -> None:
        root, wanted, self.figures = settings()
        tier, self.note = choose_tier(root, paper, wanted)
        self.results = Results.open(root, paper, tier)

    def draw(self, plot: Plot) -> None:
        """Draw, write and show one figure or table, or say that there is nothing to draw it from."""
        data, shown = plot.rows(self.results)
        if data.empty:
            display(HTML(f"<p>Nothing was recorded for {plot.id} at tier '{self.results.tier}'.</p>"))
            return
        with style():
            drawing = plot.draw(data)
            paths = save(drawing, data, plot, shown, self.figures)
        if isinstance(drawing, Figure):
            picture = next(path for path in paths if path.suffix == ".png")
            display(Image(picture.read_bytes(), width=round(100 * drawing.get_figwidth())))
        else:
            show_table(drawing)
        display(
            HTML(f"<p><b>{plot.id}.</b> {escape(plot.caption)} <small>{escape(provenance(plot, shown))}</small></p>")
        )

    def records(self) -> list[Record]:
        """All records of this paper, whatever their tier and status."""
        return Store(settings()[0]).records(self.results.paper)

    def verdicts(self) -> list[Verdict]:
        """What the ledger's checks make of these results."""
        return self._verdicts

    @cached_property
    def _verdicts(self) -> list[Verdict]:
        ledger = load_ledger(self.results.paper)
        return judge_all(self.results.metrics, ledger.entries, self.results.tier, self.results.samples)

    def claims(self) -> None:
        """Show the table of tolerance checks."""
        show_table(claims_table(self.verdicts()))

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.note)} {len(self.results.keys)} records.</p>"


def show_table(table: pd.DataFrame) -> Any:
    """A table of texts, in full."""
    style = "<style>.checks td, .checks th {text-align: left !important; vertical-align: top}</style>"
    with pd.option_context("display.max_colwidth", None):
        display(HTML(style + table.to_html(index=False, classes="checks", border=0)))
