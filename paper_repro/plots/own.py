"""The figures of a run on the user's own data, without a notebook."""

import importlib
from pathlib import Path

from paper_repro.plots.save import Plot, save
from paper_repro.plots.source import Results
from paper_repro.plots.style import style


def plots(paper: str) -> dict[str, Plot]:
    """The figures and tables of a paper, by id."""
    found: dict[str, Plot] = importlib.import_module(f"paper_repro.plots.{paper}").PLOTS
    return found


def draw(results: Path, paper: str, tier: str, dataset: str, keys: set[str]) -> list[Path]:
    """Draw every figure that the records with ``keys`` allow, into ``results/figures/<dataset>/<paper>/``.

    By keys, as a folder may hold several runs on ``dataset``, with other unlabelled text for example.
    """
    own = Results.open(results, paper, tier).of_keys(keys)
    written = []
    for plot in plots(paper).values():
        data, shown = plot.rows(own)
        if not data.empty:
            with style():
                written += save(plot.draw(data), data, plot, shown, results / "figures" / dataset)
    return written
