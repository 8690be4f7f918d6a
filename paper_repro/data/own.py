"""A user's own parquet file as a data set: columns text,label or img,label.

The file has no official test split, so one is cut (our choice): 20 % of each class, seed 0, rows with identical input
kept on one side. The fingerprint covers the file's bytes and this rule.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_repro.config import sha256_key
from paper_repro.data.load import parquet_rows, sha256_of
from paper_repro.data.manifest import Columns, DatasetInfo, SplitInfo
from paper_repro.data.splits import stratified_split
from paper_repro.errors import UserError

if TYPE_CHECKING:
    import datasets

TEST_FRACTION = 0.2
TEST_SEED = 0
MIN_PER_CLASS = 5  # so that train, validation and test can each have one


def open_own(path: Path, split: str) -> tuple["datasets.Dataset", DatasetInfo, str]:
    """The "train" or "test" part of a parquet file, its description and its fingerprint.

    Labels are integers or strings; classes are their sorted values. Images are encoded files (bytes, or the Hub's
    struct of bytes and path). Raises UserError, in one sentence, for a file that cannot be used.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the path given as data.")
    if split not in ("train", "test"):
        raise UserError(f"Your own file {path} has the splits train and test, no '{split}'; choose one of them.")
    rule = {"test_fraction": TEST_FRACTION, "seed": TEST_SEED, "groups": "identical input"}
    fingerprint = sha256_key({"file": sha256_of(path), "rule": rule, "split": split})
    table, column, classes, labels, rows, _ = _read(path, sha256_of(path))
    chosen = rows[split]
    info = DatasetInfo(
        name=str(path),
        modality="image" if column == "img" else "text",
        source="own",
        licence="yours",
        columns=Columns(input=column, label="label"),
        splits={name: SplitInfo(rows=len(part)) for name, part in rows.items()},
    )
    return _dataset(table.take(chosen), column, classes, labels[chosen]), info, fingerprint


@functools.lru_cache(maxsize=2)
def _read(path: Path, sha256: str) -> tuple[Any, str, list[str], np.ndarray, dict[str, np.ndarray], np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if parquet_rows(path) == 0:
        raise UserError(f"{path} has no rows; give a file with examples.")
    names = pq.ParquetFile(path).schema_arrow.names
    column = next((name for name in ("text", "img") if name in names), None)
    if column is None or "label" not in names:
        raise UserError(f"{path} has the columns {', '.join(names)}; it needs text,label or img,label.")
    try:
        table = pq.read_table(path, columns=[column, "label"]).combine_chunks()
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{path} is truncated or damaged; replace it with a good copy.") from None
    inputs = _inputs(path, table, column)
    classes, labels = _labels(path, table.column("label"))
    groups = np.unique(np.array([hash_of(value) for value in inputs]), return_inverse=True)[1]
    parts = stratified_split(labels, TEST_FRACTION, TEST_SEED, groups=groups)
    return table, column, classes, labels, {"train": parts.train, "test": parts.validation}, groups


def rows_of(path: Path, split: str) -> np.ndarray:
    """Row numbers int64 [N] in the file of the examples of a part."""
    *_, rows, _ = _read(path, sha256_of(path))
    return rows[split]


def repeated_inputs(path: Path) -> np.ndarray | None:
    """Group number int64 [N] of each row of the "train" part: equal where inputs are. None where all differ."""
    *_, rows, groups = _read(path, sha256_of(path))
    found = groups[rows["train"]]
    return None if len(np.unique(found)) == len(found) else found.astype(np.int64)


def hash_of(value: str | bytes) -> str:
    """A short content hash, equal for equal inputs."""
    import hashlib

    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()[:32]


def _inputs(path: Path, table: Any, column: str) -> list[Any]:
    import pyarrow as pa

    values = table.column(column)
    if column == "img" and pa.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        values = values.combine_chunks().field("bytes")
    kind = values.type
    fits = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if column == "text":
        fits = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not fits:
        wanted = "text" if column == "text" else "encoded image files (bytes)"
        raise UserError(f"The column {column} of {path} holds {kind}; it must hold {wanted}.")
    if values.null_count:
        raise UserError(f"The column {column} of {path} has {values.null_count} empty values; remove these rows.")
    return values_of(path, column, values)


def values_of(path: Path, name: str, column: Any) -> list[Any]:
    """The values of a column of a parquet file. Raises UserError for text that is not UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise UserError(f"The column {name} of {path} holds text that is not UTF-8; write it anew as UTF-8.") from None


def _labels(path: Path, column: Any) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa

    values = values_of(path, "label", column)
    bad = sum(value is None or value != value for value in values)
    if bad:
        raise UserError(f"The column label of {path} has {bad} missing values (null or NaN); remove these rows.")
    if pa.types.is_floating(column.type):
        if not all(value.is_integer() for value in values):
            raise UserError(f"The column label of {path} holds fractions; it must hold integers or strings.")
        values = [int(value) for value in values]
    elif not all(isinstance(value, int | str) for value in values):
        raise UserError(f"The column label of {path} holds {column.type}; it must hold integers or strings.")
    classes = sorted(set(values))
    number = {label: position for position, label in enumerate(classes)}
    labels = np.array([number[value] for value in values], dtype=np.int64)
    if len(classes) < 2:
        raise UserError(f"{path} holds only the class {classes[0]!r}; a classification needs at least two.")
    sizes = np.bincount(labels)
    if sizes.min() < MIN_PER_CLASS:
        rare = classes[int(sizes.argmin())]
        raise UserError(
            f"The class {rare!r} of {path} has {sizes.min()} examples; give at least {MIN_PER_CLASS} of each class."
        )
    return [str(label) for label in classes], labels


def _dataset(table: Any, column: str, classes: list[str], labels: np.ndarray) -> "datasets.Dataset":
    import datasets

    kind = datasets.Image() if column == "img" else datasets.Value("string")
    values = table.column(column).to_pylist()
    if column == "img":
        values = [{"bytes": value if isinstance(value, bytes) else value["bytes"], "path": None} for value in values]
    features = datasets.Features({column: kind, "label": datasets.ClassLabel(names=classes)})
    return datasets.Dataset.from_dict({column: values, "label": labels.tolist()}, features)
