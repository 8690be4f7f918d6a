"""Inert configuration: frozen validated models, canonical JSON, and the key that names a computation."""

import difflib
import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from paper_repro.errors import UserError


class Config(BaseModel):
    """Base of every configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def key(self) -> str:
        """SHA-256 of the canonical JSON of this configuration."""
        return sha256_key(self.model_dump(mode="json"))

    def plain(self) -> dict[str, Any]:
        """JSON values by field, without those that are None: a field that is added later, unset, changes no key."""
        return self.model_dump(mode="json", exclude_none=True)


C = TypeVar("C", bound=Config)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_key(value: Any) -> str:
    """Hexadecimal SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def load_yaml(path: Path, model: type[C]) -> C:
    """Read ``path`` as YAML and validate it as ``model``.

    Raises UserError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no config file {path}; check the name.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML ({first}); correct it.") from None
    if not isinstance(raw, Mapping):
        raise UserError(f"{path} must hold a mapping of settings, not {type(raw).__name__}.")
    return validate(raw, model, where=str(path))


def validate(raw: Mapping[str, Any], model: type[C], where: str) -> C:
    """Validate ``raw`` as ``model``; raise UserError with one sentence that starts with ``where``."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, model)}") from None


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    # A misspelt required key is both unknown and missing; what was written is the better hint.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"]]
    name = ".".join(location)
    if first["type"] == "extra_forbidden":
        valid = sorted(_fields_at(model, location[:-1]))
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.0)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"unknown key '{name}'; {hint}Valid keys: {', '.join(valid)}."
    if first["type"] == "missing":
        return f"the key '{name}' is missing; add it."
    return f"'{name}' is {first['input']!r}: {first['msg']}."


def _fields_at(model: type[BaseModel], location: list[str]) -> set[str]:
    """Names of the fields of the models that ``location`` leads to, looking through containers and unions."""
    models = {model}
    for part in location:
        found: set[type[BaseModel]] = set()
        for candidate in models:
            if part in candidate.model_fields:
                found |= _models_in(candidate.model_fields[part].annotation)
        models = found or models  # a list index or a dictionary key: stay with the element's model
    return {name for candidate in models for name in candidate.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {found for inner in typing.get_args(annotation) for found in _models_in(inner)}
