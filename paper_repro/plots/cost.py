"""What was computed, where, and how long it took, from the records themselves."""

from collections import Counter
from typing import Any

import pandas as pd

from paper_repro.config import canonical_json
from paper_repro.plots.source import code_name
from paper_repro.results import Record


def cost_table(records: list[Record]) -> pd.DataFrame:
    """Records, failures and hours of one process per paper, tier and experiment."""
    rows = [
        (
            r.paper,
            r.tier,
            r.experiment,
            r.status == "ok",
            *(r.clocks.get(f"{c}_s", 0.0) / 3600 for c in ("train", "total")),
        )
        for r in records
    ]
    frame = pd.DataFrame(rows, columns=["paper", "tier", "experiment", "ok", "train", "total"])
    grouped = frame.groupby(["paper", "tier", "experiment"]).agg(
        records=("ok", "size"), good=("ok", "sum"), train=("train", "sum"), total=("total", "sum")
    )
    grouped["failed"] = grouped["records"] - grouped["good"]
    hours = {
        "training (process hours)": grouped["train"].map("{:.2f}".format),
        "all (process hours)": grouped["total"].map("{:.2f}".format),
    }
    return grouped[["records", "failed"]].assign(**hours).reset_index()


def environment_table(records: list[Record]) -> pd.DataFrame:
    """The distinct environments and versions of the code, with how many records came from each."""
    found: Counter[str] = Counter()
    texts: dict[str, dict[str, Any]] = {}
    for record in records:
        for environment in record.environment or [{}]:
            described = _described(environment) | {"code": code_name(record.code)}
            name = canonical_json(described)
            texts[name] = described
            found[name] += 1
    return pd.DataFrame([{**texts[name], "records": count} for name, count in found.most_common()])


def _described(environment: dict[str, Any]) -> dict[str, str]:
    packages = environment.get("packages", {})
    gpus = ", ".join(environment.get("gpus", []))
    return {
        "machine": f"{environment.get('cpu', 'unknown')}, {environment.get('cores', '?')} cores"
        + f", {environment.get('memory_bytes', 0) / 2**30:.0f} GiB"
        + (f"; {gpus}" if gpus else ""),
        "system": f"{environment.get('system', 'unknown')} {environment.get('machine', '')}",
        "python": str(environment.get("python", "unknown")),
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
        "threads": str(environment.get("threads", "")),
    }
