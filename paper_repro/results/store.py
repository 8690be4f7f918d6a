"""The results folder: one file per cell, written whole or not at all."""

import re
from collections.abc import Iterator
from pathlib import Path

from paper_repro.errors import UserError
from paper_repro.paths import write_atomic
from paper_repro.results.schema import Record, parse

_RECORD_NAME = re.compile(r"-s-?\d+-[0-9a-f]{12}\.json$")  # leaves out claims.json and whatever else lies there


class Store:
    """Records under ``root/<paper>/<tier>/``. A failure is recorded, and a later success replaces it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, record: Record) -> Path:
        """Where ``record`` belongs: it depends on what the cell is, not on how it went."""
        names = [record.experiment, record.dataset, record.model, record.method, f"s{record.seed}", record.key[:12]]
        folder = self.root / _safe(record.paper) / _safe(record.tier)
        return folder / ("-".join(_safe(name) for name in names if name) + ".json")

    def write(self, record: Record) -> Path:
        """Write ``record`` atomically and return its path."""
        path = self.path(record)
        write_atomic(path, record.to_json())
        return path

    def get(self, key: str) -> Record | None:
        """The record with this key, whatever its status."""
        for path in sorted(self.root.glob(f"*/*/*-{key[:12]}.json")):
            record = _read(path)
            if record.key == key:
                return record
        return None

    def done(self, key: str) -> bool:
        """Whether the cell has succeeded: a failed, timed out or skipped cell is tried again."""
        record = self.get(key)
        return record is not None and record.status == "ok"

    def records(self, paper: str | None = None, tier: str | None = None) -> list[Record]:
        """All records in order of path.

        Raises UserError for a malformed file, one of a newer schema, and two files with the same cell.
        """
        found: dict[str, Path] = {}
        records = []
        for path in self._paths(paper, tier):
            record = _read(path)
            if record.key in found:
                raise UserError(f"{found[record.key]} and {path} hold the same cell; delete the one that is a copy.")
            found[record.key] = path
            records.append(record)
        return records

    def _paths(self, paper: str | None, tier: str | None) -> Iterator[Path]:
        pattern = f"{_safe(paper) if paper else '*'}/{_safe(tier) if tier else '*'}/*.json"
        return (path for path in sorted(self.root.glob(pattern)) if _RECORD_NAME.search(path.name))


def _read(path: Path) -> Record:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run the cell again.") from None
    return parse(text, path)


def _safe(name: str) -> str:
    """``name`` as one part of a file name on any system; '.' is kept inside, for alpha0.4 and the like."""
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", name).strip(".") or "_"
