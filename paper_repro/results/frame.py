"""Records as tidy pandas frames, the only form in which judging and drawing see results."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from paper_repro.config import canonical_json
from paper_repro.results.schema import Record
from paper_repro.results.store import Store

CELL = ["paper", "experiment", "tier", "dataset", "model", "method", "seed", "key"]
COLUMNS = [*CELL, "status", "metric", "value", "unit", "split", "selection", "n"]
SAMPLE_COLUMNS = [*CELL, "name", "index", "value"]


def load(root: Path | str, paper: str | None = None, tier: str | None = None) -> pd.DataFrame:
    """One row per metric of every record under ``root``: ``COLUMNS``, then ``param.<name>`` for each parameter.

    A record without metrics (a failure) keeps one row with an empty metric name, so that it cannot vanish.
    Raises UserError for a malformed record or one of a newer schema.
    """
    return to_frame(Store(root).records(paper, tier))


def load_samples(root: Path | str, paper: str | None = None, tier: str | None = None) -> pd.DataFrame:
    """One row per raw sample of every successful record under ``root``: ``SAMPLE_COLUMNS``."""
    return samples_to_frame(Store(root).records(paper, tier))


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """``load`` for records already in memory."""
    frame = pd.DataFrame([row for record in records for row in _rows(record)])
    frame = frame.reindex(columns=[*COLUMNS, *sorted(set(frame.columns) - set(COLUMNS))])
    return frame.astype({"value": "float64", "seed": "int64"})


def samples_to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """``load_samples`` for records already in memory."""
    rows = [
        {**_cell(record), "name": name, "index": index, "value": value}
        for record in records
        if record.status == "ok"
        for name, values in record.samples.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=SAMPLE_COLUMNS).astype({"value": "float64", "seed": "int64", "index": "int64"})


def _cell(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in CELL}


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    params = {f"param.{name}": _scalar(value) for name, value in record.params.items()}
    cell = {**_cell(record), "status": record.status}
    for metric in record.metrics:
        fields = metric.model_dump()
        yield {**cell, "metric": fields.pop("name"), **fields, **params}
    if not record.metrics:
        yield {**cell, "metric": "", **params}


def _scalar(value: Any) -> Any:
    return canonical_json(value) if isinstance(value, (dict, list, tuple)) else value
