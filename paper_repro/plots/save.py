"""A figure on disk: <id>.png to look at, <id>.pdf to print, <id>.json with the data that it shows.

No file holds a date, and the code that is named is the one that computed the records. So drawing the same records
again gives the same bytes (with the same matplotlib), and a figure in version control changes only for a reason.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paper_repro.errors import UserError
from paper_repro.paths import write_atomic
from paper_repro.plots.source import Results

DIGITS = 6  # significant digits in the JSON
ATOL, RTOL = 1e-4, 1e-3  # of the regression test; 1e-4 of accuracy is one of CIFAR-10's 10,000 test images


@dataclass(frozen=True)
class Plot:
    """One figure or table of a paper: which records it shows, which numbers it takes from them, how it shows those.

    ``draw`` sees nothing but what ``data`` returns; that is also what is written beside the picture. A table's
    ``draw`` returns the frame as people read it.
    """

    id: str
    paper: str
    caption: str
    script: str
    experiments: tuple[str, ...]
    methods: tuple[str, ...] | None
    data: Callable[[Results], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Any]
    kind: Literal["figure", "table"] = "figure"
    models: tuple[str, ...] | None = None

    def rows(self, results: Results) -> tuple[pd.DataFrame, Results]:
        """The plotted data, empty when nothing was recorded for it, and the records that they come from."""
        chosen = results.select(self.experiments, self.methods, self.models)
        return rounded(self.data(chosen)) if chosen.keys else pd.DataFrame(), chosen


def save(figure: Figure | pd.DataFrame, data: pd.DataFrame, plot: Plot, shown: Results, out: Path) -> list[Path]:
    """Write ``out/<paper>/<id>.{png,pdf,json}`` (for a table ``.md`` and ``.json``) and return the paths.

    ``shown`` are the records that ``data`` comes from: the JSON and the PDF's metadata name them and their code.
    """
    stem = out / plot.paper / plot.id
    contents: dict[str, bytes | str] = {".json": describe(data, plot, shown)}
    if isinstance(figure, Figure):
        subject = f"{plot.caption} {provenance(plot, shown)}"
        title = f"{plot.paper} {plot.id}"
        contents[".png"] = _rendered(figure, "png", {"Software": None, "Title": title, "Description": subject})
        dates = {"CreationDate": None, "Producer": None}
        contents[".pdf"] = _rendered(
            figure, "pdf", {"Title": title, "Subject": subject, "Creator": plot.script, **dates}
        )
    else:
        contents[".md"] = f"{markdown(figure)}\n\n{plot.caption} {provenance(plot, shown)}\n"
    paths = []
    for suffix, content in contents.items():
        path = stem.with_name(stem.name + suffix)
        write_atomic(path, content)
        paths.append(path)
    return paths


def provenance(plot: Plot, shown: Results) -> str:
    """What a caption ends with: script, records and code."""
    return (
        f"Drawn by {plot.script} from {len(shown.keys)} records of tier '{shown.tier}' "
        f"(keys {shown.digest[:12]}), computed by {', '.join(shown.versions)}."
    )


def describe(data: pd.DataFrame, plot: Plot, shown: Results) -> str:
    """The JSON beside a figure: one line per row, numbers to ``DIGITS`` significant digits."""
    head = {
        "id": plot.id,
        "paper": plot.paper,
        "tier": shown.tier,
        "caption": plot.caption,
        "script": plot.script,
        "code": shown.versions,
        "keys_sha256": shown.digest,
        "keys": [key[:12] for key in shown.keys],
        "digits": DIGITS,
        "columns": list(data.columns),
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    table = data.astype(object).where(data.notna(), None).values.tolist()
    rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in table)
    return "{\n" + ",\n".join([*lines, f'  "rows": [\n{rows}\n  ]']) + "\n}\n"


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What ``describe`` wrote: the head and the data. Raises UserError when the file is not such a one."""
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        data = pd.DataFrame(head.pop("rows"), columns=head["columns"])
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise UserError(f"{path} is not the data of a figure; draw it again with 'paper-repro figures'.") from None
    return head, data


def rounded(data: pd.DataFrame) -> pd.DataFrame:
    """``data`` with its numbers as they are written: to ``DIGITS`` significant digits."""
    numbers = data.select_dtypes("floating").columns
    return data.assign(**{str(n): [float(f"{v:.{DIGITS}g}") for v in data[n]] for n in numbers}).reset_index(drop=True)


def differences(new: pd.DataFrame, old: pd.DataFrame) -> list[str]:
    """What differs between two versions of a figure's data by more than ``ATOL + RTOL |old|``; one line each."""
    if list(new.columns) != list(old.columns):
        return [f"columns {list(old.columns)} became {list(new.columns)}"]
    if len(new) != len(old):
        return [f"{len(old)} rows became {len(new)}"]
    found = []
    for column in new.columns:
        a, b = new[column], old[column]
        if pd.api.types.is_numeric_dtype(a):
            same = np.isclose(a.astype(float), b.astype(float), rtol=RTOL, atol=ATOL, equal_nan=True)
        else:
            same = ((a == b) | (a.isna() & b.isna())).to_numpy()
        found += [f"row {row}, {column}: {b.iloc[row]} became {a.iloc[row]}" for row in np.flatnonzero(~same)]
    return found


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown."""
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _rendered(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    figure.set_layout_engine("none")  # what the first rendering laid out is good for the second
    return buffer.getvalue()
