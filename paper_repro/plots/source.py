"""What a figure is drawn from: the records of one paper and tier, and which of them it shows."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from paper_repro.results import Record, Store, samples_to_frame, to_frame

TIERS = ("paper", "gpu", "cpu", "smoke")  # from the most to the least telling


@dataclass(frozen=True)
class Results:
    """Records as the frames of ``results.load`` and ``results.load_samples``; only those that succeeded.

    ``code`` names, for each key, the code that computed the record, and ``machines`` what it ran on.
    """

    paper: str
    tier: str
    metrics: pd.DataFrame
    samples: pd.DataFrame
    code: dict[str, str]
    machines: dict[str, str]

    @classmethod
    def open(cls, root: Path | str, paper: str, tier: str) -> "Results":
        """Read a results folder. Raises UserError as ``results.load`` does."""
        records = [record for record in Store(root).records(paper, tier) if record.status == "ok"]
        code = {record.key: code_name(record.code) for record in records}
        machines = {record.key: machine_name(record) for record in records}
        return cls(paper, tier, to_frame(records), samples_to_frame(records), code, machines)

    def select(
        self, experiments: tuple[str, ...], methods: tuple[str, ...] | None = None,
        models: tuple[str, ...] | None = None,
    ) -> "Results":  # fmt: skip
        """The records of these experiments and, where they are given, of these methods and models only."""
        wanted = {"experiment": experiments, "method": methods, "model": models}
        given = {column: list(names) for column, names in wanted.items() if names is not None}
        return self._where(lambda rows: rows[list(given)].isin(given).all(axis=1))

    def of_keys(self, keys: set[str]) -> "Results":
        """The records with these keys."""
        return self._where(lambda rows: rows["key"].isin(keys))

    def _where(self, chosen: Callable[[pd.DataFrame], pd.Series]) -> "Results":
        metrics, samples = self.metrics[chosen(self.metrics)], self.samples[chosen(self.samples)]
        keys = set(metrics["key"])
        return replace(self, metrics=metrics, samples=samples, code={k: c for k, c in self.code.items() if k in keys})

    @property
    def keys(self) -> list[str]:
        """Keys of the records, sorted."""
        return sorted(self.code)

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted keys: names the set of records."""
        return digest(self.keys)

    @property
    def versions(self) -> list[str]:
        """The distinct versions of the code that computed the records."""
        return sorted(set(self.code.values()))


def digest(keys: list[str]) -> str:
    """SHA-256 over record keys, whatever their order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def code_name(code: dict[str, Any]) -> str:
    """The commit of a record's code; where it was changed after that, or there was none, its source hash as well."""
    commit, source = code.get("commit"), str(code.get("source_sha256") or "unknown")[:12]
    if commit and not code.get("dirty"):
        return f"commit {commit[:12]}"
    return f"commit {commit[:12]} with changes (source {source})" if commit else f"source {source}"


def machine_name(record: Record) -> str:
    """What a record was computed on: processor, cores and threads, and the GPU of a run that used one."""
    environment = record.environment[-1] if record.environment else {}
    threads = record.protocol.get("threads") or environment.get("threads", "?")
    gpus = environment.get("gpus", []) if record.protocol.get("device") == "cuda" else []
    cores = environment.get("cores", "?")
    counts = [
        f"{count} {unit}" if count == 1 else f"{count} {unit}s"
        for count, unit in ((cores, "core"), (threads, "thread"))
    ]
    return ", ".join([*gpus, environment.get("cpu", "unknown"), *counts])


def tiers_of(root: Path | str, paper: str) -> list[str]:
    """The tiers that a results folder has records of ``paper`` for, the most telling first."""
    found = {path.parent.name for path in (Path(root) / paper).glob("*/*-s*-*.json")}
    return [tier for tier in TIERS if tier in found]


def choose_tier(root: Path | str, paper: str, wanted: str) -> tuple[str, str]:
    """The tier to draw, and a sentence that says so: ``wanted``, or else the most telling one that has records."""
    found = tiers_of(root, paper)
    if wanted in found:
        return wanted, f"Drawn from the records of {paper} at tier '{wanted}'."
    if not found:
        command = f"paper-repro run {paper} --tier {wanted}"
        return wanted, f"There are no records of {paper} here, so there is nothing to draw; '{command}' computes them."
    return found[0], f"There are no records of {paper} at tier '{wanted}' here; drawn from tier '{found[0]}' instead."
