"""DEVIATIONS.md: what the paper says, where it is silent, what we chose; generated from the ledger."""

import re
from pathlib import Path
from typing import Any

import yaml

from paper_repro.errors import UserError
from paper_repro.ledger.loader import Ledger
from paper_repro.paths import REPO

_HEADER = ["| setting | the paper says | which is | we chose | why |", "|---|---|---|---|---|"]
_KNOWN = {"paper": "known", "code": "known from code", "guessed": "uncertain", "silent": "not said"}


def deviations(ledgers: list[Ledger], configs: Path = REPO / "experiments" / "configs") -> str:
    """Markdown for all papers. Our values are read from the cpu configurations under ``configs``.

    Raises UserError when the ledger quotes a setting that the configuration does not have.
    """
    lines = [
        "# Deviations from the papers",
        "",
        "Generated from the ledgers (`paper_repro/ledger/*.yaml`); edit those. Our values are those of the cpu tier.",
        "What a paper says carries its certainty: quoted (read in the paper) or secondary (read elsewhere).",
    ]
    for ledger in ledgers:
        path = configs / ledger.paper / "cpu.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        lines += ["", f"## {ledger.title}", "", ledger.citation]
        for group, settings in ledger.settings.items():
            lines += ["", f"### {group}", "", *_HEADER]
            for setting in settings:
                ours = fill(setting.ours, config, str(path))
                cells = [setting.name, setting.paper or "", _KNOWN[setting.status], ours, setting.why or ""]
                lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def fill(text: str, config: Any, where: str) -> str:
    """``text`` with each ``{a/b/c}`` replaced by that value of ``config``.

    A step into a list is the name, dataset or model of the element.
    """

    def value(match: re.Match[str]) -> str:
        node = config
        for step in match[1].split("/"):
            node = _step(node, step)
            if node is None:
                raise UserError(f"The ledger quotes '{match[1]}', which {where} does not have; correct one of them.")
        return f"{node:g}" if isinstance(node, float) else str(node)

    return re.sub(r"\{([^{}]+)\}", value, text)


def _step(node: Any, step: str) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list):
        return next((item for item in node if step in _names(item)), None)
    return None


def _names(item: Any) -> list[str]:
    if not isinstance(item, dict):
        return []
    own = [item.get(field) for field in ("name", "dataset", "model")]
    return [name for name in (*own, *_names(item.get("spec")), *_names(item.get("taught"))) if isinstance(name, str)]
