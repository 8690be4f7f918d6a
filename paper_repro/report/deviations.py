"""DEVIATIONS.md at the top of the repository, generated from the ledgers and the cpu configurations."""

from pathlib import Path
from typing import Any

import yaml

from paper_repro.ledger import Ledger, deviations, load_ledger, papers
from paper_repro.ledger.deviations import fill
from paper_repro.paths import REPO, write_atomic

DEVIATIONS = REPO / "DEVIATIONS.md"


def deviations_text() -> str:
    """What DEVIATIONS.md has to hold. Raises UserError when a ledger quotes a setting that is not configured."""
    return deviations([load_ledger(paper) for paper in papers()])


def write_deviations(path: Path = DEVIATIONS) -> Path:
    """Write DEVIATIONS.md; a test fails while it is stale."""
    write_atomic(path, deviations_text())
    return path


def deviation_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """The same as rows for the report: group, name, paper, status, ours, why."""
    path = REPO / "experiments" / "configs" / ledger.paper / "cpu.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [
        {"group": group, **setting.model_dump(), "ours": fill(setting.ours, config, path.name)}
        for group, settings in ledger.settings.items()
        for setting in settings
    ]
