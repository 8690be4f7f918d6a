"""Teacher logits, computed once: a content-addressed store that notices what has changed.

A logit matrix is named by everything that decides it (teacher weights, preprocessing, data, dtype). Opening one checks
the file's bytes against their checksum and recomputes a few rows, so neither a damaged file nor a teacher, tokenizer
or row order that differs from the one in the name goes unnoticed.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from paper_repro.config import Config, sha256_key
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir
from paper_repro.seeds import numpy_rng

SCHEMA = 1
VERIFIED_ROWS = 64
TOLERANCE = 1e-2  # of the largest logit looked at: above what device, batch and half precision change (our choice)

Compute = Callable[[np.ndarray], np.ndarray]


class LogitSpec(Config):
    """What decides teacher logits: their name in the store is the hash of these fields."""

    weights: str  # weights_sha256(teacher)
    preprocessing: str  # what happens between stored data and model input, with precision, e.g. "cifar10-mean-std fp32"
    data: str  # fingerprint of the split
    dtype: Literal["float16", "float32"] = "float32"

    def key(self) -> str:
        """SHA-256 over the fields and the store's own version."""
        return sha256_key({"schema": SCHEMA, **self.model_dump(mode="json")})


class TeacherLogits:
    """The store: one folder ``<root>/<key>/`` with ``logits.npy`` and ``meta.json``, renamed into place as a whole."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_dir() / "logits" if root is None else root

    def get(self, spec: LogitSpec, compute: Compute, n: int) -> np.ndarray:
        """The teacher's logits [n, C] of dtype ``spec.dtype``, memory-mapped and read-only.

        ``compute(indices)`` returns the logits [len(indices), C] of these examples (int64 [B]). It is called for all
        of them the first time, and for 64 on every later opening.

        Raises UserError when the file is damaged, does not belong to ``spec`` and ``n``, or when ``compute`` no
        longer gives the stored values.
        """
        folder = self.root / spec.key()
        if not folder.exists():
            self._write(folder, spec, compute, n)
            return _map(folder)
        logits = _checked(folder, spec, n)
        rows = np.sort(numpy_rng(0, "logits", key=spec.key()).choice(n, min(n, VERIFIED_ROWS), replace=False))
        stored, again = logits[rows].astype(np.float32), np.asarray(compute(rows), dtype=np.float32)
        scale = float(np.abs(stored).max())
        if again.shape != stored.shape or not np.allclose(again, stored, rtol=0.0, atol=TOLERANCE * scale):
            raise UserError(
                f"The teacher does not give the logits stored in {folder} any more: it, its preprocessing or the order "
                f"of the data has changed; delete that folder and they are computed again."
            )
        return logits

    def _write(self, folder: Path, spec: LogitSpec, compute: Compute, n: int) -> None:
        logits = np.ascontiguousarray(compute(np.arange(n)), dtype=spec.dtype)
        if logits.ndim != 2 or len(logits) != n:
            raise UserError(f"A teacher must give one row of logits for each of {n} examples, not {logits.shape}.")
        if not np.isfinite(logits).all():
            raise UserError(f"The teacher's logits are not all finite as {spec.dtype}; check the teacher or the dtype.")
        self.root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.root, prefix=f".{folder.name[:12]}."))
        try:
            with open(draft / "logits.npy", "wb") as file:
                np.save(file, logits, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            meta = {
                "schema": SCHEMA,
                "spec": spec.model_dump(mode="json"),
                "examples": n,
                "classes": logits.shape[1],
                "sha256": _file_sha256(draft / "logits.npy"),
            }
            (draft / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
            draft.chmod(0o755)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first with the same content
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers; blind to device and memory format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checked(folder: Path, spec: LogitSpec, n: int) -> np.ndarray:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        intact = meta["sha256"] == _file_sha256(folder / "logits.npy")
        belongs = meta["spec"] == spec.model_dump(mode="json") and meta["examples"] == n
    except (OSError, ValueError, KeyError, TypeError):
        intact, belongs = False, True
    if not intact:
        raise UserError(f"The teacher logits in {folder} are damaged; delete that folder and they are computed again.")
    if not belongs:
        raise UserError(
            f"The teacher logits in {folder} are those of another teacher or data set ({meta['examples']} examples, "
            f"{n} wanted); delete that folder and they are computed again."
        )
    return _map(folder)


def _map(folder: Path) -> np.ndarray:
    logits: np.ndarray = np.load(folder / "logits.npy", mmap_mode="r", allow_pickle=False)
    return logits


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
