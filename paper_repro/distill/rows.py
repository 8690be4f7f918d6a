"""How the rows of a deployed student's table are stored: fp32, bf16, or int8 with one scale per row.

Rows are padded with zeros to a whole number of vectors of ``LANES`` columns, so that no kernel needs a remainder loop.
An int8 row ends with its scale (fp32): one look-up finds both in the same cache lines.
"""

from typing import Literal

import numpy as np

from paper_repro.distill.lookup import LANES, SCALE

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

_LARGEST = 127
_TINY = np.finfo(np.float32).tiny
_STORED: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "bf16": np.dtype("<u2"), "int8": np.dtype("i1")}


def stored_dtype(precision: Precision) -> np.dtype:
    """What a column is stored as; bf16 as the upper half of a float32."""
    return _STORED[precision]


def stored_columns(dim: int, precision: Precision) -> int:
    """Columns of a stored row, padding (and in int8 the scale's bytes) included."""
    return -(-(dim + (SCALE if precision == "int8" else 0)) // LANES) * LANES


def encode(rows: np.ndarray, precision: Precision) -> np.ndarray:
    """``rows`` (finite float32 [N, dim]) as they are stored, [N, stored_columns].

    bf16 rounds to nearest, ties to even. int8 is ``round(x / scale)`` with scale max |x| / 127 of the row.
    """
    count, dim = rows.shape
    stored = np.zeros((count, stored_columns(dim, precision)), dtype=stored_dtype(precision))
    if precision == "int8":
        scale = int8_scale(rows)
        stored[:, :dim] = np.rint(rows / scale[:, None])
        stored[:, -SCALE:] = scale[:, None].view(np.int8)
    else:
        stored[:, :dim] = rows if precision == "fp32" else to_bf16(rows)
    return stored


def decode(stored: np.ndarray, dim: int, precision: Precision) -> np.ndarray:
    """The float32 rows [N, dim] that ``stored`` stands for."""
    if precision == "bf16":
        return (stored[:, :dim].astype(np.uint32) << 16).view(np.float32)
    if precision == "int8":
        return stored[:, :dim].astype(np.float32) * np.ascontiguousarray(stored[:, -SCALE:]).view(np.float32)
    return stored[:, :dim].astype(np.float32)


def int8_scale(rows: np.ndarray) -> np.ndarray:
    """Scale of each row, float32 [N]: never 0, nor so small that it has lost digits."""
    return np.maximum(np.abs(rows).max(axis=1) / np.float32(_LARGEST), _TINY)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Finite float32 values as the upper 16 bits (uint16) of their nearest bf16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
