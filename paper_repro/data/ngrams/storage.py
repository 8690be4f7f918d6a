"""The file of a vocabulary: a header that vouches for itself, then the arrays as they are in memory.

``PRNGRAMS``, version and length of the header (two little-endian uint32), SHA-256 of the header, the header (JSON: n,
analyzer, fingerprint, and of each array its name, place in the file and length), the arrays, each at a multiple of 64
bytes, little-endian. Nothing is read but the header: arrays are mapped. Their content is not checked (that would cost
reading all of it), but their places and the length of the file are.
"""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.config import canonical_json
from paper_repro.data.ngrams.characters import Analyzer
from paper_repro.errors import UserError
from paper_repro.paths import write_atomic

MAGIC = b"PRNGRAMS"
VERSION = 1  # raise when the arrays or what they mean change: older files are then refused
ALIGNMENT = 64
ARRAYS = {
    "counts": "<i8", "lengths": "<u1", "heads": "<i4", "lasts": "<i4", "offsets": "<i8", "pool": "<u1", "words": "<u8",
    "pairs": "<u8",
}  # fmt: skip
_FIXED = len(MAGIC) + 8 + 32


def write(path: Path, n: int, analyzer: Analyzer, fingerprint: str, arrays: dict[str, np.ndarray]) -> None:
    """Write a vocabulary; the file appears whole or not at all."""
    places, end = {}, 0
    for name in ARRAYS:
        places[name] = [end, len(arrays[name])]
        end += -(-arrays[name].nbytes // ALIGNMENT) * ALIGNMENT
    header = canonical_json({"n": n, "analyzer": analyzer, "fingerprint": fingerprint, "arrays": places}).encode()
    numbers = np.array([VERSION, len(header)], dtype="<u4").tobytes()
    content = [_padded(MAGIC + numbers + hashlib.sha256(header).digest() + header)]
    content += [_padded(arrays[name].astype(kind, copy=False).tobytes()) for name, kind in ARRAYS.items()]
    write_atomic(path, b"".join(content))


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % ALIGNMENT)


def read(path: Path) -> tuple[int, Analyzer, dict[str, np.ndarray], str]:
    """(n, analyzer, arrays, fingerprint) of a file; the arrays are read-only and mapped.

    Raises UserError for a file that is missing, truncated, of another version or of another kind.
    """
    try:
        with open(path, "rb") as file:
            fixed = file.read(_FIXED)
            if not fixed.startswith(MAGIC):
                raise UserError(f"{path} is not a vocabulary of n-grams; give a file that Vocabulary.save has written.")
            version, length = np.frombuffer(fixed[len(MAGIC) :].ljust(8, b"\0"), dtype="<u4", count=2).tolist()
            if len(fixed) == _FIXED and version != VERSION:
                raise UserError(
                    f"{path} is a vocabulary of version {version}, and this program reads version {VERSION}; "
                    "build the vocabulary again."
                )
            header = file.read(min(length, 1 << 16))
            if hashlib.sha256(header).digest() != fixed[-32:]:
                raise UserError(f"{path} is truncated or damaged; build the vocabulary again.")
            raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except OSError as error:
        raise UserError(f"The vocabulary {path} cannot be read ({error.strerror}); check the path.") from None
    known: dict[str, Any] = json.loads(header)
    start = -(-(_FIXED + length) // ALIGNMENT) * ALIGNMENT
    arrays = {}
    for name, kind in ARRAYS.items():
        place, count = known["arrays"][name]
        end = start + place + count * np.dtype(kind).itemsize
        if start + -(-(end - start) // ALIGNMENT) * ALIGNMENT > len(raw):
            raise UserError(f"{path} is truncated; build the vocabulary again.")
        arrays[name] = raw[start + place : end].view(kind)
    if len(raw) != start + -(-(place + arrays[name].nbytes) // ALIGNMENT) * ALIGNMENT:
        raise UserError(f"{path} is longer than it should be; build the vocabulary again.")
    return known["n"], known["analyzer"], arrays, known["fingerprint"]
