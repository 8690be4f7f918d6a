"""The result record: everything needed to judge, redo or distrust one cell."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from paper_repro.config import Config
from paper_repro.errors import UserError

SCHEMA = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # from version n to n + 1
Status = Literal["ok", "failed", "oom", "timeout", "skipped"]


def _undefined_is_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_list(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


Value = Annotated[float | None, BeforeValidator(_undefined_is_none)]
Values = Annotated[list[Value], BeforeValidator(_to_list)]


class Metric(Config):
    """One number. ``value`` is None where it is undefined (an accuracy over nothing); ``n``: examples it is over."""

    name: str
    value: Value
    unit: str
    split: str
    selection: Literal["last", "best_on_val"] = "last"
    n: int | None = None

    @classmethod
    def of_training(cls, name: str, value: float, unit: str) -> "Metric":
        """A number about training itself: a time, a count, a setting."""
        return cls(name=name, value=float(value), unit=unit, split="train")


class Record(BaseModel):
    """One cell that ran, or tried to.

    ``key`` is the sha256 of the cell's configuration; ``samples`` holds raw series (numpy arrays are accepted);
    ``clocks`` are seconds; ``environment`` has one entry for each environment the cell ran on; ``error`` is the one
    line that says why ``status`` is not ok.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(SCHEMA, alias="schema")
    paper: str
    experiment: str
    tier: str
    dataset: str
    model: str
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    status: Status = "ok"
    error: str | None = None
    metrics: list[Metric] = Field(default_factory=list)
    samples: dict[str, Values] = Field(default_factory=dict)
    clocks: dict[str, float] = Field(default_factory=dict)
    cost: dict[str, float | None] = Field(default_factory=dict)
    protocol: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)  # fingerprint, and sha256 of the indices of the validation split
    environment: list[dict[str, Any]] = Field(default_factory=list)
    code: dict[str, Any] = Field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""

    def metric(self, name: str, split: str = "test") -> float | None:
        """The value of a metric; raises KeyError when the record has none of that name and split."""
        for metric in self.metrics:
            if (metric.name, metric.split) == (name, split):
                return metric.value
        raise KeyError((name, split))

    def to_json(self) -> str:
        """JSON with one line per field and per metric: small, and readable in a diff."""
        fields = self.model_dump(mode="json", by_alias=True)
        lines = [f"  {_line(name)}: {_block(value)}" for name, value in fields.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def parse(text: str, path: Path) -> Record:
    """The record that ``text`` holds.

    Raises UserError, naming ``path``, for malformed JSON, for a schema newer than ``SCHEMA`` and for bad fields.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run the cell again.") from None
    version = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a result record (it has no integer 'schema'); move it elsewhere.")
    if version > SCHEMA:
        raise UserError(f"{path} has result schema {version}, this version reads up to {SCHEMA}; update paper_repro.")
    while version < SCHEMA:
        if version not in MIGRATIONS:
            raise UserError(f"{path} has result schema {version}, which cannot be migrated; run the cell again.")
        raw = MIGRATIONS[version](raw)
        version += 1
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is not a valid record ('{name}': {first['msg']}); run the cell again.") from None


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _block(value: Any) -> str:
    """``value`` on one line, unless it is a list or mapping of containers: then one line per element."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(f"    {_line(item)}" for item in value) + "\n  ]"
    if isinstance(value, dict) and any(isinstance(item, list) for item in value.values()):
        return "{\n" + ",\n".join(f"    {_line(name)}: {_line(item)}" for name, item in value.items()) + "\n  }"
    return _line(value)
